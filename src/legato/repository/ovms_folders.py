"""``base_path/<version>/`` of OpenVINO Model Server: versions, their policy, their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from legato.repository.ovms_schema import VersionPolicy

MAPPING = "mapping_config.json"
_REMOTE = ("s3://", "gs://", "az://", "azfs://", "http://", "https://")


class ModelFiles(NamedTuple):
    """What one version is made of.

    Attributes:
        file: What OpenVINO reads.
        others: Further files that belong to it, relative to the folder.
    """

    file: Path
    others: tuple[Path, ...] = ()


def base_folder(base_path: str, beside: Path) -> Path:
    """Return the folder of a model; a relative path is relative to the config file.

    Raises:
        ConfigError: The path is empty, climbs, or leads into a cloud.
    """
    if not base_path:
        raise ConfigError("is missing", key="base_path", fix="name the folder of the versions")
    if base_path.startswith(_REMOTE):
        raise ConfigError(
            f"'{base_path}' is not on this machine",
            key="base_path",
            fix="copy the model here, or mount the bucket",
        )
    path = Path(base_path)
    if ".." in path.parts:
        raise ConfigError(f"'{base_path}' must not contain '..'", key="base_path")
    return path if path.is_absolute() else beside / path


def find_versions(folder: Path) -> list[int]:
    """List the versions of a model: subfolders that are positive numbers; others are passed over.

    Raises:
        ConfigError: The folder cannot be read.
    """
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}", file=str(folder), key="base_path"
        ) from None
    numbers = {int(name) for name in names if name.isascii() and name.isdecimal()}
    return sorted(numbers - {0})


def version_folder(folder: Path, version: int) -> Path:
    """Return the folder of a version, however many zeros its name begins with."""
    exact = folder / str(version)
    if exact.is_dir():
        return exact
    found = (p for p in folder.iterdir() if p.name.isdecimal() and int(p.name) == version)
    return next(found, exact)


def served_versions(found: list[int], policy: VersionPolicy | None) -> list[int]:
    """Pick the versions that a policy serves; by default the newest one."""
    if policy is None:
        return found[-1:]
    if policy.all is not None:
        return found
    if policy.specific is not None:
        return [version for version in found if version in policy.specific.versions]
    count = policy.latest.num_versions if policy.latest is not None else 1
    return found[-count:]


def find_files(folder: Path) -> ModelFiles:
    """Find the model of a version: the first file of the first kind that is there.

    Raises:
        ConfigError: There is none.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(folder)) from None
    by_suffix: dict[str, Path] = {}
    for path in files:
        by_suffix.setdefault(path.suffix, path)
    if ".xml" in by_suffix and ".bin" in by_suffix:
        return ModelFiles(by_suffix[".xml"])
    if ".onnx" in by_suffix:
        return ModelFiles(by_suffix[".onnx"])
    if ".pdmodel" in by_suffix and ".pdiparams" in by_suffix:
        weights = Path(by_suffix[".pdiparams"].name)
        return ModelFiles(by_suffix[".pdmodel"], (weights,))
    if ".pb" in by_suffix:
        return _tensorflow(folder, by_suffix[".pb"])
    if ".tflite" in by_suffix:
        return ModelFiles(by_suffix[".tflite"])
    raise ConfigError(
        "holds no model",
        file=str(folder),
        fix="put .xml and .bin, .onnx, .pdmodel and .pdiparams, .pb or .tflite there",
    )


def _tensorflow(folder: Path, graph: Path) -> ModelFiles:
    """A saved model is its folder; a frozen graph is one file."""
    if graph.name != "saved_model.pb":
        return ModelFiles(graph)
    variables = sorted(p for p in (folder / "variables").glob("*") if p.is_file())
    return ModelFiles(graph, tuple(path.relative_to(folder) for path in variables))


def read_mapping(folder: Path) -> dict[str, Any]:
    """Read the public names of tensors, where a version has such a file.

    Raises:
        ConfigError: It is no JSON object.
    """
    path = folder / MAPPING
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(path)) from None
    if not isinstance(found, dict):
        raise ConfigError("holds no object", file=str(path))
    return {key: found[key] for key in ("inputs", "outputs") if key in found}
