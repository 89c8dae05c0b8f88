"""Opening a log: the index from the checkpoint and from the records after it.

The highest serial of a key wins; copies made by compaction keep their serial, so
their position does not matter. An invalid record in the last segment is a torn
tail: nothing is read past it. In an earlier segment it is damage: the sequence it
belongs to is marked, and reading goes on behind it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from legato.faults import fault
from legato.stores import codec
from legato.stores.codec import GROW, OWN, PREFIX_SIZE, PUT, SEAL, Frame, Glance, RecordError
from legato.stores.log.chains import Chains, follow
from legato.stores.log.checkpoint import Position, load_checkpoint
from legato.stores.log.table import CHAINED, DAMAGED, DEAD, LIVE, SUCCESSOR, Row, Table, digest_of
from legato.stores.log.window import Window

if TYPE_CHECKING:
    from legato.stores.log.segments import Segment, Segments

_NO_INCARNATION = bytes(16)
_LIVING = (PUT, GROW)


@dataclass(slots=True)
class Report:
    """What recovery found.

    Attributes:
        serial: Highest serial in the log.
        time: Last moment noted in the log, in the store's own time; ``None`` for a new log.
        records: Records read.
        damaged: Sequences marked as damaged.
        unnamed: Damaged places of which not even the key could be read.
        cut_bytes: Bytes cut off the last segment.
        notes: What a person should know, one sentence each.
        fresh_segment: Writing must go on in a new segment.
        chains: What lies behind the newest record of sequences whose state is in parts.
    """

    serial: int = 0
    time: float | None = None
    records: int = 0
    damaged: int = 0
    unnamed: int = 0
    cut_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    fresh_segment: bool = False
    chains: Chains = field(default_factory=Chains)


class Recovery:
    """Fills a table from the files of a log."""

    def __init__(self, table: Table, segments: Segments) -> None:
        self._table = table
        self._segments = segments
        self._report = Report()
        self._models: dict[bytes, int] = {}

    def run(self) -> Report:
        """Recover everything; cut a torn tail."""
        position = self._load_checkpoint()
        last = self._segments.tail
        if position.segment == last.number and position.offset > last.size:
            # The file lost bytes that the checkpoint knows of. Where it ends now need not be the
            # end of a record, and what is appended must not lie where the checkpoint points.
            self._note(f"{self._segments.path(last.number)} is shorter than its checkpoint says")
            self._report.fresh_segment = True
        for number in sorted(self._segments.by_number):
            if number >= position.segment:
                start = position.offset if number == position.segment else 0
                self._scan(self._segments.by_number[number], start)
        self._follow_chains()
        for number, size in self._table.bytes_by_segment().items():
            if number in self._segments.by_number:
                self._segments.by_number[number].live = size
        for place in self._report.chains.places():
            self._segments.by_number[place.segment].live += place.length
        return self._report

    def _follow_chains(self) -> None:
        """Find what lies behind the newest records of states that are in parts."""
        for slot in self._table.slots_with(CHAINED, without=DAMAGED):
            row = self._table.row(slot)
            digest = int.from_bytes(row.digest, "little")
            try:
                self._report.chains.put(digest, follow(self._segments, row))
            except RecordError as error:
                self._report.damaged += 1
                self._note(f"a state in segment {row.segment} cannot be put together: {error}")
                self._table.set(digest, row._replace(flags=row.flags | DAMAGED))

    def _load_checkpoint(self) -> Position:
        loaded = load_checkpoint(self._segments.folder / "index.ckpt")
        if isinstance(loaded, str):
            if any(segment.size for segment in self._segments.by_number.values()):
                self._report.notes.append(f"{loaded}; the whole log was read")
            return Position()
        self._table.restore(loaded.pages, loaded.rows, loaded.models, loaded.owners)
        self._report.serial = loaded.position.serial
        self._report.time = loaded.position.time
        return loaded.position

    def _scan(self, segment: Segment, offset: int) -> None:
        window = Window(segment.fd, segment.size)
        view = memoryview(window.data)
        last = segment is self._segments.tail
        count = 0
        while offset < segment.size:
            at = window.reach(offset, PREFIX_SIZE)
            try:
                total = codec.stated_size(window.data, at)
                at = window.reach(offset, total)
                if view.obj is not window.data:
                    view = memoryview(window.data)
                glance = codec.glance(window.data, view, at, total)
            except RecordError as error:
                if last:
                    self._cut(segment, offset, error)
                    break
                offset = self._step_over(segment, window, offset, error)
                continue
            self._apply(glance, segment.number, offset, total)
            offset += total
            count += 1
            if count & 63 == 1:
                fault("recover.mid_scan")
        self._report.records += count

    # -- valid records -----------------------------------------------------------------

    def _apply(self, glance: Glance, segment: int, offset: int, total: int) -> None:
        (
            kind, serial, touched, key, epoch, step, incarnation, origin, created, ttl_s,
            owner, succeeds, state_bytes,
        ) = glance  # fmt: skip
        report, table = self._report, self._table
        if serial > report.serial:  # noqa: PLR1730 - max() here is a tenth of a full scan
            report.serial = serial
        if report.time is None or touched > report.time:
            report.time = touched
        if kind == SEAL:
            return
        digest = digest_of(key)
        number = table.owners.number(owner) if owner else 0
        old = table.find(digest)
        if old is not None and kind == OWN:
            if old.serial < serial and old.incarnation == incarnation:
                table.set(digest, old._replace(epoch=epoch, owner=number, serial=serial))
            return
        if kind == OWN or (old is not None and old.serial > serial):
            return
        flags = (LIVE if kind in _LIVING else DEAD) | (SUCCESSOR if succeeds else 0)
        if kind == GROW:
            flags |= CHAINED
        born = segment if old is None else old.born
        model = self._model(key) if old is None else old.model
        row = Row(
            digest.to_bytes(16, "little"), incarnation, epoch, created, ttl_s, origin, born, model,
            number, flags, step, serial, touched, segment, offset, total, state_bytes,
        )  # fmt: skip
        table.set(digest, row)

    def _model(self, key: bytes) -> int:
        name = codec.group_part(key)
        number = self._models.get(name)
        if number is None:
            number = self._table.models.number(name.decode("utf-8", "surrogatepass"))
            self._models[name] = number
        return number

    # -- invalid ones ---------------------------------------------------------------------

    def _cut(self, segment: Segment, offset: int, error: RecordError) -> None:
        """Cut the torn tail off; keep aside what looks like more than that."""
        tail = os.pread(segment.fd, segment.size - offset, offset)
        if codec.find_record(tail, 1) is not None:
            aside = self._segments.path(segment.number).with_suffix(f".cut-{offset}")
            aside.write_bytes(tail)
            self._note(
                f"{len(tail)} bytes from byte {offset} of {self._segments.path(segment.number)} "
                f"were cut off although records follow ({error}); they were kept as {aside.name}"
            )
        self._report.cut_bytes += len(tail)
        self._report.fresh_segment = True
        self._segments.cut(segment, offset)

    def _step_over(self, segment: Segment, window: Window, offset: int, error: RecordError) -> int:
        """Mark the sequence that a damaged record belongs to; give the offset behind it."""
        segment.movable = False
        at = window.reach(offset, PREFIX_SIZE + 4096)
        named = codec.salvage(window.data, at)
        if named is not None:
            frame, key = named
            self._mark(frame, key, segment.number, offset)
            return offset + frame.total
        self._report.unnamed += 1
        self._note(
            f"byte {offset} of {self._segments.path(segment.number)} is damaged beyond telling "
            f"which sequence it belongs to ({error}); it may have gone back to an older step"
        )
        rest = os.pread(segment.fd, segment.size - offset, offset)
        found = codec.find_record(rest, 1)
        return segment.size if found is None else offset + found

    def _mark(self, frame: Frame, key: bytes, segment: int, offset: int) -> None:
        self._report.serial = max(self._report.serial, frame.serial)
        if frame.kind in (SEAL, OWN):
            return  # no state is lost, and the step compare does not need the owner
        digest = digest_of(key)
        old = self._table.find(digest)
        if old is not None and old.serial >= frame.serial:
            return  # superseded, or compaction left a good copy
        self._report.damaged += 1
        origin = frame.serial if old is None else old.origin
        row = Row(
            digest=digest.to_bytes(16, "little"), incarnation=_NO_INCARNATION, epoch=0, created=0.0,
            ttl_s=0.0, origin=origin, born=segment if old is None else old.born,
            model=self._model(key), owner=0, flags=LIVE | DAMAGED, step=0, serial=frame.serial,
            touched=0.0, segment=segment, offset=offset, length=frame.total, state_bytes=0,
        )  # fmt: skip
        self._table.set(digest, row)

    def _note(self, text: str) -> None:
        self._report.notes.append(text)
