"""The contract of every store: where committed state lives.

A store holds one record a sequence and changes it only by compare-and-set
(D4). Correctness never depends on who asks: any number of owners may try.

Rules for implementers (spec durability, section 4):

- The order of tests in :meth:`Store.commit` is: Gone, Duplicate, Fenced,
  Conflict, Ok. Each entry of a batch is decided by itself (D6).
- A batch fails as a whole only by an exception, and an exception other than
  :class:`~legato.core.errors.StorageFullError` means *unknown*.
- State and responses are immutable ``bytes``; a store may keep the objects.
- Time that decides anything is read from the clock given at construction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from legato.core.types import Ending, EndReason, Receipt, RecordHead, SequenceKey, StateRow


class StoreFailedError(Exception):
    """The store can no longer be trusted to keep what it is given; the process must exit.

    Attributes:
        fatal: Tells the engine so. Recovery at the next start decides what survived.
    """

    fatal = True


class Clock(Protocol):
    """Wall-clock seconds; injected, so that tests own the time."""

    def __call__(self) -> float:
        """Return the time."""


class Commit(NamedTuple):
    """The wish to move one record from ``step - 1`` to ``step``.

    Attributes:
        key: The sequence.
        incarnation: Incarnation that the writer holds (or has drawn, for a new one).
        epoch: Epoch that the writer holds; 1 for a new sequence.
        step: Number of the step committed; the record must be at ``step - 1``.
        receipts: Receipts to keep from now on, newest (this step's) last.
        state: State after the step.
        create: The step begins an incarnation: no live record may exist, unless
            it has the incarnation ``replaces``. ``head`` fields come from below.
        replaces: Incarnation displaced by this one (restart), ``b""`` = none.
        end: The sequence is over with this step; the record becomes a tombstone
            that keeps its receipts, and the state is dropped.
        version, model_digest, dialect, ttl_s, level: As in :class:`RecordHead`.
        waited_s: Seconds since the step arrived; the idle clock stood still for them,
            so a step that waits or runs longer than the idle limit is not lost.
    """

    key: SequenceKey
    incarnation: bytes
    epoch: int
    step: int
    receipts: tuple[Receipt, ...]
    state: StateRow
    create: bool
    replaces: bytes
    end: EndReason | None
    version: str
    model_digest: str
    dialect: str
    ttl_s: float
    level: str
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ok:
    """Committed; the writer may keep its new state."""

    level: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """This very commit stands already; the writer treats it as success."""

    receipt: Receipt


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another owner has taken the sequence."""

    epoch: int
    step: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """The record is at another step, or a create found a live record."""

    step: int


@dataclass(frozen=True, slots=True)
class Gone:
    """No live record of this incarnation; ``ending`` tells why, where known."""

    ending: Ending | None


CommitResult = Ok | Duplicate | Fenced | Conflict | Gone


class Owned(NamedTuple):
    """The caller owns the sequence from now on.

    ``state`` is ``None`` when the caller's copy (``have``) is current.
    """

    head: RecordHead
    state: StateRow | None


@dataclass(frozen=True, slots=True)
class Held:
    """Another owner took it less than ``hold_s`` ago; try again shortly."""

    owner: str


class Missing(NamedTuple):
    """No live record. ``head`` is the tombstone (with ``ending`` set), where kept."""

    head: RecordHead | None


@dataclass(frozen=True, slots=True)
class Damaged:
    """The record is there but cannot be trusted (checksum, length)."""

    problem: str


AcquireResult = Owned | Held | Missing | Damaged


class Listed(NamedTuple):
    """One row of a listing.

    Attributes:
        key, head: What it is.
        state_bytes: Bytes of state.
        idle_s: Seconds since it was written.
        order: Grows with every incarnation that is made; where a listing can go on.
    """

    key: SequenceKey
    head: RecordHead
    state_bytes: int
    idle_s: float
    order: int = 0


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """Counts for metrics and people. Snapshots count among the live."""

    live: int
    tombstones: int
    stored_bytes: int
    writable: bool
    problem: str = ""


class Store(Protocol):
    """Where committed state lives. Not thread-safe: one caller at a time.

    Attributes:
        name: ``memory``, ``log``, ``sqlite``.
        level: Highest durability level that a commit reaches by default.
        inline: Commits are quick enough to run on the event loop.
    """

    name: str
    level: str
    inline: bool

    def begin(self, pause_s: float = 0.0) -> None:
        """Count time from now: until a server takes steps, no client could send any.

        Args:
            pause_s: Seconds that do not count either, for clients to come back.
        """

    def acquire(
        self,
        key: SequenceKey,
        owner: str,
        *,
        have: tuple[bytes, int] | None = None,
        hold_s: float = 0.25,
    ) -> AcquireResult:
        """Take ownership; the epoch grows if the owner changes."""

    def commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        """Decide and write each entry; results in the same order.

        Raises:
            StorageFullError: Nothing was written; every record is as it was.
        """

    def read(self, key: SequenceKey) -> tuple[RecordHead, StateRow] | Missing | Damaged:
        """Read without ownership. Tombstones come as :class:`Missing`."""

    def look(self, key: SequenceKey) -> Listed | Missing | Damaged:
        """Read what a listing would show of one key; the state is not handed out."""

    def fork(
        self,
        source: SequenceKey,
        at_step: int,
        target: SequenceKey,
        incarnation: bytes,
        ttl_s: float | None = None,
        replaces: bytes = b"",
    ) -> CommitResult:
        """Copy the committed state to a new sequence, if the source is at ``at_step``.

        The target has epoch 0, the same step number and no receipts. Repeating
        it with the same incarnation is :class:`Duplicate` (with an empty receipt);
        another live target is :class:`Conflict`.

        With ``replaces``, the target must be live in that incarnation (else Gone, or
        Conflict for another one): in the same atomic action it ends as rolled back.
        """

    def put(self, key: SequenceKey, head: RecordHead, state: StateRow) -> CommitResult:
        """Import: create a record as given; a live one is :class:`Conflict`."""

    def delete(self, key: SequenceKey, incarnation: bytes, reason: EndReason) -> CommitResult:
        """End a sequence by (key, incarnation); idempotent; durable when it returns."""

    def sweep(
        self, limit: int, busy: Container[SequenceKey]
    ) -> list[tuple[SequenceKey, RecordHead]]:
        """End up to ``limit`` expired sequences, except the busy ones; old tombstones go too."""

    def list(self, model: str | None = None, *, after: int = 0) -> Iterator[Listed]:
        """Live records, oldest first; states are never read.

        Args:
            model: Those of one model; ``None`` = of all, without snapshots. The snapshots
                of a model are a group of their own (:func:`legato.core.ids.snapshots_of`).
            after: Only those of a greater ``order``: a listing goes on in pages.
        """

    def live(self, model: str) -> int:
        """Number of live records of a model (or of a group of snapshots)."""

    def statistics(self) -> StoreStatistics:
        """Counts, sizes and health."""

    def close(self) -> None:
        """Flush what the level asks for and let go of files."""
