"""Find what to serve: paths on the command line become :class:`ModelConfig` objects.

What a path may be:

- a model file (``.onnx``, ``.ort``, OpenVINO's ``.xml``, PyTorch's ``.pt`` and ``.pt2``): served
  under its stem, with defaults;
- a ``model.yaml``, or a folder that holds one: one model, by default named as the folder;
- a model folder without ``model.yaml``: the only model file in it, or ``model.onnx``;
- a model folder with numbered subfolders ``1/``, ``2/``: one version each, under one
  ``model.yaml`` beside them or each with its own;
- a folder of all these.

Names that begin with a dot or an underscore are passed over.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from legato.core.errors import ConfigError, join_names
from legato.repository.config import ModelConfig
from legato.repository.digest import content_digest
from legato.repository.manifest import Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MANIFEST", "MODEL_SUFFIXES", "content_digest", "load_paths"]

MANIFEST = "model.yaml"
MODEL_SUFFIXES = (".onnx", ".ort", ".xml", ".pt", ".pt2")
_ACCEPTED = (
    f"a model file ({', '.join(MODEL_SUFFIXES)}), a folder with model.yaml, or a folder of these"
)


def load_paths(paths: Sequence[Path]) -> list[ModelConfig]:
    """Return one config a model and version, in the order of the paths.

    ``file`` and ``folder`` of each config are absolute. Nothing but the configs is
    read: whether a model file can be run is for its runtime to say.

    Raises:
        ConfigError: A path is missing or holds no model, a config is wrong, a file
            that a config names is missing, or two models share name and version.
    """
    found: dict[tuple[str, str], tuple[ModelConfig, Path]] = {}
    for path in paths:
        for config, source in _load(path.absolute()):
            identity = (config.name, config.version)
            if identity in found:
                raise ConfigError(
                    f"version {config.version} of model '{config.name}' is already defined "
                    f"by {found[identity][1]}",
                    file=str(source),
                    fix=f"give one of them another 'name' or 'version' in its {MANIFEST}",
                )
            found[identity] = (config, source)
    return [config for config, _source in found.values()]


Found = tuple[ModelConfig, Path]


def _load(path: Path) -> list[Found]:
    if not path.exists():
        raise _no_such_path(path)
    if path.is_dir():
        models = _load_folder(path)
    elif path.suffix in MODEL_SUFFIXES:
        models = [_bare(path, path.stem, path)]
    elif path.suffix in (".yaml", ".yml"):
        models = _from_manifest(path, path.parent)
    else:
        raise ConfigError("is not something to serve", file=str(path), fix=f"give {_ACCEPTED}")
    if not models:
        raise ConfigError("no model is found here", file=str(path), fix=f"give {_ACCEPTED}")
    return models


def _load_folder(folder: Path) -> list[Found]:
    """Load one model folder, or a folder of models and model folders."""
    if _is_model_folder(folder):
        return _load_model(folder)
    models: list[Found] = []
    for path in _visible(folder):
        if path.is_dir():
            models += _load_model(path)
        elif _is_model_file(path):
            models.append(_bare(path, path.stem, path))
    return models


def _is_model_folder(folder: Path) -> bool:
    named = any(_is_model_file(folder / f"model{suffix}") for suffix in MODEL_SUFFIXES)
    return named or (folder / MANIFEST).is_file() or bool(_versions(folder))


def _load_model(folder: Path) -> list[Found]:
    """Load a folder as one model; one that holds no model at all gives nothing."""
    if (folder / MANIFEST).is_file():
        return _from_manifest(folder / MANIFEST, folder)
    models: list[Found] = []
    for version in _versions(folder):
        if (version / MANIFEST).is_file():
            models += _from_manifest(version / MANIFEST, version, folder.name, version.name)
        elif _model_files(version):
            file = _the_model_file(version)
            models.append(_bare(file, folder.name, version, version=version.name))
    if not models and _model_files(folder):
        models.append(_bare(_the_model_file(folder), folder.name, folder))
    return models


def _bare(file: Path, name: str, source: Path, version: str = "1") -> Found:
    """Make the config of a model without ``model.yaml``."""
    try:
        config = ModelConfig(
            name=name,
            version=version,
            runtime=_runtime_of(file),
            file=file,
            folder=file.parent,
        )
    except ValidationError as error:
        raise ConfigError(
            f"'{name}' cannot be the name of a model: {error.errors()[0]['msg']}",
            file=str(source),
            fix=f"rename it, or give it a folder with a {MANIFEST} that says 'name'",
        ) from None
    return config, source


def _runtime_of(file: Path) -> Literal["onnx", "openvino", "torch"]:
    """Say which runtime serves a file that no config speaks of."""
    if file.suffix in (".pt", ".pt2"):
        return "torch"
    return "openvino" if file.suffix == ".xml" else "onnx"


# -- with a model.yaml --------------------------------------------------------------


def _from_manifest(path: Path, folder: Path, name: str = "", version: str = "1") -> list[Found]:
    manifest = Manifest(path)
    defaults: dict[str, Any] = {"name": name or folder.name, "version": version}
    if "entry" in manifest.values:
        defaults["runtime"] = "python"
    config = manifest.config(defaults)
    if "folder" in manifest.values:
        raise manifest.problem(
            "cannot be set: the model's files are in the folder of this file",
            ("folder",),
            fix="remove it",
        )
    versions = _versions(folder)
    if not versions:
        return [(_complete(config, manifest, folder), path)]
    if "version" in manifest.values:
        raise manifest.problem(
            f"is given both here and by the subfolders {join_names([v.name for v in versions])}",
            ("version",),
            fix="remove it here",
        )
    for own in (v / MANIFEST for v in versions):
        if own.exists():
            raise ConfigError(
                f"stands under {path}, which holds for every version",
                file=str(own),
                fix="keep one of the two",
            )
    return [
        (_complete(config.model_copy(update={"version": v.name}), manifest, v), v) for v in versions
    ]


def _complete(config: ModelConfig, manifest: Manifest, folder: Path) -> ModelConfig:
    """Resolve the files that a config names, and see that they are there."""
    a_class = config.runtime == "python" or (config.runtime == "torch" and config.entry is not None)
    file = _check_python(config, manifest, folder) if a_class else None
    if not a_class:
        if config.entry is not None:
            raise manifest.problem(
                f"does not go with 'runtime: {config.runtime}'",
                ("entry",),
                fix="remove it, or set 'runtime: python' or 'runtime: torch'",
            )
        file = _present(config.file, "file", manifest, folder) or _the_model_file(folder, manifest)
    for index, path in enumerate(config.files):
        _present(path, ("files", index), manifest, folder)
    for index, state in enumerate(config.states or ()):
        if isinstance(state.initial, str):
            _present(Path(state.initial), ("states", index, "initial"), manifest, folder)
    update: dict[str, Any] = {"file": file, "folder": folder}
    if file is not None and "runtime" not in config.model_fields_set:
        update["runtime"] = _runtime_of(file)
    return config.model_copy(update=update)


def _check_python(config: ModelConfig, manifest: Manifest, folder: Path) -> Path | None:
    if config.entry is None:
        sources = sorted(path.name for path in folder.glob("*.py"))
        example = sources[0] if sources else "model.py"
        raise manifest.problem(
            "is missing: a Python model needs it",
            ("entry",),
            fix=f"add 'entry: {example}:ClassName'",
        )
    source, _, name = config.entry.rpartition(":")
    if not source.endswith(".py") or not name.isidentifier():
        raise manifest.problem(
            f"must name a file and a class, not '{config.entry}'",
            ("entry",),
            fix="write it as 'model.py:ClassName'",
        )
    _present(Path(source), "entry", manifest, folder)
    return _present(config.file, "file", manifest, folder)


def _present(
    path: Path | None, key: str | tuple[int | str, ...], manifest: Manifest, folder: Path
) -> Path | None:
    """Make a path that a config names absolute; it must be a file."""
    if path is None:
        return None
    full = folder / path
    if full.is_file():
        return full
    raise manifest.problem(
        f"names '{path}', which is not a file in {folder}",
        (key,) if isinstance(key, str) else key,
        fix=_near(path.name, _visible(folder)) or "put the file there, or correct the name",
    )


# -- files and folders --------------------------------------------------------------


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] not in "._")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(folder)) from None


def _versions(folder: Path) -> list[Path]:
    """List the numbered subfolders, in the order of their numbers."""
    numbered = [p for p in _visible(folder) if p.name.isdecimal() and p.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name))


def _model_files(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if _is_model_file(p)]


def _is_model_file(path: Path) -> bool:
    """Tell a model by its suffix; an ``.xml`` only beside its weights, for many files are XML."""
    if path.suffix not in MODEL_SUFFIXES or not path.is_file():
        return False
    return path.suffix != ".xml" or path.with_suffix(".bin").is_file()


def _the_model_file(folder: Path, manifest: Manifest | None = None) -> Path:
    """Return the only model file of a folder, or the one called ``model``."""
    files = _model_files(folder)
    named = [path for path in files if path.stem == "model"]
    if len(files) == 1 or len(named) == 1:
        return (named or files)[0]
    if files:
        text = f"which of {join_names([p.name for p in files])} is the model?"
        fix = f"name it in {MANIFEST}: 'file: {files[0].name}'"
    else:
        text = f"holds no model file ({', '.join(MODEL_SUFFIXES)})"
        fix = "put the model file there, or name it by 'file' (a Python model by 'entry')"
    raise ConfigError(text, file=str(folder), key="file" if manifest else "", fix=fix)


def _no_such_path(path: Path) -> ConfigError:
    fix = _near(path.name, _visible(path.parent)) if path.parent.is_dir() else ""
    return ConfigError(
        "there is no such file or folder", file=str(path), fix=fix or "check the path"
    )


def _near(name: str, candidates: Iterable[Path]) -> str:
    near = difflib.get_close_matches(name, [path.name for path in candidates], n=1)
    return f"did you mean '{near[0]}'?" if near else ""
