"""Which states are in memory: a cache of the store, bounded by bytes (D5)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.core.types import StateRow
    from legato.engine.model import ModelHandle
    from legato.engine.table import Model
    from legato.engine.work import Sequence

OVERHEAD = 1100
"""Bytes that a resident sequence takes beside its state: name, head, receipt, entries of tables.

As measured (resident set of a process with 100,000 of them) with short ids, one receipt of a
small reply and a state of one tensor.
"""


class Residence:
    """Keeps idle sequences in memory while there is room, the last used ones longest.

    Args:
        max_bytes: Bound on the memory of resident sequences, 0 = none.

    Attributes:
        bytes: Memory of all resident sequences: state, and :data:`OVERHEAD` for each.
        idle: Sequences with nothing to do, longest idle first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.idle: OrderedDict[Sequence, Model] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Residence bytes={self.bytes} idle={len(self.idle)}>"

    def rest(self, model: Model, sequence: Sequence) -> None:
        """Keep the copy of a sequence that has nothing to do, while there is room."""
        sequence.busy = sequence.fresh = False
        if not sequence.live:
            model.sequences.pop(sequence.key.correlation_id, None)
            self.idle.pop(sequence, None)
            return
        if self.max_bytes:
            self.idle[sequence] = model
            self.idle.move_to_end(sequence)
            if self.bytes > self.max_bytes:
                self._park()

    # Whoever gives a sequence a state or a version, or takes one away, does it here: so the
    # gauges of a version are at hand without a walk through all that is resident.

    def keep(self, sequence: Sequence, state: StateRow) -> None:
        """Give a sequence a state, its first or the next."""
        self.release(sequence)
        sequence.state = state
        self._count(sequence.handle, state, 1)
        self.bytes += state.nbytes + OVERHEAD

    def pin(self, sequence: Sequence, handle: ModelHandle | None) -> None:
        """Say on which version a sequence goes on; ``None`` = that is to be found out."""
        state = sequence.state
        if state is not None:
            self._count(sequence.handle, state, -1)
            self._count(handle, state, 1)
        sequence.handle = handle

    def release(self, sequence: Sequence) -> None:
        """Take its state from a sequence, if it has one."""
        state = sequence.state
        if state is not None:
            self._count(sequence.handle, state, -1)
            self.bytes -= state.nbytes + OVERHEAD
            sequence.state = None

    def forget(self, sequence: Sequence) -> None:
        """Drop the copy of a sequence; the store has the truth."""
        self.release(sequence)
        sequence.forget()

    @staticmethod
    def _count(handle: ModelHandle | None, state: StateRow, sign: int) -> None:
        if handle is not None:
            gauges = handle.statistics
            gauges.resident += sign
            gauges.state_bytes += sign * state.nbytes

    def drop(self, model: Model, sequence: Sequence) -> None:
        """Drop the copy and the sequence's place in the table."""
        self.idle.pop(sequence, None)
        self.forget(sequence)
        model.sequences.pop(sequence.key.correlation_id, None)

    def _park(self) -> None:
        """Let go of the longest idle copies until the rest fits; the store has them all."""
        while self.idle and self.bytes > self.max_bytes:
            sequence, model = self.idle.popitem(last=False)
            # Where the rest of a bound state is, only the copy knows.
            if not sequence.busy and not sequence.bound:
                self.drop(model, sequence)
