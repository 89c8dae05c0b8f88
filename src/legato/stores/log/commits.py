"""The commit of a batch: decide, write once, flush if asked, then publish.

This is the hot path, at most a few microseconds a step: a sequence in use is compared
with its row in place, encoded, and its row rewritten with one ``pack_into``. Whatever
is not simply the next step of a live sequence goes the slow way, through the rules.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

from legato.core.pages import GrownRow
from legato.core.types import Ending, RecordHead, StateRow
from legato.faults import fault
from legato.stores.base import Commit, CommitResult, Ok
from legato.stores.codec import StepEncoder, encode_key
from legato.stores.log.hot import Hot, HotCache
from legato.stores.log.journal import Change, Journal
from legato.stores.log.table import (
    CHAINED,
    DAMAGED,
    DECIDE,
    DECIDE_AT,
    LIVE,
    PUBLISH,
    PUBLISH_AT,
    SUCCESSOR,
    Row,
    digest_of,
)
from legato.stores.rules import expires, judge, succeeded

if TYPE_CHECKING:
    from collections.abc import Sequence

_KNOWN = LIVE | DAMAGED | CHAINED
_KEY = operator.itemgetter(0)

_Step = tuple[Hot, int, int, int, int, int, int, int]
"""A written step: its sequence, step, serial, size, state bytes; the row's segment, length,
state bytes."""


class CommitPath:
    """Commits batches into a journal."""

    def __init__(self, journal: Journal, hot: HotCache, level: str) -> None:
        self._journal = journal
        self._hot = hot
        self._flushed = Ok("disk")
        self._plain = self._flushed if level == "disk" else Ok(level)
        self._by_level = {
            "": self._plain,
            "none": self._plain,
            "process": self._plain,
            "disk": self._flushed,
            "replicated": self._flushed,  # the most that one node can confirm
        }

    def reached(self, level: str) -> Ok:
        """What a commit of a sequence with this level reaches."""
        return self._by_level.get(level, self._plain)

    def settle(self, level: str) -> Ok:
        """Flush if the level asks for it, after a write that is not a batch's."""
        ok = self.reached(level)
        if ok is self._flushed:
            self._journal.segments.flush()
        return ok

    def commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        """Commit entries of any sequences, also several of one."""
        if len(set(map(_KEY, batch))) == len(batch):
            return self._commit(batch)
        # An entry is decided against the outcome of those before it.
        cut = _first_repeat(batch)
        return self._commit(batch[:cut]) + self.commit(batch[cut:])

    def _commit(self, batch: Sequence[Commit]) -> list[CommitResult]:
        journal, hot_cache = self._journal, self._hot
        young = hot_cache.young
        flushed, unpack = self._flushed, DECIDE.unpack_from
        now = journal.time()
        results: list[CommitResult] = []
        written: list[_Step | Change] = []
        pieces: list[bytes] = []
        total = 0
        flush = False
        for entry in batch:
            key, incarnation, epoch, step, receipts, state, create, _, end = entry[:9]
            hot = young.get(key)
            if hot is None:
                hot = hot_cache.revive(key)
                young = hot_cache.young
            fields = entry[9:14]
            if (
                hot is not None
                and not create
                and end is None
                and state.__class__ is StateRow
                and hot.fields == fields
            ):
                owned, era, flags, last, touched, old_segment, old_length, old_state = (
                    unpack(hot.page, hot.at + DECIDE_AT)
                )  # fmt: skip
                if (
                    last == step - 1
                    and owned == incarnation
                    and era == epoch
                    and flags & _KNOWN == LIVE
                    and (fields[3] <= 0.0 or now - entry[14] <= touched + fields[3])
                ):
                    journal.serial = serial = journal.serial + 1
                    size, state_size = hot.encode(pieces, serial, epoch, step, now, receipts, state)
                    written.append(
                        (hot, step, serial, size, state_size, old_segment, old_length, old_state)
                    )
                    total += size
                    ok = hot.reached
                    flush |= ok is flushed
                    results.append(ok)
                    continue
            outcome = self._decide(entry, now)
            if isinstance(outcome, Change):
                written.append(outcome)
                pieces += outcome.pieces
                total += outcome.size
                ok = self.reached(entry.level)
                flush |= ok is flushed
                results.append(ok)
            else:
                results.append(outcome)
        if not written:
            return results
        if total > journal.segments.limit and len(batch) > 1:
            # Too much for one file. Nothing is written yet; the serials are simply not used.
            half = len(batch) // 2
            return self._commit(batch[:half]) + self._commit(batch[half:])
        offset = journal.append(pieces, total, faults=True)
        if flush:
            journal.segments.flush(faults=True)
        fault("commit.before_publish")
        self._publish(written, offset, now, batch)
        return results

    def _publish(
        self, written: list[_Step | Change], offset: int, now: float, batch: Sequence[Commit]
    ) -> None:
        """Make written records current, in the order in which they lie in the log."""
        journal = self._journal
        segments = journal.segments.by_number
        tail = journal.segments.tail
        number = tail.number
        grown = added = 0
        entries: dict[object, Commit] | None = None
        for item in written:
            if isinstance(item, Change):
                entries = entries or {entry.key: entry for entry in batch}
                slot = journal.apply(item, number, offset)
                self._warm(item, slot, entries[item.key])
                offset += item.size
                continue
            hot, step, serial, size, state_size, old_segment, old_length, old_state = item
            PUBLISH.pack_into(
                hot.page, hot.at + PUBLISH_AT,
                step, serial, now, number, offset, size, state_size,
            )  # fmt: skip
            if old_segment == number:
                added -= old_length
            elif old_segment in segments:
                segments[old_segment].live -= old_length
            added += size
            grown += state_size - old_state
            offset += size
        tail.live += added
        journal.table.resized(grown)

    def _warm(self, change: Change, slot: int, entry: Commit) -> None:
        if change.row.live and not isinstance(entry.state, GrownRow):
            place = self._journal.table.place(slot)
            encoder = StepEncoder(encode_key(change.key), change.constants)
            hot = Hot(place, encoder, entry[9:14], self.reached(entry.level))
            self._hot.put(change.key, hot)
        else:
            self._hot.drop(change.key)

    # -- the slow way ---------------------------------------------------------------------

    def _decide(self, entry: Commit, now: float) -> CommitResult | Change:
        """Everything but the next step of a sequence in use."""
        journal = self._journal
        arrived = now - entry.waited_s
        key_bytes = encode_key(entry.key)
        digest = digest_of(key_bytes)
        row = journal.table.find(digest)
        if row is not None and self._is_next(row, entry, arrived):
            if row.flags & SUCCESSOR:
                record = journal.find(entry.key, arrived).record
                before = (b"", None) if record is None else (record.before, record.before_ending)
            else:
                before = b"", None
            return self._compose(entry, key_bytes, digest, row, before, now)
        found = journal.find(entry.key, arrived)
        verdict = judge(found.standing, entry)
        if verdict is not None:
            return verdict
        before = succeeded(found.standing, journal.time.wall(now))
        return self._compose(entry, key_bytes, digest, None, before, now)

    def _is_next(self, row: Row, entry: Commit, arrived: float) -> bool:
        return (
            not entry.create
            and row.flags & (LIVE | DAMAGED) == LIVE
            and row.incarnation == entry.incarnation
            and row.epoch == entry.epoch
            and row.step == entry.step - 1
            and arrived <= expires(row.touched, row.ttl_s)
        )

    def _compose(
        self,
        entry: Commit,
        key_bytes: bytes,
        digest: int,
        row: Row | None,
        before: tuple[bytes, Ending | None],
        now: float,
    ) -> Change:
        """Prepare the record of an accepted entry; ``row`` is ``None`` for a new incarnation."""
        journal = self._journal
        wall = journal.time.wall(now)
        head = RecordHead(
            incarnation=entry.incarnation,
            epoch=entry.epoch,
            step=entry.step,
            receipts=entry.receipts,
            version=entry.version,
            model_digest=entry.model_digest,
            dialect=entry.dialect,
            created=wall if row is None else row.created,
            ttl_s=entry.ttl_s,
            level=entry.level,
            ending=None if entry.end is None else Ending(entry.end, entry.step, wall),
        )
        state = entry.state
        if row is not None and isinstance(state, GrownRow) and head.ending is None:
            grown = journal.compose_grown(
                entry.key, key_bytes, digest, head, state, row, touched=now, before=before
            )
            if grown is not None:
                return grown
        return journal.compose(
            entry.key,
            key_bytes,
            digest,
            head,
            entry.state,
            touched=now,
            owner=0 if row is None else row.owner,
            origin=None if row is None else row.origin,
            before=before[0],
            before_ending=before[1],
        )


def _first_repeat(batch: Sequence[Commit]) -> int:
    """Where the first entry is that is not the first of its sequence."""
    seen = set()
    for number, entry in enumerate(batch):
        if entry[0] in seen:
            return number
        seen.add(entry[0])
    return len(batch)
