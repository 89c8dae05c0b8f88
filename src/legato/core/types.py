"""The nouns of Legato: steps, replies, states, records. Pure data.

Arrays are carried, never computed on. One convention holds everywhere: **a row
keeps its batch axis, with size 1**. A client's tensor, a row of state and a row
of output all have the model's own axis order; a batch is rows laid side by side
on the batch axis.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from legato.core.errors import ServerError

    Array = np.ndarray[Any, Any]

CorrelationId = int | str
"""A client's name for a sequence: uint64 or string, kept apart (7 is not "7")."""


class SequenceKey(NamedTuple):
    """What names a sequence."""

    model: str
    correlation_id: CorrelationId


# -- dialects: the rules as data ------------------------------------------------------


class StartOfLive(enum.Enum):
    """What START of a live id does when it carries no step number."""

    RESTART = "restart"
    REFUSE = "refuse"


class WhenFull(enum.Enum):
    """What happens to a new sequence beyond the limit."""

    QUEUE = "queue"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one protocol's sequences behave (design, section 4)."""

    name: str
    start_of_live: StartOfLive = StartOfLive.REFUSE
    unknown_opens: bool = False
    server_gives_id: bool = False
    when_full: WhenFull = WhenFull.REFUSE


KSERVE = Dialect("kserve", start_of_live=StartOfLive.RESTART, when_full=WhenFull.QUEUE)
TFSERVING = Dialect("tfserving", server_gives_id=True)
TORCHSERVE = Dialect("torchserve", unknown_opens=True, server_gives_id=True)
NATIVE = Dialect("native", server_gives_id=True)


# -- tensors and states ---------------------------------------------------------------


class InputKind(enum.Enum):
    """How an input of a model is fed."""

    DATA = "data"  # a row a step, stacked on the batch axis
    SCALAR = "scalar"  # no batch axis; rows of a batch must agree on its value
    CONTROL = "control"  # made by the server


class ControlKind(enum.Enum):
    """What a control input tells the model about the step."""

    START = "start"
    NOT_START = "not_start"
    END = "end"
    READY = "ready"
    CORRELATION_ID = "correlation_id"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model, as a client sees it.

    Attributes:
        name: Tensor name.
        dtype: Numpy dtype name (``float32``, ``int64``, ``bool``, ``object`` for BYTES).
        shape: Row shape with the batch axis as 1 and -1 for any size; ``()`` for rank 0.
        batch_axis: Where rows are laid side by side; ``None`` for inputs without one.
        kind: How an input is fed.
        default: Value used when a client leaves the input out; ``None`` = required.
        optional: The input may be left out and is then not fed.
        control: What a control input tells, with its false and true values.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    batch_axis: int | None = 0
    kind: InputKind = InputKind.DATA
    default: Any = None
    optional: bool = False
    control: ControlKind | None = None
    control_values: tuple[Any, Any] = (0, 1)


class UpdateRule(enum.Enum):
    """How the next value of a state is made."""

    REPLACE = "replace"  # the output is the next value
    KEEP_IF_EMPTY = "keep_if_empty"  # ... unless it has no elements
    WRITE_ONCE = "write_once"  # set at the first step, constant afterwards
    APPEND = "append"  # grows on ``axis``
    WINDOW = "window"  # last ``size`` samples of data input ``input``, put before the new ones


