"""The SQLite store: reference of the differential tests, and fallback of the log.

One table, one row a sequence, write-ahead log. A row holds the record in the
bytes of :mod:`legato.stores.codec` (versioned, checksummed) beside the few columns
that queries need. Decisions are the pure ones of :mod:`legato.stores.rules`, taken
inside the transaction that writes (D4).

It costs several times what the log costs a step, because SQLite gives up the
interpreter at every statement.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from legato.core.errors import (
    ConfigError,
    StateDamagedError,
    StorageFullError,
    StoreUnavailableError,
)
from legato.core.ids import SNAPSHOTS, group_of
from legato.core.pages import GrownRow
from legato.core.types import Ending, EndReason, RecordHead, SequenceKey, StateRow
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
    StoreFailedError,
    StoreStatistics,
)
from legato.stores.elapsed import Elapsed
from legato.stores.rules import (
    LEVELS,
    NEVER,
    Standing,
    expires,
    judge,
    judge_delete,
    judge_fork,
    judge_put,
    succeeded,
)
from legato.stores.sqlite_file import SqliteFile
from legato.stores.sqlite_parts import Parts

T = TypeVar("T")

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence
    from pathlib import Path

    from legato.stores.base import Clock

_PAGE = 256  # rows of a listing read at once
_SAVE_TIME_S = 10.0
_COLUMNS = "id, key, live, incarnation, epoch, step, owned_since, session, due, state_bytes, record"
_SELECT = f"SELECT {_COLUMNS} FROM sequences WHERE "  # noqa: S608 - constants only


class _Row(NamedTuple):
    """One row, its record decoded; ``record`` is ``None`` where it cannot be trusted."""

    id: int
    live: bool
    incarnation: bytes
    epoch: int
    step: int
    owned_since: float
    session: int
    due: float | None
    state_bytes: int
    record: codec.Record | None
    problem: str
    blob: bytes


class _Counts:
    """What a transaction changes in the counts; applied once it is committed."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.tombstones = 0
        self.bytes = 0
        self.whole: list[SequenceKey] = []

    def move(self, model: str, change: int, *, live: bool) -> None:
        if live:
            self.live[model] = self.live.get(model, 0) + change
        else:
            self.tombstones += change


