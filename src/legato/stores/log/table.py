"""The index: what the store knows of a sequence without reading its record.

One packed row of 116 bytes a sequence, and a dictionary from the 128-bit digest of the
key to the row's number: two plain integers, about 120 bytes, a sequence. Measured with a
million of them in ``docs/benchmarks.md``; a probe of hand-made tables in numpy would save a
third of that and cost more than the rest of a commit together.

Two keys with one digest cannot be confused, only refused: a commit is compared by
its 16 random bytes of incarnation, and everything else reads the record, which
holds the key itself.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from xxhash import xxh3_128_intdigest

from legato.core.ids import SNAPSHOTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.stores.log.segments import Place

LIVE, DEAD, DAMAGED, SUCCESSOR, CHAINED = 1, 2, 4, 8, 16
"""Flags of a row; 0 = free. SUCCESSOR: the record names a predecessor. CHAINED: it says what
its step changed, and the state goes on from the record before."""

ROW = struct.Struct("<16s16sQddQIHHB3xQQdIIII")
ROW_SIZE = ROW.size
DECIDE = struct.Struct("<16sQ32xB3xQ8xdI4xII")  # what tells whether a step is the next one
DECIDE_AT = 16
PUBLISH = struct.Struct("<QQdIIII")
PUBLISH_AT = ROW_SIZE - PUBLISH.size
LOCATION = struct.Struct("<II")  # segment and offset
LOCATION_AT = ROW_SIZE - 16
FLAGS_AT = 72
_GROW_ROWS = 1024
_BLOCK_ROWS = 8 * 1024
_NONE = np.empty(0, np.int64)
_NO_ORIGIN = np.empty(0, np.uint64)

COLUMNS = np.dtype(
    [
        ("digest", "<u8", 2),
        ("incarnation", "V16"),
        ("epoch", "<u8"),
        ("created", "<f8"),
        ("ttl_s", "<f8"),
        ("origin", "<u8"),
        ("born", "<u4"),
        ("model", "<u2"),
        ("owner", "<u2"),
        ("flags", "u1"),
        ("pad", "V3"),
        ("step", "<u8"),
        ("serial", "<u8"),
        ("touched", "<f8"),
        ("segment", "<u4"),
        ("offset", "<u4"),
        ("length", "<u4"),
        ("state_bytes", "<u4"),
    ]
)


class Row(NamedTuple):
    """One row of the index.

    Attributes:
        digest: Little-endian bytes of :func:`digest_of` the key.
        incarnation: 16 bytes.
        epoch: Epoch; may run ahead of the record's (acquire).
        created: Wall-clock seconds, for display.
        ttl_s: Idle limit, 0 = none.
        origin: Serial of the incarnation's first record: the order of listings.
        born: First segment in which a record of this key may lie.
        model: Number of the name of the model, or of the group of its snapshots.
        owner: Number of the owner's name.
        flags: LIVE, DEAD, DAMAGED, SUCCESSOR.
        step: Step of the record.
        serial: Serial of the newest record applied.
        touched: Last commit (of the dead: their end), in the store's own time.
        segment: Where the record lies: the file,
        offset: its first byte
        length: and its size.
        state_bytes: Bytes of state.
    """

    digest: bytes
    incarnation: bytes
    epoch: int
    created: float
    ttl_s: float
    origin: int
    born: int
    model: int
    owner: int
    flags: int
    step: int
    serial: int
    touched: float
    segment: int
    offset: int
    length: int
    state_bytes: int

    @property
    def live(self) -> bool:
        """Whether the sequence is not known to be over (it may have expired since)."""
        return bool(self.flags & LIVE)


def digest_of(key: bytes) -> int:
    """The 128-bit digest under which a key is filed."""
    return xxh3_128_intdigest(key)


class Names:
    """Model and owner names, each with a small number."""

    def __init__(self, names: list[str] | None = None) -> None:
        self._names = names if names is not None else [""]
        self._numbers = {name: number for number, name in enumerate(self._names)}

    def number(self, name: str) -> int:
        """Number of a name, given at first sight."""
        number = self._numbers.get(name)
        if number is None:
            number = len(self._names)
            self._names.append(name)
            self._numbers[name] = number
        return number

    def name(self, number: int) -> str:
        """Name of a number."""
        return self._names[number]

    def known(self, name: str) -> int:
        """Number of a name, -1 if it was never seen: asking must not make one."""
        return self._numbers.get(name, -1)

    def beginning(self, start: str) -> list[int]:
        """Numbers of the names that begin with ``start``."""
        return [number for number, name in enumerate(self._names) if name.startswith(start)]

    def all(self) -> list[str]:
        """All names by number."""
        return list(self._names)


class Table:
    """All rows, and counts over them. Every change of a row goes through here.

    ``rows`` may be read and, for the columns of :data:`PUBLISH`, written in place by
    the commit path, which must then call :meth:`resized` if the state's size changed.
    """

    def __init__(self) -> None:
        self.rows = bytearray()
        self.slots: dict[int, int] = {}
        self.models = Names()
        self.owners = Names()
        self.live = 0
        self.dead = 0
        self.state_bytes = 0
        self._free: list[int] = []
        self._used = 0
        self._live_of_model: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"Table(live={self.live}, dead={self.dead}, rows={self._used})"

    def __len__(self) -> int:
        """Rows in use at some time; free ones among them included."""
        return self._used

    def live_of(self, model: str) -> int:
        """Live rows of a model."""
        return self._live_of_model.get(self.models.known(model), 0)

    def row(self, slot: int) -> Row:
        """Read a row."""
        return Row._make(ROW.unpack_from(self.rows, slot * ROW_SIZE))

    def find(self, digest: int) -> Row | None:
        """Row of a digest, if any."""
        slot = self.slots.get(digest)
        return None if slot is None else self.row(slot)

    def set(self, digest: int, row: Row) -> int:
        """Write the row of a digest, new or not; give its slot."""
        slot = self.slots.get(digest)
        if slot is None:
            slot = self._free.pop() if self._free else self._extend()
            self.slots[digest] = slot
        else:
            self._count(self.row(slot), -1)
        ROW.pack_into(self.rows, slot * ROW_SIZE, *row)
        self._count(row, 1)
        return slot

    def remove(self, digest: int) -> None:
        """Free a row."""
        slot = self.slots.pop(digest)
        self._count(self.row(slot), -1)
        self.rows[slot * ROW_SIZE : (slot + 1) * ROW_SIZE] = bytes(ROW_SIZE)
        self._free.append(slot)

    def resized(self, difference: int) -> None:
        """Note that the live state has grown by this many bytes."""
        self.state_bytes += difference

    def columns(self, start: int = 0, stop: int | None = None) -> np.ndarray[Any, Any]:
        """View of rows as columns. Must not outlive the caller: rows cannot grow meanwhile."""
        stop = self._used if stop is None else min(stop, self._used)
        count = max(stop - start, 0)
        if not count:
            return np.empty(0, COLUMNS)
        return np.frombuffer(self.rows, COLUMNS, count, start * ROW_SIZE)

    def living(
        self, after: int, model: int | None
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Slots and origins of live rows, oldest first.

        Args:
            after: Only of a greater origin.
            model: Number of a model; ``None`` = all but snapshots.
        """
        hidden = self.models.beginning(SNAPSHOTS) if model is None else []
        slots, origins = [_NONE], [_NO_ORIGIN]
        # In blocks that stay in the cache: a row is longer than a line of it.
        for start in range(0, self._used, _BLOCK_ROWS):
            columns = self.columns(start, start + _BLOCK_ROWS)
            alive = ((columns["flags"] & LIVE) != 0) & (columns["origin"] > after)
            if model is not None:
                alive &= columns["model"] == model
            elif hidden:
                alive &= ~np.isin(columns["model"], hidden)
            found = np.flatnonzero(alive)
            slots.append(found + start)
            origins.append(columns["origin"][found])
        where, when = np.concatenate(slots), np.concatenate(origins)
        if (when[1:] < when[:-1]).any():  # rows of ended sequences are used again
            order = np.argsort(when, kind="stable")
            where, when = where[order], when[order]
        return where, when

    def snapshot_rows(self, start: int, stop: int) -> bytes:
        """Bytes of some rows, for a checkpoint."""
        return bytes(memoryview(self.rows)[start * ROW_SIZE : stop * ROW_SIZE])

    def restore(self, rows: bytearray, models: list[str], owners: list[str]) -> None:
        """Take over the rows of a checkpoint.

        A checkpoint is written while rows change, so a key may be in it twice: the
        row of the higher serial is the one.
        """
        self.rows = rows
        self._used = len(rows) // ROW_SIZE
        self.models, self.owners = Names(models), Names(owners)
        self.slots = self._file_slots()
        columns = self.columns()
        flags = columns["flags"]
        if len(self.slots) != np.count_nonzero(flags):
            self._drop_doubles(columns)
        self._free = np.flatnonzero(flags == 0)[::-1].tolist()
        alive = columns[(flags & LIVE) != 0]
        self.live = len(alive)
        self.dead = int(np.count_nonzero(flags & DEAD))
        self.state_bytes = int(alive["state_bytes"].sum(dtype=np.int64))
        counts = np.bincount(alive["model"])
        self._live_of_model = {number: int(n) for number, n in enumerate(counts) if n}

    def offsets_in(self, segment: int, start: int, stop: int) -> list[int]:
        """Where in a segment the current records of some rows lie."""
        columns = self.columns(start, stop)
        inside = (columns["segment"] == segment) & (columns["flags"] != 0)
        found: list[int] = columns["offset"][inside].tolist()
        return found

    def bytes_by_segment(self) -> dict[int, int]:
        """Bytes of current records in each segment."""
        columns = self.columns()
        used = columns[columns["flags"] != 0]
        if not len(used):
            return {}
        segments, inverse = np.unique(used["segment"], return_inverse=True)
        sums = np.bincount(inverse, weights=used["length"])
        return {int(number): int(total) for number, total in zip(segments, sums, strict=True)}

    def relocate(self, row: Row, place: Place, update: Callable[[Row], Row] | None = None) -> None:
        """Point a row at a copy of its record."""
        moved = row._replace(segment=place.segment, offset=place.offset, length=place.length)
        self.set(int.from_bytes(row.digest, "little"), update(moved) if update else moved)

    def _file_slots(self) -> dict[int, int]:
        slots: dict[int, int] = {}
        step = 1 << 16
        for start in range(0, self._used, step):
            columns = self.columns(start, start + step)
            used = np.flatnonzero(columns["flags"])
            low, high = columns["digest"][used, 0].tolist(), columns["digest"][used, 1].tolist()
            for slot, a, b in zip((used + start).tolist(), low, high, strict=True):
                slots[b << 64 | a] = slot
        return slots

    def _drop_doubles(self, columns: np.ndarray[Any, Any]) -> None:
        self.slots = {}
        for slot in np.flatnonzero(columns["flags"]).tolist():
            row = self.row(slot)
            digest = int.from_bytes(row.digest, "little")
            other = self.slots.get(digest)
            wins = other is None or self.row(other).serial < row.serial
            if wins:
                self.slots[digest] = slot
            loser = other if wins else slot
            if loser is not None:
                self.rows[loser * ROW_SIZE : (loser + 1) * ROW_SIZE] = bytes(ROW_SIZE)

    def _extend(self) -> int:
        if (self._used + 1) * ROW_SIZE > len(self.rows):
            self.rows.extend(bytes(max(_GROW_ROWS, self._used // 16) * ROW_SIZE))
        self._used += 1
        return self._used - 1

    def _count(self, row: Row, sign: int) -> None:
        if row.flags & LIVE:
            self.live += sign
            self.state_bytes += sign * row.state_bytes
            self._live_of_model[row.model] = self._live_of_model.get(row.model, 0) + sign
        elif row.flags & DEAD:
            self.dead += sign