@dataclass(frozen=True, slots=True)
class StateSpec:
    """A named tensor carried from step to step.

    Attributes:
        name: Unique within the model; by default the input's name.
        input: Model input that takes the value (for WINDOW: the data input it is put before).
        output: Model output that gives the next value; ``None`` for WINDOW and for
            WRITE_ONCE values that the client sends with the first step.
        dtype: Numpy dtype name.
        shape: Row shape with the batch axis as 1; -1 = varies (0 at the start).
        batch_axis: Batch axis of the tensor; states of one model may differ.
        rule: Update rule.
        axis: Axis of APPEND and WINDOW.
        size: Samples kept by WINDOW.
        append_new_only: APPEND: the output holds only the new entries (else the whole value).
        max_length: APPEND: longest value allowed on ``axis``; 0 = no bound.
        initial: First value of a row (an array of the row shape), ``None`` = zeros.
        ragged: Rows of different sizes share a model call: the runtime takes and gives an
            object array of one ``bytes`` a row. Only for ``uint8`` of shape ``(1, -1)``, replaced.
    """

    name: str
    input: str
    output: str | None
    dtype: str
    shape: tuple[int, ...]
    batch_axis: int = 0
    rule: UpdateRule = UpdateRule.REPLACE
    axis: int = 0
    size: int = 0
    append_new_only: bool = False
    max_length: int = 0
    initial: Any = None
    ragged: bool = False

    @property
    def first_shape(self) -> tuple[int, ...]:
        """Row shape of the first value: a size that varies is that of ``initial``, or 0."""
        given = getattr(self.initial, "shape", ())
        sizes = given if len(given) == len(self.shape) else (0,) * len(self.shape)
        return tuple(
            size if want == -1 else want for want, size in zip(self.shape, sizes, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a loaded model takes, gives and carries.

    Attributes:
        inputs: What clients send (DATA, SCALAR) and what the server makes (CONTROL).
            State inputs are not listed.
        outputs: What clients get. State outputs are listed only where asked for.
        states: What is carried; empty for a stateless model.
        batching: Rows may share a model call.
        why: One sentence on the batching verdict, shown to people.
        platform: For display, e.g. ``onnxruntime_onnx``.
        asks: The model looks at the requests behind its rows: their ids, the outputs asked for.
        most_rows: Most rows of a call, if the model itself says that; 0 = the config does.
        decoupled: A request may get any number of answers, as the model itself says.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()
    batching: bool = True
    why: str = ""
    platform: str = ""
    asks: bool = False
    most_rows: int = 0
    decoupled: bool = False


class StateRow(NamedTuple):
    """The state of one sequence: immutable bytes a tensor, in the order of ``Signature.states``.

    Attributes:
        data: Row-major little-endian bytes of each tensor. Of a
            :class:`~legato.core.pages.GrownRow` a part may be pages of bytes.
        shapes: Row shape of each tensor (batch axis as 1); one shared tuple
            where all shapes are fixed.
    """

    data: tuple[bytes, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def nbytes(self) -> int:
        """Bytes of state, without overhead."""
        return sum(map(len, self.data))


# -- records ------------------------------------------------------------------------------


class EndReason(enum.Enum):
    """How a sequence ended. The value completes the sentence "it ... at step 3"."""

    ENDED = "ended"
    EXPIRED = "expired"
    EVICTED = "was evicted"
    CANCELLED = "was cancelled"
    DISPLACED = "was displaced by a new START"
    FAILED = "failed"
    ROLLED_BACK = "was rolled back"
    LOST = "lost its state with the worker that kept it"


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a sequence, kept for a retention time after its end.

    ``at`` is wall-clock seconds by the store's clock, for display only.
    """

    reason: EndReason
    step: int
    at: float


class Receipt(NamedTuple):
    """The stored reply of a committed step.

    Attributes:
        step: Step number.
        request_id: The client's id for the request, UTF-8, ``b""`` for none.
        digest: 8-byte digest of the input; for a step without a number, 8 bytes that no
            other step has; ``b""`` where none was taken.
        response: Encoded reply, see :mod:`legato.core.reply`.
    """

    step: int
    request_id: bytes
    digest: bytes
    response: bytes


@dataclass(slots=True)
class RecordHead:
    """What is durable for a sequence, besides its state.

    A head that a store gives out is the caller's own copy: the engine moves
    ``step`` and ``receipts`` of its copy forward after each commit.

    Attributes:
        incarnation: 16 random bytes drawn when the sequence was created.
        epoch: How often the sequence changed owner.
        step: Steps applied so far; 0 is a state just created.
        receipts: Replies of the last steps, newest last (at least one after step 1).
        version: Model version the sequence is pinned to.
        model_digest: Content of the model that wrote the state (hex).
        dialect: Name of the dialect it was opened in, for display.
        created: Wall-clock seconds, for display.
        ttl_s: Idle seconds after which it expires; 0 = never.
        level: Durability level, see :class:`Durability`.
        ending: Set once the sequence is over; the record is then a tombstone.
    """

    incarnation: bytes
    epoch: int
    step: int
    receipts: tuple[Receipt, ...]
    version: str
    model_digest: str
    dialect: str
    created: float
    ttl_s: float
    level: str
    ending: Ending | None = None


class Durability(enum.Enum):
    """What an acknowledged step survives (spec durability, section 3)."""

    NONE = "none"
    PROCESS = "process"
    DISK = "disk"
    REPLICATED = "replicated"


# -- steps and replies -----------------------------------------------------------------------


class OutputHeader(NamedTuple):
    """Name, dtype and shape of one output of a reply."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(slots=True)
class Reply:
    """The answer to a step.

    Attributes:
        headers: One an output; the same tuple object for all rows of a batch, so
            that a protocol can serialise it once.
        data: Row-major little-endian bytes an output (BYTES: each element after a
            4-byte length).
        correlation_id: Id of the sequence (server-made where asked for).
        step: Number of the step; 0 for stateless models.
        version: Model version that ran.
        replayed: A stored reply, given again.
        durability: Level that the step reached.
        incarnation: 16 bytes, ``b""`` for stateless models.
    """

    headers: tuple[OutputHeader, ...]
    data: tuple[bytes, ...]
    correlation_id: CorrelationId
    step: int
    version: str
    replayed: bool = False
    durability: str = "none"
    incarnation: bytes = b""


def _ignore(_outcome: Reply | ServerError) -> None:
    """Default callback of a step."""


class Step:
    """One request that advances a sequence once.

    A plain class with class-level defaults: a step is made for every request, and
    most of its attributes keep their default.

    Attributes:
        model: Model name.
        correlation_id: ``None``, 0 or "" = not given.
        inputs: Tensor name to array, batch axis of size 1 included. Arrays may be
            read-only views of wire bytes; they are not kept after the step.
        dialect: The rules of the protocol it came through.
        done: Called once, on the event loop, with a Reply or a ServerError.
        version: Model version asked for; "" = the pinned one, else the default.
        start, end: Begin / end the sequence with this step.
        restart: A numbered START may replace a live sequence.
        number: Step number; 0 = next.
        request_id: The client's name for this request; any text.
        acknowledged: Highest step the client holds a reply of; 0 = not said.
        incarnation: Incarnation the client expects; ``b""`` = any.
        outputs: Output names asked for; empty = all.
        deadline: Monotonic seconds after which it must not begin; ``None`` = none.
        queue_timeout_s: Seconds it may wait in a backlog; 0 = no limit.
        priority: 0 = default, 1 = highest.
        parameters: The user's own parameters, handed to Python models.
        ttl_s: Idle limit wanted for a new sequence; ``None`` = the model's.
        level: Durability wanted for a new sequence; "" = the server's.
        partial: Takes an answer that is not the last one, on the event loop, before ``done``:
            its bytes and what the model says of it. Answers of a continued stream were
            committed before; those that a handler sends in the middle of a call were not,
            because TorchServe's wire demands them at once (the one exception to D1).
        again: How often it was run before: each run but the last gave a part of the answer.
        asked_as: ``request_id`` of a request that is run again; its further steps have none.
        empty_final: The client wants a last answer also where it would be empty.
        cancelled, arrived, digest, group: Filled in by the engine.
    """

    version: str = ""
    start: bool = False
    end: bool = False
    restart: bool = False
    number: int = 0
    request_id: str = ""
    acknowledged: int = 0
    incarnation: bytes = b""
    outputs: tuple[str, ...] = ()
    deadline: float | None = None
    queue_timeout_s: float = 0.0
    priority: int = 0
    parameters: Mapping[str, Any] = MappingProxyType({})
    ttl_s: float | None = None
    level: str = ""
    partial: Callable[[bytes, dict[str, Any]], None] | None = None
    cancelled: bool = False
    again: int = 0
    asked_as: str = ""
    empty_final: bool = False
    arrived: float = 0.0
    digest: bytes = b""
    group: Any = None

    def __init__(
        self,
        model: str,
        correlation_id: CorrelationId | None,
        inputs: Mapping[str, Array],
        dialect: Dialect,
        done: Callable[[Any], None] = _ignore,
        **options: Any,
    ) -> None:
        self.model = model
        self.correlation_id = correlation_id
        self.inputs = inputs
        self.dialect = dialect
        self.done = done
        for name, value in options.items():
            if name not in Step.__annotations__:
                msg = f"a step has no attribute {name!r}"
                raise TypeError(msg)
            setattr(self, name, value)

    def __repr__(self) -> str:
        flags = " start" * self.start + " end" * self.end
        return f"<Step {self.model}/{self.correlation_id!r} number={self.number}{flags}>"