class SqliteStore:
    """Keeps records in one SQLite file. Implements :class:`legato.stores.base.Store`.

    Args:
        folder: Data folder, made if it is not there; one process at a time.
        clock: Wall-clock seconds. Deadlines are kept in the store's own time
            (:class:`~legato.stores.elapsed.Elapsed`), saved with every write.
        level: ``process`` (survives the death of the process) or ``disk`` (each commit
            is flushed). A single sequence may ask for more.
        tombstone_s: How long after its end a sequence's ending and receipts are kept.

    Raises:
        ConfigError: The folder is in use, of another format, or not a database.
    """

    name = "sqlite"

    def __init__(
        self, folder: Path, *, clock: Clock, level: str = "process", tombstone_s: float = 600.0
    ) -> None:
        if level not in ("process", "disk"):
            raise ConfigError(
                f"the sqlite store cannot keep level '{level}'", key="level", fix="process or disk"
            )
        self.level = level
        # A flush of the disk is too long for the event loop; the page cache is not.
        self.inline = level == "process"
        self._tombstone_s = tombstone_s
        self._damaged: dict[SequenceKey, str] = {}
        self._file = SqliteFile(folder, level)
        self._parts = Parts(self._file)
        self._time = Elapsed(clock, self._file.saved_time)
        self._saved = self._time()
        counts = self._file.rows("SELECT model, count(*) FROM sequences WHERE live GROUP BY model")
        ((rows,),) = self._file.rows("SELECT count(*) FROM sequences")
        self._live: dict[str, int] = dict(counts)
        self._tombstones = rows - sum(self._live.values())

    def __repr__(self) -> str:
        return f"SqliteStore({str(self._file.path)!r}, live={sum(self._live.values())})"

    def begin(self, pause_s: float = 0.0) -> None:
        """Count time from now; see :class:`legato.stores.base.Store`."""
        self._time.skip(pause_s)

    def close(self) -> None:
        """Save the time, flush what the level asks for and let go of the folder. Repeatable."""
        if self._file.is_open:
            with contextlib.suppress(StorageFullError, StoreUnavailableError, StoreFailedError):
                self._write(lambda _counts: None, self._time(), "")
            self._file.close()

    # -- committing -----------------------------------------------------------------------------

    def commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        """Decide and write each entry in one transaction.

        Raises:
            StorageFullError: The disk is full; nothing was written.
            StoreFailedError: A flush failed; the process must exit.
            StoreUnavailableError: SQLite failed otherwise; the outcome is not known.
        """
        if not batch:
            return []
        now = self._time()
        raised = max((entry.level for entry in batch), key=_rank)
        return self._write(
            lambda counts: [self._commit_one(entry, now, counts) for entry in batch], now, raised
        )

    def _commit_one(self, entry: Commit, now: float, counts: _Counts) -> CommitResult:
        arrived = now - entry.waited_s
        row = self._find(entry.key, arrived)
        standing = self._standing(row, arrived)
        verdict = judge(standing, entry)
        if verdict is not None:
            return verdict
        kept = row.record if row is not None and not entry.create else None
        wall = self._time.wall(now)
        head = RecordHead(
            incarnation=entry.incarnation,
            epoch=entry.epoch,
            step=entry.step,
            receipts=entry.receipts,
            version=entry.version,
            model_digest=entry.model_digest,
            dialect=entry.dialect,
            created=wall if kept is None else kept.head.created,
            ttl_s=entry.ttl_s,
            level=entry.level,
        )
        record = codec.Record(codec.PUT, 0, entry.key, head, entry.state, touched=now)
        if entry.create:
            before, before_ending = succeeded(standing, wall)
            record = record._replace(before=before, before_ending=before_ending)
        elif kept is not None:
            record = record._replace(
                owner=kept.owner, before=kept.before, before_ending=kept.before_ending
            )
        if entry.end is not None:
            record = self._buried(record, Ending(entry.end, entry.step, wall), now)
        if entry.create or row is None:
            self._insert(record, counts)
        elif entry.end is None and isinstance(entry.state, GrownRow):
            self._grow(record, entry.state, row, counts)
        else:
            self._update(record, row, counts)
        return Ok(self._reached(entry.level))

    # -- ownership and reading --------------------------------------------------------------------

    def acquire(
        self,
        key: SequenceKey,
        owner: str,
        *,
        have: tuple[bytes, int] | None = None,
        hold_s: float = 0.25,
    ) -> AcquireResult:
        """Take ownership; the epoch grows (and is written) if the owner changes."""
        now = self._time()
        row, record, answer = self._look(key, now, whole=True)
        if answer is not None or row is None or record is None:
            return answer or Missing(None)
        if record.owner != owner:
            mine = row.session == self._file.session
            if record.owner and mine and now - row.owned_since < hold_s:
                return Held(record.owner)
            head = replace(record.head, epoch=record.head.epoch + 1)
            record = record._replace(head=head, owner=owner)
            taken = row._replace(owned_since=now, session=self._file.session)
            self._write(lambda counts: self._update(record, taken, counts), now, "")
        current = have == (record.head.incarnation, record.head.step)
        return Owned(record.head, None if current else record.state)

    def read(self, key: SequenceKey) -> tuple[RecordHead, StateRow] | Missing | Damaged:
        """Read without ownership. Tombstones come as Missing."""
        _, record, answer = self._look(key, self._time(), whole=True)
        if answer is not None or record is None or record.state is None:
            return answer or Missing(None)
        return record.head, record.state

    def look(self, key: SequenceKey) -> Listed | Missing | Damaged:
        """Read what a listing would show of one key."""
        now = self._time()
        row, record, answer = self._look(key, now)
        if answer is not None or row is None or record is None:
            return answer or Missing(None)
        idle_s = max(0.0, now - record.touched)
        return Listed(key, record.head, row.state_bytes, idle_s, row.id)

    def live(self, model: str) -> int:
        """Number of live records of a model; an expired one counts until it is swept."""
        return self._live.get(model, 0)

    def statistics(self) -> StoreStatistics:
        """Counts, bytes of the files, and what is wrong."""
        problem = self._file.flusher.problem or self._file.full
        writable = not problem
        if self._damaged and not problem:
            names = ", ".join(f"{k.model}/{k.correlation_id!r}" for k in [*self._damaged][:5])
            problem = f"{len(self._damaged)} damaged records: {names}"
        live, size = sum(self._live.values()), self._file.stored_bytes
        return StoreStatistics(live, self._tombstones, size, writable, problem)

    # -- making and ending ---------------------------------------------------------------

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
        row = self._find(target, now)
        standing = self._standing(row, now)
        verdict = judge_fork(self._standing(origin, now), at_step, standing, incarnation, replaces)
        if verdict is not None:
            return verdict
        if origin is None or origin.record is None:
            raise StateDamagedError(f"the source cannot be read: {origin and origin.problem}")
        try:
            whole = self._parts.whole(origin.id, origin.record)
        except codec.RecordError as error:
            raise StateDamagedError(f"the source cannot be read: {error}") from error
        kept = whole.head
        wall = self._time.wall(now)
        head = replace(
            kept,
            incarnation=incarnation,
            epoch=0,
            receipts=(),
            created=wall,
            ttl_s=kept.ttl_s if ttl_s is None else ttl_s,
        )
        reason = EndReason.ROLLED_BACK if replaces else EndReason.DISPLACED
        return self._create(target, head, whole.state, standing, now, reason)

    def put(self, key: SequenceKey, head: RecordHead, state: StateRow) -> CommitResult:
        """Import: create a record as given; a live one is Conflict, a dead incarnation Gone."""
        now = self._time()
        row = self._find(key, now)
        standing = self._standing(row, now)
        verdict = judge_put(standing, head.incarnation)
        if verdict is not None:
            return verdict
        return self._create(key, replace(head, ending=None), state, standing, now)

    def delete(self, key: SequenceKey, incarnation: bytes, reason: EndReason) -> CommitResult:
        """End a sequence by (key, incarnation). Again it is Gone with the first ending.

        Works on a damaged record too: that is how one is given up.
        """
        now = self._time()
        row = self._find(key, now)
        verdict = judge_delete(self._standing(row, now), incarnation)
        if verdict is not None or row is None:
            return verdict or Gone(None)
        record = row.record or self._salvaged(key, row, now)
        ended = self._buried(record, Ending(reason, row.step, self._time.wall(now)), now)
        self._write(lambda counts: self._update(ended, row, counts), now, record.head.level)
        return Ok(self._reached(record.head.level))

    def sweep(
        self, limit: int, busy: Container[SequenceKey]
    ) -> list[tuple[SequenceKey, RecordHead]]:
        """End up to ``limit`` expired sequences, except the busy ones; old tombstones go too."""
        now = self._time()
        self._file.help_flusher()
        found = self._file.rows(
            _SELECT + "due < ? ORDER BY due LIMIT ?",
            (now, 4 * limit + 64),
        )
        if not found:
            # Also to see whether a full disk has room again.
            if self._file.full or now - self._saved > _SAVE_TIME_S:
                self._write(lambda _counts: None, now, "")
            return []
        rows = [self._decode(values) for values in found]
        return self._write(lambda counts: self._settle(rows, limit, busy, now, counts), now, "")

    def _settle(
        self,
        rows: Sequence[_Row],
        limit: int,
        busy: Container[SequenceKey],
        now: float,
        counts: _Counts,
    ) -> list[tuple[SequenceKey, RecordHead]]:
        ended: list[tuple[SequenceKey, RecordHead]] = []
        for row in rows:
            record = row.record
            if record is None:  # left for a person to look at
                self._file.run("UPDATE sequences SET due = NULL WHERE id = ?", (row.id,))
                continue
            due = self._due(record)
            ending = self._ending(record, now)
            if due is None or due >= now:
                self._file.run("UPDATE sequences SET due = ? WHERE id = ?", (due, row.id))
            elif not row.live:
                self._file.run("DELETE FROM sequences WHERE id = ?", (row.id,))
                counts.tombstones -= 1
            elif ending is not None and record.key not in busy and len(ended) < limit:
                dead = self._buried(record, ending, due)
                self._update(dead, row, counts)
                ended.append((record.key, dead.head))
        return ended

    # -- rows ------------------------------------------------------------------------------

    def _find(self, key: SequenceKey, now: float) -> _Row | None:
        """The row of a key, unless it is a tombstone past its retention."""
        rows = self._file.rows(_SELECT + "key = ?", (codec.encode_key(key),))
        if not rows:
            return None
        row = self._decode(rows[0])
        if row.record is None:
            return row if row.live else None  # of the dead there is nothing to lose
        ended = row.record.touched
        if row.live:
            ended = expires(row.record.touched, row.record.head.ttl_s)
        return None if now > ended + self._tombstone_s else row

    def _look(
        self, key: SequenceKey, now: float, *, whole: bool = False
    ) -> tuple[_Row | None, codec.Record | None, Missing | Damaged | None]:
        """The live record of a key, or why there is none."""
        try:
            row = self._find(key, now)
        except StateDamagedError as error:
            return None, None, Damaged(error.message)
        if row is None:
            return None, None, Missing(None)
        if row.record is None:
            return row, None, Damaged(row.problem)
        ending = self._ending(row.record, now)
        if ending is not None:
            return row, None, Missing(replace(row.record.head, ending=ending))
        if not whole:
            return row, row.record, None
        try:
            return row, self._parts.whole(row.id, row.record), None
        except codec.RecordError as error:
            self._damaged[key] = str(error)
            return row, None, Damaged(str(error))

    def _decode(self, values: tuple[Any, ...], *, with_state: bool = True) -> _Row:
        row_id, key, live, incarnation, epoch, step, since, session, due, size, blob = values
        record: codec.Record | None = None
        problem = ""
        try:
            record = codec.decode_record(blob, with_state=with_state)
            told = (record.head.incarnation, record.head.epoch, record.head.step)
            if codec.encode_key(record.key) != key or told != (incarnation, epoch, step):
                record, problem = None, "the record does not belong to its row"
        except codec.RecordError as error:
            problem = str(error)
        if problem:
            with contextlib.suppress(codec.RecordError):
                self._damaged[codec.decode_key(key)] = problem
        return _Row(
            row_id, bool(live), incarnation, epoch, step, since, session, due, size, record,
            problem, blob,
        )  # fmt: skip

    def _standing(self, row: _Row | None, now: float) -> Standing | None:
        """What the rules need.

        A damaged record counts as live, and no repeat is found in it: its owner may
        overwrite it with the next step, nobody else may touch it.
        """
        if row is None:
            return None
        if row.record is None:
            return Standing(row.incarnation, row.epoch, row.step, None, None)
        receipts = row.record.head.receipts
        return Standing(
            row.incarnation,
            row.epoch,
            row.step,
            receipts[-1] if receipts else None,
            self._ending(row.record, now),
            row.record.before,
            row.record.before_ending,
        )

    def _ending(self, record: codec.Record, now: float) -> Ending | None:
        """How a record ended, also where no sweep has noticed yet."""
        head = record.head
        if head.ending is None:
            until = expires(record.touched, head.ttl_s)
            if until < now:
                return Ending(EndReason.EXPIRED, head.step, self._time.wall(until))
        return head.ending

    def _due(self, record: codec.Record) -> float | None:
        """When to look at a record again, ``None`` for never."""
        if record.head.ending is not None:
            return record.touched + self._tombstone_s
        until = expires(record.touched, record.head.ttl_s)
        return None if until == NEVER else until

    def _buried(self, record: codec.Record, ending: Ending, moment: float) -> codec.Record:
        """The tombstone of a record: receipts without state; ``touched`` is its end."""
        head = replace(record.head, ending=ending)
        return record._replace(kind=codec.DELETE, head=head, state=None, touched=moment)

    def _salvaged(self, key: SequenceKey, row: _Row, now: float) -> codec.Record:
        """What the columns still tell of a damaged record."""
        head = RecordHead(
            row.incarnation, row.epoch, row.step, (), "", "", "", self._time.wall(now), 0.0, ""
        )
        return codec.Record(codec.PUT, 0, key, head, None, touched=now)

    # -- writing ---------------------------------------------------------------------------

    def _create(
        self,
        key: SequenceKey,
        head: RecordHead,
        state: StateRow | None,
        standing: Standing | None,
        now: float,
        reason: EndReason = EndReason.DISPLACED,
    ) -> CommitResult:
        before, before_ending = succeeded(standing, self._time.wall(now), reason)
        record = codec.Record(
            codec.PUT, 0, key, head, state, touched=now, before=before, before_ending=before_ending
        )
        self._write(lambda counts: self._insert(record, counts), now, head.level)
        return Ok(self._reached(head.level))

    def _insert(self, record: codec.Record, counts: _Counts) -> None:
        """Write a new row in the place of whatever the key had; it is the youngest."""
        blob = codec.encode(record)
        key = codec.encode_key(record.key)
        gone = self._file.rows("DELETE FROM sequences WHERE key = ? RETURNING live, id", (key,))
        for was_live, row_id in gone:
            self._parts.drop(row_id)
            counts.move(group_of(record.key), -1, live=bool(was_live))
        head = record.head
        live = head.ending is None
        size = 0 if record.state is None else record.state.nbytes
        self._file.run(
            "INSERT INTO sequences (key, model, live, incarnation, epoch, step, owned_since,"
            " session, due, state_bytes, record) VALUES (?, ?, ?, ?, ?, ?, 0.0, 0, ?, ?, ?)",
            (
                key, group_of(record.key), live, head.incarnation, head.epoch, head.step,
                self._due(record), size, blob,
            ),
        )  # fmt: skip
        counts.move(group_of(record.key), 1, live=live)
        counts.whole.append(record.key)
        counts.bytes += len(blob)

    def _update(self, record: codec.Record, row: _Row, counts: _Counts) -> None:
        """Write a row again; ``due`` only moves forward in time when sweep does it."""
        size = 0 if record.state is None else record.state.nbytes
        if row.record is None or row.record.kind == codec.GROW:
            self._parts.drop(row.id)
        blob = codec.encode(record)
        self._rewrite(record, row, size, blob, counts)

    def _grow(self, record: codec.Record, state: GrownRow, row: _Row, counts: _Counts) -> None:
        """Write what a step changed of a state, or the whole of it where that is due."""
        blob = None
        if state.change is not None and row.record is not None:
            blob = self._parts.add(row.id, row.blob, record, state)
        if blob is None:
            self._update(record, row, counts)
        else:
            self._rewrite(record, row, state.nbytes, blob, counts)

    def _rewrite(
        self, record: codec.Record, row: _Row, size: int, blob: bytes, counts: _Counts
    ) -> None:
        head = record.head
        live = head.ending is None
        due = self._due(record)
        if live and row.due is not None and (due is None or due > row.due):
            due = row.due
        self._file.run(
            "UPDATE sequences SET live = ?, epoch = ?, step = ?, owned_since = ?, session = ?,"
            " due = ?, state_bytes = ?, record = ? WHERE id = ?",
            (
                live, head.epoch, head.step, row.owned_since, row.session, due, size,
                blob, row.id,
            ),
        )  # fmt: skip
        if row.live and not live:
            counts.move(group_of(record.key), -1, live=True)
            counts.move(group_of(record.key), 1, live=False)
        counts.whole.append(record.key)
        counts.bytes += len(blob)

    def _write(self, work: Callable[[_Counts], T], now: float, level: str) -> T:
        """Run ``work`` in one transaction, at no less than ``level``; counts follow it."""
        counts = _Counts()
        with self._file.transaction(full=_rank(level) >= _rank("disk")):
            result = work(counts)
            self._file.run("UPDATE store SET time = ?", (now,))
        self._saved = now
        for key in counts.whole:
            self._damaged.pop(key, None)
        for model, change in counts.live.items():
            self._live[model] = self._live.get(model, 0) + change
        self._tombstones += counts.tombstones
        self._file.flusher.written(counts.bytes)
        return result

    def _reached(self, asked: str) -> str:
        """The level of a commit: the store's, or what the sequence asked, up to ``disk``."""
        return "disk" if self.level == "disk" or _rank(asked) >= _rank("disk") else self.level

    # -- listing -----------------------------------------------------------------------------

    def list(self, model: str | None = None, *, after: int = 0) -> Iterator[Listed]:
        """Live records, oldest first, without those created since the call.

        Damaged ones are left out; :meth:`statistics` names them.
        """
        ((newest,),) = self._file.rows("SELECT max(id) FROM sequences")
        return self._list(model, after, newest or 0)

    def _list(self, model: str | None, after: int, newest: int) -> Iterator[Listed]:
        last = after
        while True:
            rows = self._file.rows(
                _SELECT + "id > ?1 AND id <= ?2 AND live"
                " AND (model = ?3 OR ?3 IS NULL AND substr(model, 1, ?5) <> ?6)"
                " ORDER BY id LIMIT ?4",
                (last, newest, model, _PAGE, len(SNAPSHOTS), SNAPSHOTS),
            )
            now = self._time()
            for values in rows:
                row = self._decode(values, with_state=False)
                last = row.id
                if row.record is not None and self._ending(row.record, now) is None:
                    idle = max(0.0, now - row.record.touched)
                    yield Listed(row.record.key, row.record.head, row.state_bytes, idle, row.id)
            if len(rows) < _PAGE:
                return


def _rank(level: str) -> int:
    """Strength of a level; "" asks for nothing."""
    return LEVELS.index(level) if level else 0
