"""Python models: the user's own class with declared state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from legato.core.errors import ConfigError
from legato.runtimes import gate
from legato.runtimes.python.api import Model
from legato.runtimes.python.declaration import check_step, signature_of
from legato.runtimes.python.loading import Loaded, forget, load_class, user_line
from legato.runtimes.python.runtime import PythonRuntime
from legato.runtimes.rehearsal import RehearsalError, find_size

if TYPE_CHECKING:
    from legato.core.types import Signature
    from legato.repository.config import ModelConfig
    from legato.runtimes.python.api import RowModel

__all__ = ["PythonRuntime", "load"]


def load(config: ModelConfig) -> PythonRuntime:
    """Import the class that ``entry`` names, load it and check what it declares.

    Raises:
        ConfigError: The entry, the file, the class or its declarations are wrong, or
            ``load`` of the class failed; the message names file, key and fix.
    """
    _refuse_tensors(config)
    loaded = load_class(config)
    try:
        check_step(loaded.cls, str(loaded.file))
        model = _ready(loaded, config)
        signature = signature_of(model, file=str(loaded.file), batching=config.batching != "off")
        if config.gate and config.batching == "auto":
            signature = _gated(model, signature, loaded)
    except BaseException:
        forget(loaded.package)
        raise
    return PythonRuntime(model, signature, loaded)


def _gated(model: Model | RowModel, signature: Signature, loaded: Loaded) -> Signature:
    """See whether a class that takes a batch keeps its rows apart.

    Only a difference in numbers overrules the class: a model may well refuse made-up rows.
    """
    if not (isinstance(model, Model) and signature.batching):
        return signature
    trial = PythonRuntime(model, signature, loaded, hooks=False)
    try:
        size = find_size(trial)
    except RehearsalError as error:
        return replace(signature, why=f"the class says so; not checked, it refused: {error}")
    verdict = gate.check(trial, np.random.default_rng(0), size=size)
    if verdict.ran:
        return replace(signature, batching=verdict.ok, why=verdict.why)
    return replace(signature, why=f"the class says so; not checked: {verdict.why}")


def _refuse_tensors(config: ModelConfig) -> None:
    """The class is the one place that declares tensors."""
    for key, value in (
        ("inputs", config.inputs),
        ("outputs", config.outputs),
        ("states", config.states),
    ):
        if value:
            raise ConfigError(
                "the tensors of a Python model are declared in its class",
                file=str(config.folder / "model.yaml"),
                key=key,
                fix=f"remove '{key}' here and set {key} = [...] in {config.entry or 'the class'}",
            )


def _ready(loaded: Loaded, config: ModelConfig) -> Model | RowModel:
    """Make the user's object and let it load."""
    name = loaded.cls.__name__
    try:
        model = loaded.cls()
        model.folder = config.folder
        model.threads = config.threads
        model.load(config.options)
    except ConfigError:
        raise
    except Exception as error:
        where = user_line(error, loaded.file.parent)
        raise ConfigError(
            f"{name} could not be loaded: {type(error).__name__}: {error}"
            + (f" ({where})" if where else ""),
            file=str(loaded.file),
            key=f"{name}.load",
            fix="look at that line; options come from 'options' of model.yaml",
        ) from error
    return model
