"""From ``handler: file:function`` to something that takes a batch."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from legato.core.errors import ConfigError
from legato.runtimes.torchserve import envelopes, lru
from legato.runtimes.torchserve.helpers import list_classes_from_module
from legato.runtimes.torchserve.needs import GUIDE, refuse_the_rest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from legato.repository.config import ModelConfig
    from legato.runtimes.torchserve.context import Context

BUILT_IN: Final = (
    "base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier",
)  # fmt: skip
"""Handlers that an archive may name without having them."""

_OWN_PATH: Final = Path(__file__).parent / "path"
_BUILT_IN: Final = "ts.torch_handler"
_THEIRS: Final = ("dali_handler", "dali_image_classifier", "trt_llm_handler", "vllm_handler")


class Entry(NamedTuple):
    """A handler that is ready.

    Attributes:
        call: Takes data and context, gives a list.
        module: Where it was found.
        handler: The object, ``None`` for a function.
    """

    call: Callable[[list[Any], Context], Any]
    module: ModuleType
    handler: Any


def prepare(folder: Path) -> None:
    """Make the world that handlers expect: their folder, the ``ts`` package, our ``lru``."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.path.insert(1, str(_OWN_PATH))
    sys.modules["lru"] = lru  # before an lru-dict that lies beside the handler
    refuse_the_rest()


def load_entry(config: ModelConfig, context: Context) -> Entry:
    """Import the handler and let it initialise.

    Raises:
        ConfigError: There is none, or it failed.
    """
    spec = str(config.options["handler"])
    name, _, function = spec.partition(":")
    name = PurePosixPath(name).name.removesuffix(".py")
    try:
        module = _import(name)
        found = getattr(module, function or "handle", None)
        if callable(found):
            found(None, context)
            return _wrapped(Entry(found, module, None), config)
        classes = [kind for kind in _own(module) if callable(getattr(kind, "handle", None))]
        if function or len(classes) != 1:
            raise ConfigError(
                f"'{spec}' has no function '{function or 'handle'}' "
                f"and {len(classes)} handler classes",
                file=str(config.folder),
                key="handler",
                fix="define one function of that name, or one class with a method 'handle'",
            )
        handler = classes[0]()
        handler.initialize(context)
    except ConfigError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise ConfigError(
            f"the handler could not be loaded: {type(error).__name__}: {error}",
            file=str(config.folder),
            key="handler",
            fix=_fix(error),
        ) from error
    return _wrapped(Entry(handler.handle, module, handler), config)


def _own(module: ModuleType) -> list[type]:
    """List the classes that a module is there for; those of the built-in ones are ours."""
    if module.__name__.startswith(f"{_BUILT_IN}."):
        return [getattr(module, name) for name in module.__all__]
    return list_classes_from_module(module)


def _import(name: str) -> ModuleType:
    """Import a handler from the archive, else a built-in one.

    Raises:
        ConfigError: There is neither.
        ImportError: It cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
    built_in = f"{_BUILT_IN}.{name}"
    try:
        return importlib.import_module(built_in)
    except ModuleNotFoundError as error:
        if error.name != built_in or name in _THEIRS:
            raise
        raise ConfigError(
            f"the archive has no {name}.py, and no built-in handler has that name",
            key="handler",
            fix=f"pack it with --handler FILE, or name one of {', '.join(BUILT_IN)}",
        ) from None


def _fix(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and "ts." in str(error):
        return f"{GUIDE} lists what of TorchServe handlers find"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"install '{error.name}' in the server's environment, or pack it as a requirement "
            "(--requirements-file) and set install_py_dep_per_model=true"
        )
    return "the traceback is in the log"


# -- envelopes ------------------------------------------------------------------------


def _wrapped(entry: Entry, config: ModelConfig) -> Entry:
    envelope = config.options.get("envelope")
    if not envelope:
        return entry
    kind = envelopes.NAMES.get(envelope)
    if kind is None:
        raise ConfigError(
            f"there is no envelope '{envelope}'",
            key="service_envelope",
            fix=f"use one of {', '.join(envelopes.NAMES)}, or none",
        )
    return entry._replace(call=kind(entry.call).handle)
