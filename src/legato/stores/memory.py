"""The store for state that may be lost: plain objects in this process.

Level ``none``. It is also the reference for what a store answers, and the
fastest one: a commit keeps the writer's own objects and copies nothing.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING

from legato.core.ids import SNAPSHOTS, group_of
from legato.core.types import Ending, EndReason, RecordHead, SequenceKey, StateRow
from legato.stores.base import (
    AcquireResult,
    Commit,
    CommitResult,
    Damaged,
    Held,
    Listed,
    Missing,
    Ok,
    Owned,
    StoreStatistics,
)
from legato.stores.elapsed import Elapsed
from legato.stores.rules import (
    NEVER,
    Standing,
    expires,
    judge,
    judge_delete,
    judge_fork,
    judge_put,
    succeeded,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence

    from legato.stores.base import Clock

_NO_STATE = StateRow((), ())
_OK = Ok("none")


class _Record:
    """One sequence. ``last`` is the newest commit: the record *is* that commit.

    The four numbers that a commit is compared with are copied out of it, because
    the compare is the hot path; ``epoch`` may also run ahead of it (acquire).
    """

    __slots__ = (
        "before",
        "before_ending",
        "created",
        "ending",
        "epoch",
        "incarnation",
        "last",
        "order",
        "owned_since",
        "owner",
        "queued",
        "shapes",
        "state_bytes",
        "step",
        "touched",
        "until",
    )

    def __init__(self, last: Commit, epoch: int, now: float, created: float) -> None:
        self.last = last
        self.incarnation = last.incarnation
        self.epoch = epoch
        self.step = last.step
        self.touched = now
        self.until = expires(now, last.ttl_s)
        self.shapes = last.state.shapes
        self.state_bytes = last.state.nbytes
        self.created = created
        self.owner = ""
        self.owned_since = -NEVER
        self.ending: Ending | None = None
        self.before = b""
        self.before_ending: Ending | None = None
        self.queued = NEVER
        self.order = 0

    def head(self, ending: Ending | None) -> RecordHead:
        """What readers see; built only when somebody looks."""
        last = self.last
        return RecordHead(
            incarnation=self.incarnation,
            epoch=self.epoch,
            step=self.step,
            receipts=last.receipts,
            version=last.version,
            model_digest=last.model_digest,
            dialect=last.dialect,
            created=self.created,
            ttl_s=last.ttl_s,
            level=last.level,
            ending=ending,
        )


class MemoryStore:
    """Keeps records in a dictionary. Implements :class:`legato.stores.base.Store`.

    A record past its idle limit is dead at once, to every caller; :meth:`sweep`
    only reports it and frees its state. So no answer depends on when it runs.

    Args:
        clock: Wall-clock seconds.
        tombstone_s: How long after its end a sequence's ending and receipts are kept.
    """

    name = "memory"
    level = "none"
    inline = True

    def __init__(self, *, clock: Clock, tombstone_s: float = 600.0) -> None:
        self._time = Elapsed(clock)
        self._tombstone_s = tombstone_s
        self._records: dict[SequenceKey, _Record] = {}
        self._live: dict[str, int] = {}
        self._live_total = 0
        self._state_bytes = 0
        # A record is queued once, for the moment at which it may be due. Commits
        # move that moment without touching the queue; sweep puts it back.
        self._queue: list[tuple[float, int, SequenceKey, _Record]] = []
        self._stale = 0
        self._ticket = itertools.count()
        # Every record in the order of creation, the gone among them until they are half.
        self._ordered: list[_Record] = []
        self._replaced = 0
        self._created = itertools.count(1)

    def __repr__(self) -> str:
        return f"MemoryStore(live={self._live_total}, records={len(self._records)})"

    # -- the hot path ---------------------------------------------------------------

    def commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        """Decide and keep each entry (D4, D6); results in the same order."""
        now = self._time()
        get = self._records.get
        results: list[CommitResult] = []
        append = results.append
        for entry in batch:
            key, incarnation, epoch, step, _, state, create, _, end, _, _, _, ttl_s, _, waited = (
                entry
            )
            record = get(key)
            if (
                record is None
                or create
                or end is not None
                or record.step != step - 1
                or record.epoch != epoch
                or record.incarnation != incarnation
                or record.ending is not None
                or record.until < now - waited
            ):
                append(self._commit_slowly(entry, now))
                continue
            record.last = entry
            record.step = step
            record.touched = now
            if ttl_s > 0.0:
                record.until = until = now + ttl_s
                if until < record.queued:
                    self._enqueue(key, record, until)
            else:
                record.until = NEVER
            if state.shapes is not record.shapes:
                self._resize(record, state)
            append(_OK)
        return results

    def _commit_slowly(self, entry: Commit, now: float) -> CommitResult:
        """Everything but the next step of a live sequence."""
        arrived = now - entry.waited_s
        record = self._find(entry.key, arrived)
        standing = self._standing(record, arrived)
        verdict = judge(standing, entry)
        if verdict is not None:
            return verdict
        if entry.create:
            record = _Record(entry, entry.epoch, now, self._time.wall(now))
            self._insert(entry.key, record, standing)
        elif record is not None:  # the last step, or the hot path would have taken it
            record.last = entry
            record.step = entry.step
            self._resize(record, entry.state)
        if entry.end is not None and record is not None:
            self._end(entry.key, record, entry.end, now)
        return _OK

    # -- ownership and reading --------------------------------------------------------

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
        record = self._find(key, now)
        if record is None:
            return Missing(None)
        ending = self._ending(record, now)
        if ending is not None:
            return Missing(record.head(ending))
        if record.owner != owner:
            if record.owner and now - record.owned_since < hold_s:
                return Held(record.owner)
            record.owner = owner
            record.owned_since = now
            record.epoch += 1
        current = have == (record.incarnation, record.step)
        return Owned(record.head(None), None if current else record.last.state)

    def read(self, key: SequenceKey) -> tuple[RecordHead, StateRow] | Missing | Damaged:
        """Read without ownership. Tombstones come as Missing."""
        now = self._time()
        record = self._find(key, now)
        if record is None:
            return Missing(None)
        ending = self._ending(record, now)
        if ending is not None:
            return Missing(record.head(ending))
        return record.head(None), record.last.state

    def look(self, key: SequenceKey) -> Listed | Missing | Damaged:
        """Read what a listing would show of one key."""
        now = self._time()
        record = self._find(key, now)
        if record is None:
            return Missing(None)
        ending = self._ending(record, now)
        return self._listing(record, now) if ending is None else Missing(record.head(ending))

    def live(self, model: str) -> int:
        """Number of live records of a model; an expired one counts until it is swept."""
        return self._live.get(model, 0)

    def statistics(self) -> StoreStatistics:
        """Counts; ``stored_bytes`` are bytes of state."""
        dead = len(self._records) - self._live_total
        return StoreStatistics(self._live_total, dead, self._state_bytes, writable=True)

    # -- making and ending ----------------------------------------------------------------

    def fork(
        self,
        source: SequenceKey,
        at_step: int,
        target: SequenceKey,
        incarnation: bytes,
        ttl_s: float | None = None,
        replaces: bytes = b"",
    ) -> CommitResult:
        """Copy the committed state to a new sequence, if the source is at ``at_step``."""
        now = self._time()
        origin = self._find(source, now)
        standing = self._standing(self._find(target, now), now)
        verdict = judge_fork(self._standing(origin, now), at_step, standing, incarnation, replaces)
        if verdict is not None or origin is None:
            return verdict or _OK
        copy = origin.last._replace(
            key=target,
            incarnation=incarnation,
            receipts=(),
            ttl_s=origin.last.ttl_s if ttl_s is None else ttl_s,
        )
        record = _Record(copy, 0, now, self._time.wall(now))
        reason = EndReason.ROLLED_BACK if replaces else EndReason.DISPLACED
        self._insert(target, record, standing, reason)
        return _OK

    def put(self, key: SequenceKey, head: RecordHead, state: StateRow) -> CommitResult:
        """Import: create a record as given; a live one is Conflict, a dead incarnation Gone."""
        now = self._time()
        standing = self._standing(self._find(key, now), now)
        verdict = judge_put(standing, head.incarnation)
        if verdict is not None:
            return verdict
        last = Commit(
            key=key,
            incarnation=head.incarnation,
            epoch=head.epoch,
            step=head.step,
            receipts=head.receipts,
            state=state,
            create=True,
            replaces=b"",
            end=None,
            version=head.version,
            model_digest=head.model_digest,
            dialect=head.dialect,
            ttl_s=head.ttl_s,
            level=head.level,
        )
        self._insert(key, _Record(last, head.epoch, now, head.created), standing)
        return _OK

    def delete(self, key: SequenceKey, incarnation: bytes, reason: EndReason) -> CommitResult:
        """End a sequence by (key, incarnation). Again it is Gone with the first ending."""
        now = self._time()
        record = self._find(key, now)
        verdict = judge_delete(self._standing(record, now), incarnation)
        if verdict is not None or record is None:
            return verdict or _OK
        self._end(key, record, reason, now)
        return _OK

    def sweep(
        self, limit: int, busy: Container[SequenceKey]
    ) -> list[tuple[SequenceKey, RecordHead]]:
        """End up to ``limit`` expired sequences, except the busy ones; old tombstones go too.

        One call looks at no more than a few times ``limit`` records, so that a
        million of them falling due together cannot hold up the event loop.
        """
        now = self._time()
        queue = self._queue
        ended: list[tuple[SequenceKey, RecordHead]] = []
        skipped: list[tuple[float, int, SequenceKey, _Record]] = []
        for _ in range(4 * limit + 64):
            if not queue or queue[0][0] >= now or len(ended) >= limit:
                break
            item = heapq.heappop(queue)
            due, _, key, record = item
            if record.queued != due or self._records.get(key) is not record:
                self._stale -= 1
            elif record.ending is not None:
                self._settle_tombstone(key, record, now)
            elif record.until >= now:
                record.queued = NEVER
                if record.until != NEVER:
                    self._enqueue(key, record, record.until)
            elif key in busy:
                skipped.append(item)
            else:
                self._expire(key, record, now)
                ended.append((key, record.head(record.ending)))
        for item in skipped:
            heapq.heappush(queue, item)
        return ended

    def begin(self, pause_s: float = 0.0) -> None:
        """Count time from now; see :class:`legato.stores.base.Store`."""
        self._time.skip(pause_s)

    def close(self) -> None:
        """Nothing to flush: what this store holds ends with the process."""

    # -- inside -------------------------------------------------------------------------------

    def _listed(self, ordered: list[_Record], at: int, model: str | None) -> Iterator[Listed]:
        # What is made meanwhile comes behind the end; when the gone are dropped from the
        # list, that is a new list.
        for place in range(at, len(ordered)):
            record = ordered[place]
            key = record.last.key
            if self._records.get(key) is not record:
                continue
            group = group_of(key)
            if group != model and (model is not None or group.startswith(SNAPSHOTS)):
                continue
            now = self._time()
            if self._ending(record, now) is None:
                yield self._listing(record, now)

    def _listing(self, record: _Record, now: float) -> Listed:
        idle_s = now - record.touched
        return Listed(record.last.key, record.head(None), record.state_bytes, idle_s, record.order)

    def _find(self, key: SequenceKey, now: float) -> _Record | None:
        """The record of a key, unless it is a tombstone past its retention."""
        record = self._records.get(key)
        if record is not None and now > self._dead_since(record, now) + self._tombstone_s:
            return None
        return record

    def _dead_since(self, record: _Record, now: float) -> float:
        """Moment of the end, in the store's time; infinity for the living."""
        if record.ending is not None:
            return record.touched
        return record.until if record.until < now else NEVER

    def _ending(self, record: _Record, now: float) -> Ending | None:
        """How a record ended, also where no sweep has noticed yet."""
        if record.ending is None and record.until < now:
            return Ending(EndReason.EXPIRED, record.step, self._time.wall(record.until))
        return record.ending

    def _standing(self, record: _Record | None, now: float) -> Standing | None:
        if record is None:
            return None
        receipts = record.last.receipts
        return Standing(
            record.incarnation,
            record.epoch,
            record.step,
            receipts[-1] if receipts else None,
            self._ending(record, now),
            record.before,
            record.before_ending,
        )

    def _insert(
        self,
        key: SequenceKey,
        record: _Record,
        standing: Standing | None,
        reason: EndReason = EndReason.DISPLACED,
    ) -> None:
        """Put a new record in the place of whatever the key had, which ends for ``reason``."""
        old = self._records.get(key)
        if old is not None:
            if old.ending is None:
                self._count(group_of(key), -1, -old.state_bytes)
            if old.queued != NEVER:
                self._stale += 1
            record.before, record.before_ending = succeeded(standing, record.created, reason)
            self._left_order()
        record.order = next(self._created)
        self._records[key] = record
        self._ordered.append(record)
        self._count(group_of(key), 1, record.state_bytes)
        if record.until != NEVER:
            self._enqueue(key, record, record.until)

    def _end(self, key: SequenceKey, record: _Record, reason: EndReason, now: float) -> None:
        record.touched = now  # of a tombstone: the moment of its end
        record.ending = Ending(reason, record.step, self._time.wall(now))
        self._bury(key, record)

    def _expire(self, key: SequenceKey, record: _Record, now: float) -> None:
        record.ending = self._ending(record, now)
        record.touched = record.until
        record.queued = NEVER
        self._bury(key, record)

    def _bury(self, key: SequenceKey, record: _Record) -> None:
        """Drop the state of a record that just ended; receipts stay for the retention."""
        self._count(group_of(key), -1, -record.state_bytes)
        record.last = record.last._replace(state=_NO_STATE)
        record.state_bytes = 0
        due = record.touched + self._tombstone_s
        if due < record.queued:
            self._enqueue(key, record, due)

    def _settle_tombstone(self, key: SequenceKey, record: _Record, now: float) -> None:
        due = record.touched + self._tombstone_s
        record.queued = NEVER
        if due < now:
            del self._records[key]
            self._left_order()
        else:
            self._enqueue(key, record, due)

    def _enqueue(self, key: SequenceKey, record: _Record, due: float) -> None:
        if record.queued != NEVER:
            self._stale += 1
        record.queued = due
        heapq.heappush(self._queue, (due, next(self._ticket), key, record))
        if self._stale > 64 and self._stale > len(self._queue) // 2:
            self._drop_stale()

    def _drop_stale(self) -> None:
        """Forget queue entries of records that are gone; amortised, a constant per end."""
        self._queue = [
            item
            for item in self._queue
            if item[3].queued == item[0] and self._records.get(item[2]) is item[3]
        ]
        heapq.heapify(self._queue)
        self._stale = 0

    def _left_order(self) -> None:
        """A record is gone; drop all the gone from the order when they are half of it."""
        self._replaced += 1
        if self._replaced > 64 and self._replaced > len(self._ordered) // 2:
            get = self._records.get
            self._ordered = [one for one in self._ordered if get(one.last.key) is one]
            self._replaced = 0

    def _resize(self, record: _Record, state: StateRow) -> None:
        record.shapes = state.shapes
        size = state.nbytes
        self._state_bytes += size - record.state_bytes
        record.state_bytes = size

    def _count(self, group: str, records: int, state_bytes: int) -> None:
        self._live[group] = self._live.get(group, 0) + records
        self._live_total += records
        self._state_bytes += state_bytes

    # Last in the class: behind it, ``list`` in an annotation would mean this method.

    def list(self, model: str | None = None, *, after: int = 0) -> Iterator[Listed]:
        """Live records, oldest first, without those created since the call. Ends nothing."""
        ordered = self._ordered
        return self._listed(
            ordered, bisect_right(ordered, after, key=lambda record: record.order), model
        )
