"""From ``handler: file:function`` to something that takes a batch."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from legato.core.errors import ConfigError
from legato.runtimes.torchserve import lru
from legato.runtimes.torchserve.helpers import list_classes_from_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from legato.repository.config import ModelConfig
    from legato.runtimes.torchserve.context import Context

_OWN_PATH = Path(__file__).parent / "path"


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
        classes = [
            kind
            for kind in list_classes_from_module(module)
            if callable(getattr(kind, "handle", None))
        ]
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


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
        return importlib.import_module(f"ts.torch_handler.{name}")


def _fix(error: Exception) -> str:
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
    if envelope not in ("body", "json"):
        raise ConfigError(
            f"the envelope '{envelope}' is not supported",
            key="service_envelope",
            fix="use 'body' or 'json', or none",
        )

    def call(data: list[Any], context: Context) -> Any:
        rows = [
            row.get("data") or row.get("body") if isinstance(row, dict) else row for row in data
        ]
        if envelope == "body":
            return entry.call(rows, context)
        parts = [row.get("instances", [row]) if isinstance(row, dict) else [row] for row in rows]
        answers = iter(entry.call([item for part in parts for item in part], context))
        return [{"predictions": [next(answers) for _item in part]} for part in parts]

    return entry._replace(call=call)
