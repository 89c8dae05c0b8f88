"""Legato: a server for stateful models.

Steps of a sequence run in order, are committed before they are answered, and
are applied exactly once. ``docs/design.md`` is the shape of the house.

The client's names are here too (``legato.Client``); what they need is imported when
they are first used. ``__init__.pyi`` says what they are.
"""

import importlib

__version__ = "0.1.0"
"""Single source of the version: the package's metadata is read from here."""

_CLIENT = (
    "AsyncClient",
    "AsyncSequence",
    "Client",
    "InvalidInputError",
    "ModelFailedError",
    "ModelInfo",
    "Outputs",
    "Sequence",
    "SequenceError",
    "SequenceGoneError",
    "StateLostError",
    "StepConflictError",
    "TensorInfo",
    "UnavailableError",
    "UnknownModelError",
)


def __getattr__(name: str) -> object:
    """Import the client when one of its names is asked for."""
    if name in _CLIENT:
        return getattr(importlib.import_module("legato.client"), name)
    raise AttributeError(f"module 'legato' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is here, and what would be imported."""
    return sorted({*globals(), *_CLIENT})
