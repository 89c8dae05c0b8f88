"""``<repository>/<model>/<version>/``: models, their versions, their files."""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from legato.core.errors import ConfigError, join_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from legato.repository.triton.gen import model_config_pb2 as pb

CONFIG: Final = "config.pbtxt"
TRITON_CLASS: Final = "TritonPythonModel"
_LEGATO_CLASSES = ("Model", "RowModel")

BACKENDS: Final = {
    # backend: (platform, runtime, names that its file may have)
    "onnxruntime": ("onnxruntime_onnx", "onnx", ("model.onnx",)),
    "openvino": ("", "openvino", ("model.xml",)),
    "pytorch": ("pytorch_libtorch", "torch", ("model.pt", "model.pt2")),
    "python": ("", "python", ("model.py",)),
}
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    **{name: name for name in BACKENDS},
}


def check_repository(folder: Path) -> None:
    """Refuse a repository that is not there.

    Raises:
        ConfigError: It is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"failed to stat file {folder}",
            key="--model-repository",
            fix="name a folder that holds a folder for each model",
        )


def inside(folder: Path, name: str, key: str) -> Path:
    """Return a file that a config names; it lies in the folder.

    Raises:
        ConfigError: It does not: a client who may give configs may not name any file.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ConfigError(f"'{name}' must name a file in {folder}", key=key)
    return folder / path


def find_models(repository: Path) -> list[Path]:
    """List the model folders of a repository.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return sorted(p for p in repository.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(repository)) from None


def find_versions(model: Path) -> list[int]:
    """List the versions of a model: positive numbers without a leading zero; others do not count.

    Raises:
        ConfigError: The folder cannot be read.
    """
    try:
        names = [path.name for path in model.iterdir() if path.is_dir()]
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(model)) from None
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal() and n[0] != "0")


def served_versions(found: list[int], policy: pb.ModelVersionPolicy) -> list[int]:
    """Pick the versions that a policy serves; by default the newest one."""
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return found
    if choice == "specific":
        return [version for version in found if version in policy.specific.versions]
    return found[-(policy.latest.num_versions or 1) :]


def backend_of(config: pb.ModelConfig, folder: Path) -> str:
    """Return the name of the backend: as configured, or by the file that is there.

    Args:
        config: The model's config.
        folder: Folder of a version.

    Raises:
        ConfigError: It is none that is served here, or nothing tells it.
    """
    name = config.backend or _PLATFORMS.get(config.platform, config.platform)
    if name in BACKENDS:
        return name
    if name == "ensemble" or config.HasField("ensemble_scheduling"):
        raise ConfigError(
            "ensembles are not served here", key="platform", fix="call its models one by one"
        )
    if name:
        raise ConfigError(
            f"unable to find backend library for backend '{name}'",
            key="backend",
            fix=f"those that are served here are {join_names(list(BACKENDS))}",
        )
    for backend, (_platform, _runtime, files) in BACKENDS.items():
        if any(
            (folder / file).exists() for file in (config.default_model_filename, *files) if file
        ):
            return backend
    raise ConfigError(
        f"must specify 'platform' or 'backend' for {config.name}, and no model file is found "
        f"in {folder}",
        file=str(folder.parent / CONFIG),
        fix="put model.onnx, model.xml, model.pt or model.py there",
    )


def model_file(config: pb.ModelConfig, folder: Path, backend: str) -> Path:
    """Return the file of a version.

    Raises:
        ConfigError: It is not there.
    """
    names = BACKENDS[backend][2]
    if config.default_model_filename:
        names = (config.default_model_filename,)
    for name in names:
        path = inside(folder, name, "default_model_filename")
        if path.is_dir() and (path / names[0]).is_file():
            return path / names[0]  # weights kept beside the graph, in a folder of its name
        if path.is_file():
            return path
    raise ConfigError(
        f"failed to stat file {folder / names[0]}",
        file=str(folder),
        key="default_model_filename",
        fix="put the model there, or name its file",
    )


def python_class(file: Path) -> str:
    """Return the class of a ``model.py``: Triton's, or the one that is a Legato model.

    The source is read and not run: whose interface it speaks decides who runs it, and how.

    Raises:
        ConfigError: It does not parse, or has no such class.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(file)) from None
    names = {name for node in ast.walk(tree) for name in _defined(node)}
    if TRITON_CLASS in names:
        return TRITON_CLASS
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found = [node.name for node in classes if any(map(_is_legato, node.bases))]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"has no class '{TRITON_CLASS}', and "
        + (f"several Legato models: {join_names(found)}" if found else "no Legato model"),
        file=str(file),
        fix=f"name the class '{TRITON_CLASS}', or leave one that extends legato.model.Model",
    )


def _defined(node: ast.AST) -> Iterator[str]:
    """Names of classes that a statement defines or imports."""
    if isinstance(node, ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.ImportFrom):
        yield from (alias.asname or alias.name for alias in node.names)
    elif isinstance(node, ast.Assign):
        yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _is_legato(base: ast.expr) -> bool:
    name = base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")
    return name in _LEGATO_CLASSES


def stamp(folder: Path) -> bytes:
    """Digest names, sizes and times of all files below a folder."""
    state = hashlib.md5(usedforsecurity=False)
    for root, folders, files in os.walk(folder):
        folders.sort()
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in sorted(files):
            try:
                stat = (Path(root) / name).stat()
            except OSError:
                continue
            state.update(f"{root}/{name}:{stat.st_size}:{stat.st_mtime_ns}|".encode())
    return state.digest()
