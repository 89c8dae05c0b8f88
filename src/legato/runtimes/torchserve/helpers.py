"""``ts.utils``, ``ts.handler_utils``: small things that handlers import."""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import itertools
import json
import logging
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from legato.runtimes.torchserve.answers import send_intermediate_predict_response

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

__all__ = [
    "CLEANUP_REGEX",
    "PT2Backend",
    "PredictionException",
    "check_valid_pt2_backend",
    "get_yaml_config",
    "import_class",
    "list_classes_from_module",
    "load_label_mapping",
    "map_class_to_label",
    "send_intermediate_predict_response",
    "timed",
]

_log = logging.getLogger("ts")

CLEANUP_REGEX = re.compile(r"<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")


class PT2Backend(enum.StrEnum):
    """Backends of ``torch.compile`` that TorchServe knows by name."""

    EAGER = "eager"
    AOT_EAGER = "aot_eager"
    INDUCTOR = "inductor"
    NVFUSER = "nvfuser"
    AOT_NVFUSER = "aot_nvfuser"
    AOT_CUDAGRAPHS = "aot_cudagraphs"
    OFI = "ofi"
    FX2TRT = "fx2trt"
    ONNXRT = "onnxrt"
    IPEX = "ipex"


class PredictionException(Exception):  # noqa: N818 - TorchServe's name
    """A handler's own error, with the status that the client gets."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """List the classes that a module itself defines."""
    return [
        member
        for _name, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__
        and (parent_class is None or issubclass(member, parent_class))
    ]


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """Import a class by its name: ``module.Class``, or ``Class`` of the module ``module_prefix``.

    Raises:
        ImportError: There is no such class.
    """
    module, _, name = (class_name or "").rpartition(".")
    place = ".".join(filter(None, (module_prefix, module)))
    if not name or not place:
        raise ImportError(f"'{class_name}' names no class of a module")
    found = getattr(importlib.import_module(place), name, None)
    if not isinstance(found, type):
        raise ImportError(f"{place} has no class {name}")  # noqa: TRY004 - it is an import
    return found


def load_label_mapping(mapping_file_path: str) -> Any:
    """Read ``index_to_name.json``; ``None`` where there is none."""
    path = Path(mapping_file_path)
    if not path.is_file():
        _log.warning("%s is missing: answers will have no names", path)
        return None
    mapping = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise TypeError("index_to_name mapping should be in 'class':'label' json format")
    found = mapping.get("object_type_names", mapping)
    if isinstance(found, list):
        return {str(number): str(name) for number, name in enumerate(found)}
    return {
        key: value if isinstance(value, str | int) else value[-1] for key, value in found.items()
    }


def map_class_to_label(
    probs: Any, mapping: Any = None, lbl_classes: Any = None
) -> list[dict[str, Any]]:
    """Name the probabilities of each row."""
    if not isinstance(probs, list):
        raise TypeError("Convert classes to list before doing mapping")
    if mapping is not None and not isinstance(mapping, dict):
        raise TypeError("Mapping must be a dict")
    classes = lbl_classes or itertools.repeat(range(len(probs[0])), len(probs))
    return [
        {
            (mapping[str(label)] if mapping is not None else str(label)): prob
            for label, prob in zip(*row, strict=False)
        }
        for row in zip(classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str) -> dict[str, Any]:
    """Read a YAML file."""
    found = yaml.safe_load(Path(yaml_file_path).read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def check_valid_pt2_backend(backend: str) -> bool:
    """Tell whether a backend has a name that is known."""
    return backend in {known.value for known in PT2Backend}


def timed(func: Callable[..., Any]) -> Callable[..., Any]:
    """Measure a stage of a handler where its YAML says ``handler.profile: true``."""

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        section = (getattr(context, "model_yaml_config", None) or {}).get("handler") or {}
        if not section.get("profile"):
            return func(self, *args, **kwargs)
        started = time.perf_counter()
        result = func(self, *args, **kwargs)
        if context is not None and context.metrics is not None:
            took_ms = (time.perf_counter() - started) * 1e3
            context.metrics.add_time(f"ts_handler_{func.__name__}", took_ms)
        return result

    return wrapper
