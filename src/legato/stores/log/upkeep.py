"""What a log does between batches: checkpoints, and making room."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from legato.core.errors import StorageFullError
from legato.faults import fault
from legato.stores.log.checkpoint import CheckpointWriter, Position
from legato.stores.log.compaction import Compaction, choose

if TYPE_CHECKING:
    from legato.stores.log.flushing import BackgroundFlush
    from legato.stores.log.journal import Journal

_RETRY_S = 5.0
_MANY_EMPTIED = 4
_LATE_BYTES = 1024 * 1024
_SLICE_S = 0.005


class Upkeep:
    """Decides what is due and does it in slices.

    A segment goes in three steps: compaction empties it, a checkpoint that knows the
    new places is put in place, and only then is it deleted. A crash between any two of
    them leaves every record at least once.
    """

    def __init__(
        self, journal: Journal, checkpoint_bytes: int, background: BackgroundFlush | None
    ) -> None:
        self._journal = journal
        self._background = background
        self._placing = False
        self._checkpoint_bytes = checkpoint_bytes
        self._checkpoint: CheckpointWriter | None = None
        self._checkpointed_at = self._sliced_at = journal.segments.written
        self._compaction: Compaction | None = None
        self._emptied: set[int] = set()
        self._covered: set[int] = set()
        self._not_before = 0.0

    def step(self, budget_s: float) -> bool:
        """Do one slice of what is due; tell whether more is waiting."""
        self._sliced_at = self._journal.segments.written
        try:
            return self._step(budget_s)
        except (StorageFullError, OSError):
            # No room for copies or a checkpoint: what exists stays valid, try again later.
            self.abandon()
            self._not_before = self._journal.time() + _RETRY_S
            return False

    def catch_up(self) -> None:
        """Do a few milliseconds' work if much was written since the last slice.

        So that space comes back also where nobody calls for slices.
        """
        if self._journal.segments.written - self._sliced_at >= _LATE_BYTES:
            end = time.perf_counter() + _SLICE_S
            while (left := end - time.perf_counter()) > 0 and self.step(left):
                pass

    def checkpoint(self) -> None:
        """Write a whole checkpoint now."""
        self._begin_checkpoint()
        writer = self._checkpoint
        if writer is not None:
            while not writer.step():
                pass
            writer.place()
            self._settle_checkpoint(writer)

    def abandon(self) -> None:
        """Drop what is under way; nothing that exists is touched."""
        if self._checkpoint is not None:
            self._checkpoint.abandon()
            self._checkpoint = None
        self._compaction = None

    def _step(self, budget_s: float) -> bool:
        if self._checkpoint is not None:
            return self._step_checkpoint(self._checkpoint)
        if self._compaction is not None:
            self._step_compaction(budget_s)
            return True
        if self._journal.time() < self._not_before:
            return False
        candidate = choose(self._journal, self._emptied)
        written = self._journal.segments.written - self._checkpointed_at
        if (
            written >= self._checkpoint_bytes
            or len(self._emptied) >= _MANY_EMPTIED
            or (self._emptied and candidate is None)
        ):
            self._begin_checkpoint()
            return True
        if candidate is not None:
            self._compaction = Compaction(self._journal, candidate)
            return True
        return False

    def _step_compaction(self, budget_s: float) -> None:
        compaction = self._compaction
        if compaction is None:
            return
        if compaction.step(time.perf_counter, budget_s):
            self._emptied.add(compaction.segment.number)
            self._compaction = None
        elif not compaction.segment.movable:
            self._compaction = None

    def _begin_checkpoint(self) -> None:
        journal = self._journal
        if self._checkpoint is not None:
            if self._placing:
                self._checkpoint.finished.wait()
                self._placing = False
            self._checkpoint.abandon()
        tail = journal.segments.tail
        position = Position(tail.number, tail.size, journal.serial, journal.time())
        self._covered = set(self._emptied)
        self._checkpointed_at = journal.segments.written
        self._checkpoint = CheckpointWriter(journal.table, journal.segments, position)

    def _step_checkpoint(self, writer: CheckpointWriter) -> bool:
        """Write a slice, or see whether the thread has put the file in place."""
        if not self._placing:
            if not writer.step():
                return True
            self._placing = True
            # Flushing a hundred megabytes takes its time: not that of the next batch.
            if self._background is None or not self._background.submit(writer.place):
                writer.place()
        if not writer.finished.is_set():
            return False
        self._settle_checkpoint(writer)
        return True

    def _settle_checkpoint(self, writer: CheckpointWriter) -> None:
        self._placing = False
        if writer.error is not None:
            raise writer.error
        self._checkpoint = None
        for number in sorted(self._covered):
            fault("compact.before_unlink")
            self._journal.segments.remove(self._journal.segments.by_number[number])
            self._emptied.discard(number)
