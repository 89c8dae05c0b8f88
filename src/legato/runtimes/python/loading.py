"""From ``entry: file.py:Class`` to the user's class.

A model's folder is imported as a package of its own name, so two models may
each have a ``dsp.py``; siblings are imported relatively (``from .dsp import x``).
"""

from __future__ import annotations

import importlib
import sys
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import ConfigError, join_names
from legato.runtimes.python.api import Model, RowModel

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig

    AnyClass = type[Model | RowModel]

_EXAMPLE = "entry: model.py:Counter"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A user's class and where it came from.

    Attributes:
        cls: The class.
        file: The user's file.
        package: Name under which the folder was imported; see :func:`forget`.
    """

    cls: AnyClass
    file: Path
    package: str


class Imported(NamedTuple):
    """The user's module, the name wanted of it, its file and its package."""

    module: ModuleType
    name: str
    file: Path
    package: str


def load_class(config: ModelConfig) -> Loaded:
    """Import the class that ``entry`` names.

    Raises:
        ConfigError: No entry, no such file, the file does not import (with the
            user's line), or no such class in it.
    """
    yaml = str(config.folder / "model.yaml")
    module, class_name, file, package = import_entry(config)
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, Model | RowModel)):
        forget(package)
        raise _class_error(module, cls, file, yaml, class_name)
    return Loaded(cls, file, package)


def import_entry(config: ModelConfig) -> Imported:
    """Import the file that ``entry`` names; its package is forgotten again if that fails.

    Raises:
        ConfigError: No entry, no such file, or the file does not import (with the
            user's line).
    """
    yaml = str(config.folder / "model.yaml")
    file, class_name = _entry(config, yaml)
    package = f"legato_model_{uuid.uuid4().hex}"
    parent = ModuleType(package)
    parent.__path__ = [str(file.parent)]
    sys.modules[package] = parent
    try:
        module = importlib.import_module(f"{package}.{file.stem}")
    except BaseException as error:
        forget(package)
        if isinstance(error, Exception):
            raise _import_error(error, file) from error
        raise
    return Imported(module, class_name, file, package)


def forget(package: str) -> None:
    """Drop the modules of a model's folder, so that a later load reads them anew."""
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        del sys.modules[name]


def user_line(error: BaseException, folder: Path) -> str:
    """``file.py, line 7: text`` of the innermost place in the user's own files, or ``""``."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}: {(error.text or '').strip()}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if Path(frame.filename).is_relative_to(folder):
            return f"{Path(frame.filename).name}, line {frame.lineno}: {frame.line}"
    return ""


def _entry(config: ModelConfig, yaml: str) -> tuple[Path, str]:
    """File and class name of ``entry``."""
    if not config.entry:
        raise ConfigError(
            "a Python model needs the file and class to serve", file=yaml, key="entry", fix=_EXAMPLE
        )
    name, colon, class_name = config.entry.rpartition(":")
    if not (colon and name.endswith(".py") and class_name.isidentifier()):
        raise ConfigError(
            f"'{config.entry}' is not of the form file.py:Class",
            file=yaml,
            key="entry",
            fix=_EXAMPLE,
        )
    file = (config.folder / name).resolve()
    if not file.is_file():
        found = sorted(path.name for path in file.parent.glob("*.py"))
        raise ConfigError(
            f"there is no file {file}",
            file=yaml,
            key="entry",
            fix=f"one of {join_names(found)}" if found else f"put {name} beside model.yaml",
        )
    if not file.stem.isidentifier():
        raise ConfigError(
            f"'{file.name}' cannot be imported: its name is not a Python name",
            file=yaml,
            key="entry",
            fix=f"rename it, for example to {_as_identifier(file.stem)}.py",
        )
    return file, class_name


def _as_identifier(stem: str) -> str:
    name = "".join(c if c.isalnum() else "_" for c in stem)
    return name if name.isidentifier() else f"model_{name}"


def _import_error(error: Exception, file: Path) -> ConfigError:
    where = user_line(error, file.parent)
    problem = f"the file cannot be imported: {type(error).__name__}: {error}"
    fix = "run it with python to see the whole traceback"
    if isinstance(error, ModuleNotFoundError) and error.name:
        fix = f"install '{error.name}' in the server's environment"
        if (file.parent / f"{error.name}.py").is_file():
            fix = f"import files of the model's folder relatively: from .{error.name} import ..."
    return ConfigError(problem + (f" ({where})" if where else ""), file=str(file), fix=fix)


def _class_error(
    module: ModuleType, cls: object, file: Path, yaml: str, class_name: str
) -> ConfigError:
    if cls is not None:
        return ConfigError(
            f"'{class_name}' is not a Model or RowModel",
            file=str(file),
            key=class_name,
            fix=f"from legato.model import Model; class {class_name}(Model): ...",
        )
    found = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Model | RowModel)
        and value.__module__ == module.__name__
    ]
    fix = f"one of {join_names(found)}" if found else f"class {class_name}(Model): ..."
    return ConfigError(f"{file.name} has no class '{class_name}'", file=yaml, key="entry", fix=fix)
