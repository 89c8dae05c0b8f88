"""Which states are in memory: a cache of the store, bounded by bytes (D5)."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.engine.table import Model
    from legato.engine.work import Sequence


class Residence:
    """Keeps idle sequences in memory while there is room, the last used ones longest.

    Args:
        max_bytes: Bound on resident state, 0 = none.

    Attributes:
        bytes: State of all resident sequences; whoever changes a state counts it here.
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

    def forget(self, sequence: Sequence) -> None:
        """Drop the copy of a sequence; the store has the truth."""
        if sequence.state is not None:
            self.bytes -= sequence.state.nbytes
        sequence.forget()

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
