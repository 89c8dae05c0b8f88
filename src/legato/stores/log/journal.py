"""The log and its index as one thing: load a record, write records and point rows at them.

Everything that changes a sequence ends here: first the bytes, then the row
(spec durability, section 5: never the other way round).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import StorageFullError
from legato.core.ids import group_of
from legato.core.types import Ending, EndReason, RecordHead
from legato.stores import codec
from legato.stores.codec import DELETE, PUT, Record, RecordError
from legato.stores.grown import encode_grown
from legato.stores.log.chains import Chains, assemble, link_to
from legato.stores.log.folder import allow_growth
from legato.stores.log.segments import Place, Segments
from legato.stores.log.table import CHAINED, DAMAGED, DEAD, LIVE, SUCCESSOR, Row, Table, digest_of
from legato.stores.rules import NEVER, Standing, expires

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.pages import GrownRow
    from legato.core.types import SequenceKey, StateRow
    from legato.stores.elapsed import Elapsed

_ROOM_BYTES = 1024 * 1024
_MARK_EVERY_S = 60.0
_NOBODY = Standing(b"another key", 0, 0, None, None)


class OtherKeyError(Exception):
    """Two keys have one digest; the record found is the other's."""


class Change(NamedTuple):
    """A record ready to be written, and the row that it makes current."""

    key: SequenceKey
    digest: int
    row: Row
    pieces: list[bytes]
    size: int
    constants: bytes


class Found(NamedTuple):
    """What is filed under a key.

    Attributes:
        key_bytes: The encoded key.
        digest: Its digest.
        row: Its row, ``None`` where there is none (or one past its retention).
        record: Its record without state, where it was read and is good.
        standing: For the rules.
        problem: Why the record cannot be trusted, "" = it can.
    """

    key_bytes: bytes
    digest: int
    row: Row | None
    record: Record | None
    standing: Standing | None
    problem: str


