"""What a model file declares, whoever read it: its tensors, and dimensions that were loosened."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from legato.runtimes.discovery.pairing import Dim, GraphTensor

_FREED = "legato:free"


class Graph(NamedTuple):
    """Inputs and outputs of a model.

    Attributes:
        inputs: Every input.
        outputs: Outputs that are tensors of a known dtype.
        optional: Inputs that the file has a value for.
        dropped: Outputs that cannot be served (sequences, maps), with their type.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    optional: tuple[GraphTensor, ...]
    dropped: tuple[str, ...]


def freed(axis: int) -> str:
    """Name a dimension that is 1 in the file and may be the batch all the same."""
    return f"{_FREED}{axis}"


def is_freed(dim: Dim) -> bool:
    """Tell whether a dimension is 1 in the file and was loosened."""
    return isinstance(dim, str) and dim.startswith(_FREED)
