"""The segment log behind the store contract.

Upholds D1 (a commit returns after its bytes are where the level says), D3 and D4 (the
rules decide against the index before anything is written), D6 (each entry by itself)
and D7 (tombstones outlive what they cover). Nothing here waits for anything but the disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ConfigError, StateDamagedError, StorageFullError
from legato.core.types import EndReason, RecordHead, SequenceKey
from legato.faults import fault
from legato.stores import codec
from legato.stores.base import (
    AcquireResult,
    Commit,
    CommitResult,
    Damaged,
    Gone,
    Held,
    Listed,
    Missing,
    Ok,
    Owned,
    StoreStatistics,
)
from legato.stores.codec import Record, RecordError
from legato.stores.elapsed import Elapsed
from legato.stores.folder import FolderLock
from legato.stores.log.commits import CommitPath
from legato.stores.log.flushing import BackgroundFlush
from legato.stores.log.folder import check_format
from legato.stores.log.hot import HotCache
from legato.stores.log.journal import Change, Found, Journal, OtherKeyError, head_of_row
from legato.stores.log.recovery import Recovery
from legato.stores.log.segments import SEGMENT_BYTES, Place, Segments
from legato.stores.log.table import (
    CHAINED,
    DAMAGED,
    DEAD,
    LIVE,
    PAGE_ROWS,
    Row,
    Table,
    digest_of,
)
from legato.stores.log.upkeep import Upkeep
from legato.stores.rules import expires, judge_delete, judge_fork, judge_put, succeeded

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from legato.core.types import StateRow
    from legato.stores.base import Clock

    _Integers = np.ndarray[Any, Any]

CHECKPOINT_BYTES = 256 * 1024 * 1024
_SWEEP_PAGES = 8
_MAX_SEGMENT = 1 << 31
_OWNED_KEPT = 4096


class LogStore:
    """Keeps records in an append-only log. Implements :class:`legato.stores.base.Store`.

    One process a folder. Besides the contract, the engine may call :meth:`maintain` between
    batches or when idle; if it does not, commits do a slice of that now and then. A batch
    that names one sequence twice, or is larger than a segment, is written in parts, and
    only the part that fails is undone.

    Args:
        folder: Created if it does not exist.
        clock: Wall-clock seconds. The store's own time stands still while it is closed.
        level: ``process`` or ``disk``; a sequence may ask for ``disk`` by itself.
        tombstone_s: How long after its end a sequence's ending and receipts are kept.
        segment_bytes: Size at which a new segment is begun.
        checkpoint_bytes: Bytes written between two checkpoints.
        flush_interval_s: Seconds from a write to its flush at level ``process``, by a
            thread of the store's own; a loss of power costs at most that tail. The thread
            also puts checkpoints in place. 0 = no thread: only the caller flushes.

    Attributes:
        recovery: What was found when the folder was opened.

    Raises:
        ConfigError: The folder is in use, or of an unknown format.
    """

    name = "log"

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        level: str = "process",
        tombstone_s: float = 600.0,
        segment_bytes: int = SEGMENT_BYTES,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        flush_interval_s: float = 0.1,
    ) -> None:
        if level not in {"process", "disk"} or not 0 < segment_bytes <= _MAX_SEGMENT:
            raise ConfigError(
                f"a log store has level 'process' or 'disk' and segments of at most 2 GiB, "
                f"not {level!r} and {segment_bytes} bytes"
            )
        self.level = level
        self.inline = level == "process"
        self.folder = folder
        self._tombstone_s = tombstone_s
        self._owned_since: dict[int, float] = {}
        self._cursor = 0
        self._closed = False
        self._lock = FolderLock(folder)
        try:
            check_format(folder)
            self._open(clock, segment_bytes, checkpoint_bytes, flush_interval_s)
        except BaseException:
            self._lock.release()
            raise

    def _open(
        self, clock: Clock, segment_bytes: int, checkpoint_bytes: int, flush_interval_s: float
    ) -> None:
        self._table = Table()
        self._segments = Segments(self.folder, segment_bytes)
        self.recovery = Recovery(self._table, self._segments).run()
        # Deadlines are remaining times: the store's time goes on from the log's last moment.
        self._time = Elapsed(clock, self.recovery.time)
        self._journal = Journal(
            self._table,
            self._segments,
            self._time,
            tombstone_s=self._tombstone_s,
            serial=self.recovery.serial,
            chains=self.recovery.chains,
        )
        self._hot = HotCache()
        self._commits = CommitPath(self._journal, self._hot, self.level)
        self._flusher: BackgroundFlush | None = None
        if flush_interval_s > 0.0:
            self._flusher = BackgroundFlush(self._segments, flush_interval_s)
            self._segments.patient = self.inline
        self._upkeep = Upkeep(self._journal, checkpoint_bytes, self._flusher)
        if self.recovery.fresh_segment:
            self._segments.roll()
            self._upkeep.checkpoint()

    def __repr__(self) -> str:
        return f"LogStore(live={self._table.live}, dead={self._table.dead}, {self._segments!r})"

    # -- ownership and reading --------------------------------------------------------------

    def commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        """Decide and write each entry (D4, D6): one write, at level ``disk`` one flush.

        Raises:
            StorageFullError: Nothing was written; every record is as it was.
            StoreFailedError: The log has failed for good; the process must exit.
        """
        self._segments.refuse_if_failed()
        results = self._commits.commit(batch)
        if self._flusher is not None and self.inline:
            self._flusher.wake()
        self._upkeep.catch_up()
        return results

    def acquire(
        self,
        key: SequenceKey,
        owner: str,
        *,
        have: tuple[bytes, int] | None = None,
        hold_s: float = 0.25,
    ) -> AcquireResult:
        """Take ownership; the epoch grows if the owner changes.

        A sequence just created, forked or imported has no owner, so the first
        acquire always raises its epoch and is never refused.
        """
        now = self._time()
        opened = self._open_record(key, now, have)
        if not isinstance(opened, tuple) or isinstance(opened, Missing):
            return opened
        row, record = opened
        holder = self._table.owners.name(row.owner)
        if holder == owner:
            return Owned(record.head, record.state)
        digest = int.from_bytes(row.digest, "little")
        if holder and now - self._owned_since.get(digest, float("-inf")) < hold_s:
            return Held(holder)
        row = self._journal.own(digest, row, record, owner)
        self._hot.drop(key)
        self._owned_since[digest] = now
        if len(self._owned_since) > _OWNED_KEPT:
            del self._owned_since[next(iter(self._owned_since))]
        return Owned(replace(record.head, epoch=row.epoch), record.state)

    def read(self, key: SequenceKey) -> tuple[RecordHead, StateRow] | Missing | Damaged:
        """Read without ownership. Tombstones come as Missing."""
        opened = self._open_record(key, self._time(), None)
        if not isinstance(opened, tuple) or isinstance(opened, Missing):
            return opened
        record = opened[1]
        if record.state is None:
            return Damaged("its record holds no state")
        return record.head, record.state

    def look(self, key: SequenceKey) -> Listed | Missing | Damaged:
        """Read what a listing would show of one key."""
        now = self._time()
        opened = self._open_record(key, now, None, with_state=False)
        if not isinstance(opened, tuple) or isinstance(opened, Missing):
            return opened
        row, record = opened
        return Listed(key, record.head, row.state_bytes, now - row.touched, row.origin)

    def live(self, model: str) -> int:
        """Number of live records of a model; an expired one counts until it is swept."""
        return self._table.live_of(model)

    def statistics(self) -> StoreStatistics:
        """Counts; ``stored_bytes`` are bytes of live state, as in every store."""
        failed = self._segments.failed
        problem = failed or self._journal.problem
        writable = not problem
        if not problem and (self.recovery.damaged or self.recovery.unnamed):
            problem = (
                f"{self.recovery.damaged} sequences were found damaged when the store was opened, "
                f"and {self.recovery.unnamed} places that name no sequence"
            )
        table = self._table
        return StoreStatistics(table.live, table.dead, table.state_bytes, writable, problem)

    # -- making and ending -------------------------------------------------------------------

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

        Raises:
            StateDamagedError: The source's record cannot be trusted.
        """
        self._segments.refuse_if_failed()
        now = self._time()
        origin = self._journal.find(source, now)
        goal = self._journal.find(target, now)
        verdict = judge_fork(origin.standing, at_step, goal.standing, incarnation, replaces)
        if verdict is not None:
            return verdict
        if origin.row is None or (origin.record is None and not origin.problem):
            return Gone(None)
        try:
            record = self._journal.load(source, origin.row, with_state=True)
        except RecordError as error:
            raise StateDamagedError(f"the sequence cannot be forked: {error}") from error
        fault("fork.between")
        head = replace(
            record.head,
            incarnation=incarnation,
            epoch=0,
            receipts=(),
            created=self._time.wall(now),
            ttl_s=record.head.ttl_s if ttl_s is None else ttl_s,
        )
        reason = EndReason.ROLLED_BACK if replaces else EndReason.DISPLACED
        return self._insert(target, goal, head, record.state, now, reason)

    def put(self, key: SequenceKey, head: RecordHead, state: StateRow) -> CommitResult:
        """Import: create a record as given; a live one is Conflict, a dead incarnation Gone."""
        self._segments.refuse_if_failed()
        now = self._time()
        found = self._journal.find(key, now)
        verdict = judge_put(found.standing, head.incarnation)
        if verdict is not None:
            return verdict
        return self._insert(key, found, replace(head, ending=None), state, now)

    def delete(self, key: SequenceKey, incarnation: bytes, reason: EndReason) -> CommitResult:
        """End a sequence by (key, incarnation). Again it is Gone with the first ending.

        A record found damaged at opening has lost its incarnation with it: any is taken,
        so that a person can put an end to it.
        """
        self._segments.refuse_if_failed()
        now = self._time()
        found = self._journal.find(key, now)
        damaged = found.row is not None and found.row.flags & DAMAGED
        verdict = None if damaged else judge_delete(found.standing, incarnation)
        if verdict is not None or found.row is None:
            return verdict or Gone(None)
        change = self._journal.entomb(key, found, found.row, reason, now)
        self._journal.write([change])
        self._hot.drop(key)
        return self._commits.settle(found.record.head.level if found.record else "")

    def sweep(
        self, limit: int, busy: Container[SequenceKey]
    ) -> list[tuple[SequenceKey, RecordHead]]:
        """End up to ``limit`` expired sequences, except the busy ones; old tombstones go too.

        One call looks at 65,536 rows, the next goes on behind them, so that a million
        sequences cannot hold up the event loop. On a full disk nothing is ended: to every
        caller the expired are dead anyway.
        """
        self._segments.refuse_if_failed()
        self._journal.mark_time()
        now = self._time()
        due, forgotten = self._due(now)
        for digest in forgotten:
            self._journal.forget(digest)
        changes: list[Change] = []
        ended: list[tuple[SequenceKey, RecordHead]] = []
        for slot in due:
            if len(changes) >= limit:
                break
            row = self._table.row(slot)
            try:
                record = self._journal.load(None, row, with_state=False)
            except RecordError:
                continue  # without its key it cannot be ended; it stays, for a person to look at
            if record.key in busy:
                continue
            until = row.touched + row.ttl_s
            ending = self._journal.ending(row, record, now)
            changes.append(self._entomb(record, row, until))
            ended.append((record.key, replace(record.head, ending=ending)))
        return ended if self._bury(changes) else []

    # -- upkeep ---------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make everything written durable. Any thread may call it; it waits without the GIL.

        Raises:
            StoreFailedError: It failed, now or before; the process must exit.
        """
        self._segments.flush()

    def maintain(self, budget_s: float = 0.005) -> bool:
        """Do one slice of compaction or checkpoint; tell whether more is waiting.

        A slice is at most ``budget_s`` or 5 ms of compaction, or 2 MiB of checkpoint.
        """
        self._segments.refuse_if_failed()
        return self._upkeep.step(budget_s)

    def checkpoint(self) -> None:
        """Write a checkpoint of the index now, whole."""
        self._upkeep.checkpoint()

    def begin(self, pause_s: float = 0.0) -> None:
        """Count time from now; see :class:`legato.stores.base.Store`."""
        self._time.skip(pause_s)

    def close(self) -> None:
        """Flush, write a checkpoint and let go of the folder."""
        if self._closed:
            return
        self._closed = True
        if self._flusher is not None:
            self._flusher.stop()
        try:
            if not self._segments.failed:
                self._segments.flush()
                self._upkeep.checkpoint()
        except OSError:
            # A full disk, say: the log is whole, the next start reads more of it.
            self._upkeep.abandon()
        finally:
            self._segments.close()
            self._lock.release()

    # -- inside ----------------------------------------------------------------------------------

    def _open_record(
        self,
        key: SequenceKey,
        now: float,
        have: tuple[bytes, int] | None,
        *,
        with_state: bool = True,
    ) -> tuple[Row, Record] | Missing | Damaged:
        """Row and record of a live sequence, without the state that the caller has."""
        row = self._table.find(digest_of(codec.encode_key(key)))
        if row is None or now > self._journal.dead_since(row, now) + self._tombstone_s:
            return Missing(None)
        try:
            wanted = with_state and row.live and have != (row.incarnation, row.step)
            if wanted:
                fault("page_in.before_read")
            record = self._journal.load(key, row, with_state=wanted)
        except RecordError as error:
            ending = self._journal.ending(row, None, now)
            if ending is None:
                return Damaged(str(error))
            return Missing(replace(head_of_row(row), ending=ending))
        except OtherKeyError:
            return Missing(None)
        ending = self._journal.ending(row, record, now)
        if ending is not None:
            return Missing(replace(record.head, ending=ending))
        return row, record

    def _listed(self, portions: Iterator[tuple[_Integers, _Integers]]) -> Iterator[Listed]:
        for slots, origins in portions:
            for slot, origin in zip(slots.tolist(), origins.tolist(), strict=True):
                listed = self._listed_row(slot, origin)
                if listed is not None:
                    yield listed

    def _listed_row(self, slot: int, origin: int) -> Listed | None:
        row = self._table.row(slot)
        now = self._time()
        if row.origin != origin or not row.live or now > expires(row.touched, row.ttl_s):
            return None
        # Prefix, key, head and layout; the layout is not needed but cannot be told apart.
        state_bytes = 0 if row.flags & CHAINED else row.state_bytes
        place = Place(row.segment, row.offset, row.length - state_bytes)
        blob = self._segments.read(place)
        try:
            record = codec.decode_head(blob or b"")
        except RecordError:
            return None
        head = replace(record.head, epoch=row.epoch)
        return Listed(record.key, head, row.state_bytes, now - row.touched, origin)

    def _insert(
        self,
        key: SequenceKey,
        found: Found,
        head: RecordHead,
        state: StateRow | None,
        now: float,
        reason: EndReason = EndReason.DISPLACED,
    ) -> Ok:
        before, before_ending = succeeded(found.standing, self._time.wall(now), reason)
        change = self._journal.compose(
            key,
            found.key_bytes,
            found.digest,
            head,
            state,
            touched=now,
            before=before,
            before_ending=before_ending,
        )
        self._journal.write([change])
        self._hot.drop(key)
        return self._commits.settle(head.level)

    def _due(self, now: float) -> tuple[list[int], list[int]]:
        """Slots of the expired, the longest dead first, and digests of tombstones to forget."""
        first = self._cursor if self._cursor < self._table.pages else 0
        self._cursor = first + _SWEEP_PAGES
        due: list[tuple[float, int]] = []
        forgotten: list[int] = []
        for page in range(first, min(self._cursor, self._table.pages)):
            columns = self._table.columns(page)
            flags, touched, ttl_s = columns["flags"], columns["touched"], columns["ttl_s"]
            until = touched + ttl_s
            over = np.flatnonzero(((flags & LIVE) != 0) & (ttl_s > 0.0) & (now > until))
            due += zip(until[over].tolist(), (over + page * PAGE_ROWS).tolist(), strict=True)
            old = np.flatnonzero(((flags & DEAD) != 0) & (now > touched + self._tombstone_s))
            forgotten += [high << 64 | low for low, high in columns["digest"][old].tolist()]
        return [slot for _until, slot in sorted(due)], forgotten

    def _entomb(self, record: Record, row: Row, until: float) -> Change:
        key_bytes, digest = codec.encode_key(record.key), int.from_bytes(row.digest, "little")
        found = Found(key_bytes, digest, row, record, None, "")
        return self._journal.entomb(record.key, found, row, EndReason.EXPIRED, until)

    def _bury(self, changes: list[Change]) -> bool:
        """Write the tombstones of a sweep; false if the disk is full."""
        if not changes:
            return True
        fault("expire.before_tombstone")
        try:
            self._journal.write(changes)
        except StorageFullError:
            return False
        for change in changes:
            self._hot.drop(change.key)
        self._commits.settle("")
        return True

    # Last in the class: behind it, ``list`` in an annotation would mean this method.

    def list(self, model: str | None = None, *, after: int = 0) -> Iterator[Listed]:
        """Live records, oldest first. Lazy: a head is read when it is asked for, a state never.

        What has ended or become unreadable since the call is left out.
        """
        number = None if model is None else self._table.models.known(model)
        return self._listed(self._table.living(after, number))
