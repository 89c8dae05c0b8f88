"""TorchServe archives on disk: unpack, read manifest and YAML, install requirements.

A ``.mar`` is a zip file, any other file a gzipped tar whose entries sit under one folder, and
a folder is used where it lies. Nothing that is unpacked leaves the target folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import orjson
import yaml

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MANIFEST: Final = PurePosixPath("MAR-INF/MANIFEST.json")
_PREFIX: Final = "legato-torchserve-"
_NO_CONTENT: Final = ("MAR-INF", "__pycache__")
_PIP_LIMIT_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive that lies unpacked on disk.

    Attributes:
        folder: Where its files are.
        manifest: ``MANIFEST.json``, ``None`` where there is none.
        keys: The model's YAML file; empty where there is none.
        files: What the model is made of, relative to ``folder``: all files but the manifest and
            the YAML file, whose limits may change without the model being another one.
    """

    folder: Path
    manifest: Mapping[str, Any] | None
    keys: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def model(self) -> Mapping[str, Any]:
        """The part of the manifest that describes the model."""
        found = (self.manifest or {}).get("model")
        return found if isinstance(found, dict) else {}


def open_archive(path: Path, workspace: Path | None = None) -> Archive:
    """Unpack an archive, if it is one, and read what it says of itself.

    Args:
        path: ``.mar``, ``.tar.gz``, ``.tgz`` or a folder.
        workspace: Where to unpack; ``None`` = a folder of this process among the temporary ones.

    Raises:
        ConfigError: It is missing, broken, or would write outside its folder.
    """
    if path.is_dir():
        folder = _only_folder(path)
    elif path.is_file():
        folder = _unpacked(path, workspace or _own_workspace())
    else:
        raise ConfigError("Model not found at this place", file=str(path), fix="check the path")
    manifest = _manifest(folder)
    named = (manifest or {}).get("model")
    config = named.get("configFile") if isinstance(named, dict) else None
    keys = _yaml(folder, config) if config else {}
    return Archive(folder, manifest, keys, tuple(_content(folder, config)))


# -- unpacking ------------------------------------------------------------------------


def _only_folder(path: Path) -> Path:
    """Step into a folder that holds one folder and nothing else."""
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else path


def _own_workspace() -> Path:
    """Make the folder of this process, and clear away those of processes that are gone."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(f"{_PREFIX}*"):
        owner = left.name.removeprefix(_PREFIX)
        if owner.isdecimal() and not _lives(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    own = base / f"{_PREFIX}{os.getpid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.stat().st_uid != os.getuid():
        raise ConfigError("belongs to another user", file=str(own), fix="remove it, or set TMPDIR")
    return own


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _unpacked(path: Path, workspace: Path) -> Path:
    """Unpack into a folder named by content, so that one archive is unpacked once."""
    with path.open("rb") as stream:
        name = hashlib.file_digest(stream, "sha256").hexdigest()[:32]
    target = workspace / name
    if target.is_dir():
        return target
    workspace.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="new-", dir=workspace))
    try:
        if path.suffix == ".mar" or zipfile.is_zipfile(path):
            _unzip(path, fresh)
        else:
            _untar(path, fresh)
        fresh.rename(target)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if target.is_dir():  # another thread was quicker
            return target
        raise ConfigError(
            f"cannot be unpacked: {error}", file=str(path), fix="make it with torch-model-archiver"
        ) from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return target


def _unzip(path: Path, target: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            place = _inside(target, PurePosixPath(item.filename), path)
            if item.is_dir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(item) as source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _untar(path: Path, target: Path) -> None:
    with tarfile.open(path, "r:*") as archive:
        for item in archive:
            parts = [part for part in PurePosixPath(item.name).parts if part != "."]
            place = _inside(target, PurePosixPath(*parts[1:]), path)
            if ".." in parts or PurePosixPath(item.name).is_absolute():
                raise _escapes(path, item.name)
            if item.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            source = archive.extractfile(item) if item.isreg() else None
            if source is None or len(parts) < 2:
                continue  # links and devices are no part of a model
            place.parent.mkdir(parents=True, exist_ok=True)
            with source, place.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _inside(target: Path, name: PurePosixPath, archive: Path) -> Path:
    if name.is_absolute() or ".." in name.parts:
        raise _escapes(archive, str(name))
    return target / name


def _escapes(archive: Path, name: str) -> ConfigError:
    return ConfigError(f"holds '{name}', which lies outside of it", file=str(archive))


# -- reading --------------------------------------------------------------------------


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / _MANIFEST
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"is not valid JSON: {error}", file=str(path)) from None
    if not isinstance(found, dict):
        raise ConfigError("holds no object", file=str(path))
    return found


def _yaml(folder: Path, name: object) -> dict[str, Any]:
    path = folder / PurePosixPath(str(name)).name
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(path)) from None
    return found if isinstance(found, dict) else {}


def _content(folder: Path, config: object) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        part = path.relative_to(folder)
        hidden = any(name in _NO_CONTENT or name.startswith(".") for name in part.parts)
        if path.is_file() and not hidden and part.as_posix() != config and path.suffix != ".pyc":
            yield part


# -- requirements ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installed:
    """Where the packages of one model are.

    Attributes:
        python: Interpreter of the model's own environment; ``""`` = the server's.
        path: Folder to import from after the model's own.
    """

    python: str = ""
    path: str = ""


def install_requirements(archive: Archive, workspace: Path, name: str, *, venv: bool) -> Installed:
    """Install what ``requirementsFile`` asks for, for this model alone.

    Args:
        archive: The model.
        workspace: Where its packages go.
        name: The model's name, for messages.
        venv: Into an environment of its own, which sees the server's packages too.

    Raises:
        ConfigError: pip failed.
    """
    file = archive.model.get("requirementsFile")
    if not file:
        return Installed()
    wanted = archive.folder / PurePosixPath(str(file)).name
    workspace.mkdir(parents=True, exist_ok=True)
    if not venv:
        target = workspace / "packages"
        _pip(
            [_own_python(), "-E", "-m", "pip", "install", "-q", "-U", "-t", target, "-r", wanted],
            name,
        )
        return Installed(path=str(target))
    home = workspace / "venv"
    _pip([_own_python(), "-E", "-m", "venv", "--system-site-packages", home], name)
    python = home / "bin" / "python"
    _pip(
        [python, "-E", "-m", "pip", "install", "-q", "-U", "--upgrade-strategy", "only-if-needed",
         "-r", wanted],
        name,
    )  # fmt: skip
    return Installed(python=str(python))


def _own_python() -> str:
    """Return the interpreter of this environment; inside Envoy ``sys.executable`` is Envoy."""
    for name in (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python"):
        candidate = Path(sys.prefix) / "bin" / name
        if candidate.exists():
            return str(candidate)
    return sys.executable


def _pip(command: list[Any], name: str) -> None:
    done = subprocess.run(  # noqa: S603 - the user's own requirements file, asked for by the user
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=_PIP_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            f"Custom pip package installation failed for model {name}: {done.stderr.strip()[-800:]}"
        )
