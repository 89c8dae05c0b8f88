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
    "MicroBatching",
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

CLEANUP_REGEX = re.compile("<.*?>")


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


def import_class(module_name: str, class_name: str | None = None, module_prefix: str = "") -> type:
    """Import a class by name, or the only class of a module.

    Raises:
        ImportError: There is no such class.
    """
    name = f"{module_prefix}.{module_name}" if module_prefix else module_name
    module = importlib.import_module(name)
    if class_name is not None:
        found = getattr(module, class_name, None)
        if not isinstance(found, type):
            raise ImportError(f"{name} has no class {class_name}")
        return found
    classes = list_classes_from_module(module)
    if len(classes) != 1:
        raise ImportError(f"Expected only one class in {name}, found {len(classes)}")
    return classes[0]


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


class MicroBatching:
    """Takes a batch through a handler in parts of a few rows."""

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: dict[str, int] | None = None,
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.parallelism = dict(parallelism or {})

    def handle(self, data: list[Any]) -> list[Any]:
        """Run all parts, one after the other."""
        answers: list[Any] = []
        for at in range(0, len(data), self.micro_batch_size):
            part = data[at : at + self.micro_batch_size]
            prepared = self.handler.preprocess(part)
            answers += self.handler.postprocess(self.handler.inference(prepared))
        return answers

    __call__ = handle
