"""From the path of a ``model.py`` to a model that is initialised."""

from __future__ import annotations

import copy
import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from legato.core.errors import ConfigError
from legato.runtimes.torchserve import lru
from legato.runtimes.torchserve.values import register
from legato.runtimes.triton_python import lookups
from legato.runtimes.triton_python.model_config import ModelConfig as Completed

if TYPE_CHECKING:
    from types import ModuleType

    from legato.repository.config import ModelConfig

CLASS: Final = "TritonPythonModel"
_OWN_PATH: Final = Path(__file__).parent / "path"


def load_module(config: ModelConfig) -> ModuleType:
    """Import the file, with its neighbours and ``triton_python_backend_utils`` to be found.

    Raises:
        ConfigError: There is no such file, or it cannot be imported.
    """
    file = config.file
    if file is None or not file.is_file():
        raise ConfigError(
            f"there is no file {file}", file=str(config.folder), key="default_model_filename",
            fix="put the model's Python file into the folder of its version",
        )  # fmt: skip
    # As Triton has it: the model's own folders come last, and it is a module of its version.
    sys.path += [str(_OWN_PATH), str(file.parent), str(file.parent.parent)]
    sys.dont_write_bytecode = True  # a repository is watched for changes of its files
    sys.modules["lru"] = lru  # entries of an lru-dict could not be moved
    lookups.set_model_dir(str(file.parent))
    try:
        if file.parent.name.isdecimal():
            return importlib.import_module(f"{file.parent.name}.{file.stem}")
        return importlib.import_module(file.stem)
    except Exception as error:
        traceback.print_exc()
        raise ConfigError(
            f"{file.name} cannot be imported: {type(error).__name__}: {error}",
            file=str(config.folder), key="model.py", fix=_fix(error),
        ) from error  # fmt: skip


def _fix(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"install '{error.name}' in the server's environment, or name the folder of one that "
            "has it as EXECUTION_ENV_PATH"
        )
    return "the traceback is in the log"


def home(config: ModelConfig) -> Path:
    """Return the model's folder, in which the folders of its versions are."""
    file = config.file or config.folder
    return file.parent.parent if file.parent.name.isdecimal() else file.parent


_WHOLE: Final = {
    "dims", "shape", "versions", "max_queue_delay_microseconds", "max_sequence_idle_microseconds",
    "default_timeout_microseconds",
}  # fmt: skip
_DEFAULTS: Final[dict[str, Any]] = {
    "platform": "", "backend": "python", "max_batch_size": 0, "input": [], "output": [],
    "parameters": {}, "instance_group": [], "default_model_filename": "model.py",
}  # fmt: skip
_TENSOR_DEFAULTS: Final[dict[str, Any]] = {
    "input": {"format": "FORMAT_NONE", "is_shape_tensor": False, "allow_ragged_batch": False,
              "optional": False},
    "output": {"label_filename": "", "is_shape_tensor": False},
}  # fmt: skip


def as_given(config: ModelConfig) -> dict[str, Any]:
    """Return Triton's configuration as models know it: numbers as numbers, nothing left out."""
    given: dict[str, Any] = _with_numbers(config.origin)
    for key, value in _DEFAULTS.items():
        given.setdefault(key, copy.deepcopy(value))
    for what, defaults in _TENSOR_DEFAULTS.items():
        given[what] = [{**defaults, **entry} for entry in given[what]]
    return given


def _with_numbers(value: Any, key: str = "") -> Any:
    """JSON of protobuf has its 64-bit numbers as text."""
    if isinstance(value, dict):
        return {name: _with_numbers(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_numbers(inner, key) for inner in value]
    return int(value) if key in _WHOLE and isinstance(value, str) else value


def class_of(module: ModuleType, config: ModelConfig) -> type:
    """Find the model's class.

    Raises:
        ConfigError: There is none, or it has no ``execute``.
    """
    kind = getattr(module, CLASS, None)
    if not isinstance(kind, type) or not callable(getattr(kind, "execute", None)):
        raise ConfigError(
            f"{module.__name__} has no class '{CLASS}' with a method 'execute'",
            file=str(config.folder), key="model.py",
            fix=f"define 'class {CLASS}' with 'execute(self, requests)'",
        )  # fmt: skip
    return kind


def completed(kind: type, config: ModelConfig) -> dict[str, Any]:
    """Return Triton's configuration, completed by the model where it does that.

    Raises:
        ConfigError: The model failed to.
    """
    given = as_given(config)
    complete = getattr(kind, "auto_complete_config", None)
    if complete is None:
        return given
    try:
        made = complete(Completed(given))
        return (made if isinstance(made, Completed) else Completed(given)).as_dict()
    except Exception as error:
        traceback.print_exc()
        raise ConfigError(
            f"auto_complete_config failed: {type(error).__name__}: {error}",
            file=str(config.folder), key="auto_complete_config", fix="the traceback is in the log",
        ) from error  # fmt: skip


def initialised(kind: type, config: ModelConfig, model_config: dict[str, Any]) -> Any:
    """Make the model and let it initialise.

    Raises:
        ConfigError: It failed to.
    """
    arguments = {
        "model_config": json.dumps(model_config),
        "model_name": config.name,
        "model_version": config.version,
        "model_repository": str(home(config)),
        "model_instance_name": instance_name(config),
        **place(model_config),
    }
    try:
        model = kind()
        initialize = getattr(model, "initialize", None)
        if initialize is not None:
            initialize(arguments)
    except Exception as error:
        traceback.print_exc()
        raise ConfigError(
            f"initialize failed: {type(error).__name__}: {error}",
            file=str(config.folder), key="model.py", fix=_fix(error),
        ) from error  # fmt: skip
    return model


def place(model_config: dict[str, Any]) -> dict[str, str]:
    """Say where the model shall compute: what its first instance group says."""
    group: dict[str, Any] = next(iter(model_config.get("instance_group", ())), {})
    if group.get("kind") != "KIND_GPU":
        return {"model_instance_kind": "CPU", "model_instance_device_id": "0"}
    devices = group.get("gpus") or [0]
    return {"model_instance_kind": "GPU", "model_instance_device_id": str(devices[0])}


def instance_name(config: ModelConfig) -> str:
    """Return what Triton calls the instance; here all of a model have the same name."""
    return f"{config.name}_0_0"


def own_classes(config: ModelConfig) -> frozenset[type]:
    """Find the classes of the model's own code, and let plain ones among them be encoded."""
    folder = home(config).resolve()
    found: set[type] = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).resolve().is_relative_to(folder):
            continue
        found |= {
            kind
            for kind in vars(module).values()
            if isinstance(kind, type) and kind.__module__ == module.__name__
        }
    for kind in found:
        if _is_plain(kind, found):
            register(f"{kind.__module__}.{kind.__qualname__}", kind)
    return frozenset(found)


_SPECIAL: Final = (
    "__slots__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__del__",
    "__enter__", "__setattr__",
)  # fmt: skip


def _is_plain(kind: type, own: set[type]) -> bool:
    """Tell whether the objects of a class are nothing but their attributes."""
    lineage = kind.__mro__[:-1]
    return all(base in own for base in lineage) and not any(
        name in vars(base) for base in lineage for name in _SPECIAL
    )
