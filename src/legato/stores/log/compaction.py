"""Making room: what is still needed of a mostly dead segment is copied to the tail.

In slices, between batches. A segment so emptied is deleted once the copies are
flushed *and* a checkpoint that knows of them is in place; until then both exist,
and the serials say that they are the same.

A tombstone must outlive every older record of its key that is still on some disk
block, or the dead would rise at the next full scan (D7). It notes in which segments those
may lie, and is copied along, without receipts, while one of these exists.

Of a file that this process has written the index and the file's marks tell where what is
needed lies: nothing else is read. A file from before the start is read from front to back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from legato.faults import fault
from legato.stores import codec
from legato.stores.codec import DELETE, OWN, PREFIX_SIZE, PUT, SEAL, Frame, Record, RecordError
from legato.stores.log.segments import Place
from legato.stores.log.table import (
    CHAINED,
    DAMAGED,
    FLAGS_AT,
    LOCATION,
    LOCATION_AT,
    digest_of,
)
from legato.stores.log.window import Window

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.stores.log.journal import Journal
    from legato.stores.log.segments import Segment
    from legato.stores.log.table import Row

SLICE_BYTES = 4 * 1024 * 1024
SLICE_S = 0.005
_LIVE_SHARE = 0.5
_SKIP_RECORDS = 512
_FLOOR = 4 * 1024 * 1024
_PEEK, _FORWARD = 64 * 1024, 4 * 1024 * 1024


def choose(journal: Journal, emptied: set[int]) -> Segment | None:
    """The emptiest sealed segment that is worth compacting, if there is room for the copies."""
    segments = journal.segments
    candidates = [
        segment
        for segment in segments.by_number.values()
        if segment is not segments.tail
        and segment.number not in emptied
        and segment.movable
        and segment.live < _LIVE_SHARE * segment.size
    ]
    if not candidates:
        return None
    best = min(candidates, key=lambda segment: segment.live / segment.size)
    # A floor of free space: the copies must not take what the next commits need.
    return best if segments.free_bytes() > 2 * best.live + _FLOOR else None


class Compaction:
    """One segment being emptied."""

    def __init__(self, journal: Journal, segment: Segment) -> None:
        self.segment = segment
        self._journal = journal
        known = segment.marks is not None
        self._window = Window(segment.fd, segment.size, _PEEK if known else _FORWARD)
        self._needed = list(segment.marks or ())
        self._sought = 0 if known else None
        self._offset = 0
        self._copied = 0

    def step(self, clock: Callable[[], float], budget_s: float) -> bool:
        """Go on for one slice; true when nothing in the segment is needed any more.

        A segment with a damaged record that is needed, or of which that is not known, is left
        as it is, for a person to look at.
        """
        end = clock() + min(budget_s, SLICE_S)
        self._copied = 0
        try:
            while self._offset < self.segment.size:
                if self._sought is not None:
                    self._seek()
                else:
                    self._go_on()
                if self._copied >= SLICE_BYTES or clock() >= end:
                    break
        except (RecordError, OSError):
            self.segment.movable = False
        finally:
            if self._copied:
                fault("compact.after_copy")
        return self._offset >= self.segment.size

    def _seek(self) -> None:
        """Look at some pages of the index for records that lie here.

        Nothing is written to a sealed segment, so a row that points elsewhere never comes back.
        """
        table, page = self._journal.table, self._sought or 0
        if page < table.pages:
            self._needed += table.offsets_in(self.segment.number, page)
        self._sought = page + 1
        if page + 1 >= table.pages:
            self._sought = None
            self._needed += self._journal.chains.offsets_in(self.segment.number)
            # In the order of the file, taken from the end; current tombstones are in it twice.
            self._needed = sorted(set(self._needed), reverse=True)

    def _go_on(self) -> None:
        """Deal with the next record that may be needed."""
        if self.segment.marks is None:
            self._skip_dead()
            if self._offset < self.segment.size:
                self._next()
        elif self._needed:
            self._offset = self._needed.pop()
            self._next()
        else:
            self._offset = self.segment.size

    def _skip_dead(self) -> None:
        """Pass states that no row points to, within what is read: they are the most by far."""
        table, data = self._journal.table, self._window.data
        number, start = self.segment.number, self._window.start
        for _ in range(_SKIP_RECORDS):
            at = self._offset - start
            if at < 0 or at + PREFIX_SIZE > len(data):
                return
            total, kind, key_size = codec.outline(data, at)
            if kind != PUT or total < PREFIX_SIZE + key_size or at + total > len(data):
                return
            slot = table.slot(digest_of(data[at + PREFIX_SIZE : at + PREFIX_SIZE + key_size]))
            if slot is None:
                # A key of which nothing is known: gone, if it is not a wrong one.
                if not codec.header_holds(data, at):
                    return
            else:
                page, row_at = table.place(slot)
                here = LOCATION.unpack_from(page, row_at + LOCATION_AT) == (number, self._offset)
                if here or page[row_at + FLAGS_AT] & CHAINED:
                    return
            self._offset += total

    def _next(self) -> None:
        at = self._window.reach(self._offset, PREFIX_SIZE)
        at = self._window.reach(self._offset, codec.stated_size(self._window.data, at))
        data = self._window.data
        frame = codec.read_frame(data, at)
        if frame.kind != SEAL:
            # The key decides whether the record is needed: it must be the right one.
            if not codec.header_holds(data, at):
                raise RecordError("a header in a segment under compaction is damaged")
            key = data[at + PREFIX_SIZE : at + PREFIX_SIZE + frame.key_size]
            digest = digest_of(key)
            row = self._journal.table.find(digest)
            if frame.kind == OWN:
                self._carry_owner(row, frame)
            elif row is not None and self._is_current(row):
                codec.check_record(data, at)
                self._move(row, data[at : at + frame.total])
            elif row is not None and self._is_part(row, digest):
                self._make_whole(row)
            elif frame.kind == DELETE:
                codec.check_record(data, at)
                self._pin(codec.decode_record(data[at : at + frame.total]))
        self._offset += frame.total

    def _is_current(self, row: Row) -> bool:
        return row.segment == self.segment.number and row.offset == self._offset

    def _is_part(self, row: Row, digest: int) -> bool:
        chained = row.flags & CHAINED and not row.flags & DAMAGED
        return bool(chained) and self._journal.chains.holds(
            digest, self.segment.number, self._offset
        )

    def _make_whole(self, row: Row) -> None:
        """Write a state that is in parts as a whole: its parts are not moved one by one."""
        journal = self._journal
        record = journal.load(None, row, with_state=True)
        owner = journal.table.owners.name(row.owner)
        place = self._append(codec.encode(record._replace(owner=owner, serial=row.serial)))
        old = journal.segments.by_number.get(row.segment)
        if old is not None:
            old.live -= row.length
        journal.retire_chain(int.from_bytes(row.digest, "little"))
        journal.segments.tail.live += place.length
        journal.table.relocate(
            row, place, lambda moved: moved._replace(flags=moved.flags & ~CHAINED)
        )

    def _move(self, row: Row, blob: bytes) -> None:
        """Copy a current record; one whose owner changed since is written anew."""
        if row.flags & CHAINED:
            self._make_whole(row)
            return
        record = codec.decode_record(blob)
        owner = self._journal.table.owners.name(row.owner)
        if (record.head.epoch, record.owner, record.serial) != (row.epoch, owner, row.serial):
            head = replace(record.head, epoch=row.epoch)
            blob = codec.encode(record._replace(head=head, owner=owner, serial=row.serial))
        place = self._append(blob)
        if not row.live:
            self._journal.segments.tail.mark(place.offset)
        old = self._journal.segments.by_number.get(row.segment)
        if old is not None:
            old.live -= row.length
        self._journal.segments.tail.live += place.length
        self._journal.table.relocate(row, place)

    def _carry_owner(self, row: Row | None, frame: Frame) -> None:
        """An owner noted here goes into the record itself, which is written anew."""
        if row is None or row.serial != frame.serial or row.flags & DAMAGED:
            return
        if row.segment == self.segment.number and row.offset > self._offset:
            return  # its turn comes
        blob = self._journal.segments.read(Place(row.segment, row.offset, row.length))
        if blob is None:
            raise RecordError("the record of a new owner is missing")
        if codec.check_record(blob).serial != row.serial:
            self._move(row, blob)

    def _pin(self, record: Record) -> None:
        segments = self._journal.segments
        if not segments.holds_any(*record.span, besides=self.segment.number):
            return
        head = replace(record.head, receipts=())
        blob = codec.encode(record._replace(head=head))
        segments.tail.mark(self._append(blob).offset)
        segments.pin(len(blob), *record.span)

    def _append(self, blob: bytes) -> Place:
        offset = self._journal.append([blob], len(blob))
        self._copied += len(blob)
        return Place(self._journal.segments.tail.number, offset, len(blob))
