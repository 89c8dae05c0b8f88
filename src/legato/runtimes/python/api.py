"""What users write a model with; re-exported as :mod:`legato.model`.

A model declares its tensors as class attributes and gives one method. One
convention holds everywhere: **a row keeps its batch axis, with size 1**, so a
shape is written with a 1 at the batch axis, and a batch is rows laid side by
side there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from legato.core.errors import ClientError, ModelError
from legato.core.types import EndReason
from legato.runtimes.base import RowInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from legato.core.types import Array, CorrelationId

__all__ = [
    "Batch",
    "ClientError",
    "EndReason",
    "Input",
    "Model",
    "ModelError",
    "Output",
    "Result",
    "Row",
    "RowInfo",
    "RowModel",
    "State",
]


@dataclass(frozen=True, slots=True)
class Input:
    """A tensor that a client sends with every step.

    Attributes:
        name: Tensor name, unique among the inputs.
        dtype: Numpy dtype name; ``object`` for BYTES (an array of ``bytes``).
        shape: Row shape with the batch axis as 1; -1 = any size.
        batch_axis: Where rows lie side by side.
        scalar: The tensor has no batch axis; rows that share a call agree on its value.
        default: Value used when the client leaves the input out; ``None`` = required.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    batch_axis: int = 0
    scalar: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that a client gets back; attributes as of :class:`Input`."""

    name: str
    dtype: str
    shape: Sequence[int]
    batch_axis: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """A tensor that the server keeps for a sequence from one step to the next.

    Attributes:
        name: Unique among the states.
        dtype: Numpy dtype name (numbers and ``bool``).
        shape: Row shape with the batch axis as 1; -1 = varies (0 at the start).
        batch_axis: Where rows lie side by side; states of one model may differ.
        initial: Value at the start of a sequence: a number, a nested list or an
            array that fits ``shape``; ``None`` = zeros.
    """

    name: str
    dtype: str
    shape: Sequence[int]
    batch_axis: int = 0
    initial: Any = None


@dataclass(frozen=True, slots=True)
class Batch:
    """One model call: row ``i`` lies at index ``i`` of every batch axis.

    All arrays are read-only: a step that fails or is not stored runs again on the
    very same arrays, so a model returns new ones.

    Attributes:
        inputs: Input name to array.
        state: State name to array.
        rows: For each row the ``correlation_id``, the ``step`` number (the first is
            1), ``start``, ``end`` and the client's own ``parameters``.
    """

    inputs: Mapping[str, Array]
    state: Mapping[str, Array]
    rows: tuple[RowInfo, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a batch, for models that cannot batch.

    Attributes:
        inputs: Input name to read-only array, batch axis of size 1 included.
        state: State name to read-only array, batch axis of size 1 included.
        info: ``correlation_id``, ``step``, ``start``, ``end`` and ``parameters``.
    """

    inputs: Mapping[str, Array]
    state: Mapping[str, Array]
    info: RowInfo


@dataclass(frozen=True, slots=True)
class Result:
    """What a step gives: every declared output and the next value of every state.

    Attributes:
        outputs: Output name to array, same row order as the batch.
        state: State name to its next value, same row order.
        failed: Row to its error. That row's step did not happen: its sequence stays
            as it was, whatever the arrays hold there. The other rows are valid.
    """

    outputs: Mapping[str, Array]
    state: Mapping[str, Array] = field(default_factory=dict)
    failed: Mapping[int, Exception] = field(default_factory=dict)


class _Declared:
    """What :class:`Model` and :class:`RowModel` have in common."""

    inputs: Sequence[Input] = ()
    outputs: Sequence[Output] = ()
    states: Sequence[State] = ()

    batching: bool = True
    """Rows of different sequences may share a call; ``False`` = one row at a time."""

    folder: Path
    """The model's folder, set before :meth:`load`: files of the model are found from here."""

    threads: int
    """``threads`` of model.yaml, set before :meth:`load`: what a call may use."""

    def load(self, options: Mapping[str, Any]) -> None:
        """Get ready to serve: read weights, open sessions. Called once.

        ``options`` is the mapping of that name in model.yaml. Shapes that depend on
        it may be declared here (``self.states = [...]``).
        """

    def sequence_started(self, correlation_id: CorrelationId) -> None:
        """A sequence begins; called before its first step.

        Called again if that step has to run again. Whatever must survive a restart
        of the server belongs into a :class:`State`, not here.
        """

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """A sequence is over: ended, expired, cancelled, displaced..."""

    def close(self) -> None:
        """The model is unloaded: free what :meth:`load` took."""


class Model(_Declared, ABC):
    """A model over a batch of rows: declare tensors, give :meth:`step`.

    ::

        class Counter(Model):
            inputs = (Input("x", "float32", (1, 1)),)
            outputs = (Output("count", "int64", (1, 1)),)
            states = (State("count", "int64", (1, 1)),)

            def step(self, batch: Batch) -> Result:
                count = batch.state["count"] + 1
                return Result({"count": count}, {"count": count})
    """

    @abstractmethod
    def step(self, batch: Batch) -> Result:
        """Advance every row once and return outputs and next state.

        Must change nothing but what it returns: the same step may run again. An
        exception fails the call; the server then runs the rows one by one, so that
        only the guilty one fails. To fail a row at once, name it in ``failed``.
        Raise (or name) :class:`ClientError` where the request is at fault.
        """


class RowModel(_Declared, ABC):
    """A model that takes one row at a time; give :meth:`step_row`.

    Rows still share a model call, and thereby one write to the store; the server
    calls ``step_row`` for each in turn.
    """

    @abstractmethod
    def step_row(self, row: Row) -> Result:
        """Advance one row and return its outputs and next state (batch axis of size 1).

        Must change nothing but what it returns: the same step may run again. An
        exception fails this row only.
        """