class Journal:
    """Table, segments and the counters between them."""

    def __init__(
        self,
        table: Table,
        segments: Segments,
        time: Elapsed,
        *,
        tombstone_s: float,
        serial: int,
        chains: Chains | None = None,
    ) -> None:
        self.table = table
        self.segments = segments
        self.time = time
        self.tombstone_s = tombstone_s
        self.serial = serial
        self.chains = Chains() if chains is None else chains
        self.problem = ""
        self._grows = False
        self._marked = time()

    def __repr__(self) -> str:
        return f"Journal({self.table!r}, {self.segments!r}, serial={self.serial})"

    # -- looking ----------------------------------------------------------------------

    def load(self, key: SequenceKey | None, row: Row, *, with_state: bool) -> Record:
        """Read the record of a row, as it stands (its epoch may run ahead of the bytes).

        Args:
            key: Must be the record's; ``None`` = any, where only the row is known.
            row: The row.
            with_state: Whether the state is wanted.

        Raises:
            RecordError: The record cannot be trusted.
            OtherKeyError: The record is that of another key with the same digest.
        """
        if row.flags & DAMAGED:
            raise RecordError("its newest record was found damaged when the store was opened")
        data = self.segments.read(Place(row.segment, row.offset, row.length))
        if data is None:
            raise RecordError(f"its record is missing from segment {row.segment}")
        record = codec.decode_record(data, with_state=with_state)
        if key is not None and record.key != key:
            if digest_of(codec.encode_key(record.key)) == int.from_bytes(row.digest, "little"):
                raise OtherKeyError
            raise RecordError(f"another sequence's record lies in its place: {record.key}")
        if record.head.incarnation != row.incarnation or record.head.step != row.step:
            raise RecordError(f"a record of step {record.head.step} lies in its place")
        if record.growth:
            state = assemble(self.segments, record)
            record = record._replace(kind=PUT, state=state, growth=b"")
        if record.head.epoch != row.epoch:
            record = record._replace(head=replace(record.head, epoch=row.epoch))
        return record

    def find(self, key: SequenceKey, now: float) -> Found:
        """Look a key up and read its record's head."""
        key_bytes = codec.encode_key(key)
        digest = digest_of(key_bytes)
        row = self.table.find(digest)
        if row is None or now > self.dead_since(row, now) + self.tombstone_s:
            return Found(key_bytes, digest, None, None, None, "")
        try:
            record = self.load(key, row, with_state=False)
        except RecordError as error:
            standing = Standing(
                row.incarnation, row.epoch, row.step, None, self.ending(row, None, now)
            )
            return Found(key_bytes, digest, row, None, standing, str(error))
        except OtherKeyError:
            return Found(key_bytes, digest, row, None, _NOBODY, "")
        standing = Standing(
            row.incarnation,
            row.epoch,
            row.step,
            record.head.receipts[-1] if record.head.receipts else None,
            self.ending(row, record, now),
            record.before,
            record.before_ending,
        )
        return Found(key_bytes, digest, row, record, standing, "")

    def ending(self, row: Row, record: Record | None, now: float) -> Ending | None:
        """How a sequence ended, also where no sweep has noticed yet; ``None`` = live."""
        if row.live:
            until = expires(row.touched, row.ttl_s)
            if now <= until:
                return None
            return Ending(EndReason.EXPIRED, row.step, self.time.wall(until))
        if record is not None and record.head.ending is not None:
            return record.head.ending
        return Ending(EndReason.FAILED, row.step, self.time.wall(row.touched))

    def dead_since(self, row: Row, now: float) -> float:
        """Moment of the end in the store's time; infinity for the living."""
        if not row.live:
            return row.touched
        until = expires(row.touched, row.ttl_s)
        return until if now > until else NEVER

    # -- changing -----------------------------------------------------------------------

    def next_serial(self) -> int:
        """Serial of the next record. Never given twice, even if its write fails."""
        self.serial += 1
        return self.serial

    def compose(
        self,
        key: SequenceKey,
        key_bytes: bytes,
        digest: int,
        head: RecordHead,
        state: StateRow | None,
        *,
        touched: float,
        owner: int = 0,
        origin: int | None = None,
        before: bytes = b"",
        before_ending: Ending | None = None,
    ) -> Change:
        """Prepare a record with this content; a tombstone if the head has an ending.

        Args:
            key: The sequence,
            key_bytes: encoded,
            digest: and digested.
            head: The content, with
            state: its state (``None`` for tombstones).
            touched: Moment in the store's time.
            owner: Number of the owner.
            origin: Serial of the incarnation's first record; ``None`` = this one.
            before: Incarnation that this one took the place of.
            before_ending: How that one ended.
        """
        serial = self.next_serial()
        origin = serial if origin is None else origin
        constants = codec.encode_constants(
            head,
            owner=self.table.owners.name(owner),
            origin=origin,
            before=before,
            before_ending=before_ending,
        )
        tail = self.segments.tail.number
        # Also of a row past its retention: its bytes are older than this record, and still there.
        old = self.table.find(digest)
        born = tail if old is None else old.born
        kind, ending = PUT, b""
        if head.ending is not None:
            kind, ending, state = DELETE, codec.encode_ending(head.ending, born, tail), None
        pieces = codec.encode_record(
            kind, serial, key_bytes, constants, head.epoch, head.step, touched, head.receipts,
            state, ending,
        )  # fmt: skip
        size = sum(map(len, pieces))
        row = Row(
            digest=digest.to_bytes(16, "little"),
            incarnation=head.incarnation,
            epoch=head.epoch,
            created=head.created,
            ttl_s=head.ttl_s,
            origin=origin,
            born=born,
            model=self.table.models.number(group_of(key)),
            owner=owner,
            flags=(LIVE if kind == PUT else DEAD) | (SUCCESSOR if before else 0),
            step=head.step,
            serial=serial,
            touched=touched,
            segment=0,
            offset=0,
            length=size,
            state_bytes=0 if state is None else state.nbytes,
        )
        return Change(key, digest, row, pieces, size, constants)

    def compose_grown(
        self,
        key: SequenceKey,
        key_bytes: bytes,
        digest: int,
        head: RecordHead,
        state: GrownRow,
        row: Row,
        *,
        touched: float,
        before: tuple[bytes, Ending | None] = (b"", None),
    ) -> Change | None:
        """Prepare a record of what a step changed; ``None`` where a whole one is due.

        Args:
            key: The sequence,
            key_bytes: encoded,
            digest: and digested.
            head: The content, with
            state: its state, which says what the step changed.
            row: The row of the record of the step before.
            touched: Moment in the store's time.
            before: As that record has them: the incarnation before, and how it ended.
        """
        if state.change is None or row.flags & DAMAGED:
            return None
        chain = self.chains.get(digest)
        back = 1 if chain is None else len(chain.places) + 1
        link = link_to(self.segments, row, back, state.nbytes)
        if link is None or not self._may_grow():
            return None
        constants = codec.encode_constants(
            head,
            owner=self.table.owners.name(row.owner),
            origin=row.origin,
            before=before[0],
            before_ending=before[1],
        )
        serial = self.next_serial()
        pieces = encode_grown(
            serial, key_bytes, constants, head.epoch, head.step, touched, head.receipts, link, state
        )
        size = sum(map(len, pieces))
        if not self.chains.room_for(row, digest, size):
            return None
        grown = row._replace(
            epoch=head.epoch,
            flags=row.flags | CHAINED,
            step=head.step,
            serial=serial,
            touched=touched,
            length=size,
            state_bytes=state.nbytes,
        )
        return Change(key, digest, grown, pieces, size, constants)

    def _may_grow(self) -> bool:
        """Mark the folder as one with states in parts, once."""
        if not self._grows:
            try:
                allow_growth(self.segments.folder)
            except OSError:
                return False  # a full disk, say: whole records are understood anyway
            self._grows = True
        return True

    def entomb(
        self, key: SequenceKey, found: Found, row: Row, reason: EndReason, at: float
    ) -> Change:
        """Prepare the tombstone of a live record; receipts stay, the state goes."""
        ending = Ending(reason, row.step, self.time.wall(at))
        record = found.record
        head = head_of_row(row) if record is None else record.head
        return self.compose(
            key,
            found.key_bytes,
            found.digest,
            replace(head, ending=ending),
            None,
            touched=at,
            owner=row.owner,
            origin=row.origin,
            before=b"" if record is None else record.before,
            before_ending=None if record is None else record.before_ending,
        )

    def write(self, changes: Sequence[Change]) -> None:
        """Write records and make them current.

        Raises:
            StorageFullError: Nothing was written and nothing changed.
        """
        pieces = [piece for change in changes for piece in change.pieces]
        offset = self.append(pieces, sum(change.size for change in changes))
        number = self.segments.tail.number
        for change in changes:
            self.apply(change, number, offset)
            offset += change.size

    def append(self, pieces: Sequence[bytes], size: int, *, faults: bool = False) -> int:
        """Write bytes at the end of the log; give the offset in the tail.

        Raises:
            StorageFullError: Nothing was written and nothing changed.
        """
        try:
            self.segments.make_room(size)
            offset = self.segments.append(pieces, size, faults=faults)
        except OSError as error:
            self.problem = f"the store could not write: {error.strerror or error}"
            raise StorageFullError(
                f"{self.problem}; nothing was changed, the same step may be sent again",
                retry_after_s=1.0,
            ) from error
        self.problem = ""
        self._marked = self.time()
        return offset

    def apply(self, change: Change, segment: int, offset: int) -> int:
        """Make a written record current; give its slot."""
        old = self.table.find(change.digest)
        if old is not None and change.row.flags & CHAINED:
            behind = Place(old.segment, old.offset, old.length)
            self.chains.extend(change.digest, behind, change.size)
        elif old is not None:
            self._retire(old)
        file = self.segments.by_number[segment]
        file.live += change.size
        if not change.row.live:
            file.mark(offset)
        row = change.row._replace(segment=segment, offset=offset, length=change.size)
        return self.table.set(change.digest, row)

    def forget(self, digest: int) -> None:
        """Drop a tombstone out of the index; compaction decides about its bytes."""
        row = self.table.find(digest)
        if row is not None:
            self._retire(row)
            self.table.remove(digest)

    def own(self, digest: int, row: Row, record: Record, owner: str) -> Row:
        """Raise the epoch for a new owner, and note it in the log if that can be written.

        If it cannot, the epoch is raised in memory only. That is safe: the folder is
        locked, so everyone who holds the lower epoch is in this process and dies with it.
        """
        number = self.table.owners.number(owner)
        epoch = row.epoch + 1
        serial = self.next_serial()
        head = replace(record.head, epoch=epoch, receipts=())
        blob = codec.encode(
            Record(
                codec.OWN, serial, record.key, head, None, owner, self.time(), row.origin,
                record.before, record.before_ending,
            )
        )  # fmt: skip
        try:
            offset = self.append([blob], len(blob))
            self.segments.tail.mark(offset)
        except StorageFullError:
            serial = row.serial
        raised = row._replace(epoch=epoch, owner=number, serial=serial)
        self.table.set(digest, raised)
        return raised

    def mark_time(self) -> None:
        """Note the time in the log, once a minute, or to see whether it can be written again."""
        if not self.problem and self.time() - self._marked < _MARK_EVERY_S:
            return
        if self.problem and self.segments.free_bytes() < _ROOM_BYTES:
            return  # the mark would find the rest of a page, where no commit fits
        seal = codec.encode_seal(self.next_serial(), self.time())
        try:
            self.append([seal], len(seal))
        except StorageFullError:
            self._marked = self.time()

    def retire_chain(self, digest: int) -> None:
        """What lies behind the newest record of a key is needed no more."""
        for place in self.chains.drop(digest):
            segment = self.segments.by_number.get(place.segment)
            if segment is not None:
                segment.live -= place.length

    def _retire(self, row: Row) -> None:
        segment = self.segments.by_number.get(row.segment)
        if segment is not None:
            segment.live -= row.length
        if row.flags & CHAINED:
            self.retire_chain(int.from_bytes(row.digest, "little"))


def head_of_row(row: Row) -> RecordHead:
    """What the index alone knows of a record."""
    return RecordHead(
        row.incarnation, row.epoch, row.step, (), "", "", "", row.created, row.ttl_s, ""
    )
