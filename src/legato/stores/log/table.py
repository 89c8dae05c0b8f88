"""The index: what the store knows of a sequence without reading its record.

One packed row of 116 bytes a sequence, and dictionaries from the 128-bit digest of the
key to the row's number: two plain integers, about 120 bytes, a sequence. Measured with a
million of them in ``docs/benchmarks.md``; a probe of hand-made tables in numpy would save a
third of that and cost more than the rest of a commit together.

Nothing here is one large piece, because nobody can wait while that grows: a dictionary of
700,000 took 100 ms for it. Rows lie in pages of 8,192, digests in 256 dictionaries.

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
    from collections.abc import Callable, Iterator

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
PAGE_BITS = 13
PAGE_ROWS = 1 << PAGE_BITS
PAGE_BYTES = PAGE_ROWS * ROW_SIZE
_IN_PAGE = PAGE_ROWS - 1
_PARTS, _PART = 256, 255
_NONE = np.empty(0, np.int64)
_NO_ORIGIN = np.empty(0, np.uint64)
_LAST = 1 << 64

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

    A row may be read where it lies (see :meth:`place`) and, for the columns of
    :data:`PUBLISH`, written there by the commit path, which must then call
    :meth:`resized` if the state's size changed.
    """

    def __init__(self) -> None:
        self.models = Names()
        self.owners = Names()
        self.live = 0
        self.dead = 0
        self.state_bytes = 0
        self._pages: list[bytearray] = []
        # Between which origins the rows of a page lie, if not closer together.
        self._bounds: list[list[int]] = []
        self._slots: list[dict[int, int]] = [{} for _ in range(_PARTS)]
        self._free: list[int] = []
        self._used = 0
        self._live_of_model: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"Table(live={self.live}, dead={self.dead}, rows={self._used})"

    def __len__(self) -> int:
        """Rows in use at some time; free ones among them included."""
        return self._used

    @property
    def pages(self) -> int:
        """Pages of rows."""
        return len(self._pages)

    def live_of(self, model: str) -> int:
        """Live rows of a model."""
        return self._live_of_model.get(self.models.known(model), 0)

    def slot(self, digest: int) -> int | None:
        """Number of the row of a digest, if any."""
        return self._slots[digest & _PART].get(digest)

    def place(self, slot: int) -> tuple[bytearray, int]:
        """Where a row lies, for good: its page, and where in that."""
        return self._pages[slot >> PAGE_BITS], (slot & _IN_PAGE) * ROW_SIZE

    def row(self, slot: int) -> Row:
        """Read a row."""
        return Row._make(
            ROW.unpack_from(self._pages[slot >> PAGE_BITS], (slot & _IN_PAGE) * ROW_SIZE)
        )

    def find(self, digest: int) -> Row | None:
        """Row of a digest, if any."""
        slot = self._slots[digest & _PART].get(digest)
        return None if slot is None else self.row(slot)

    def set(self, digest: int, row: Row) -> int:
        """Write the row of a digest, new or not; give its slot."""
        part = self._slots[digest & _PART]
        slot = part.get(digest)
        if slot is None:
            slot = self._free.pop() if self._free else self._extend()
            part[digest] = slot
        else:
            self._count(self.row(slot), -1)
        number = slot >> PAGE_BITS
        ROW.pack_into(self._pages[number], (slot & _IN_PAGE) * ROW_SIZE, *row)
        bounds = self._bounds[number]
        bounds[0] = min(bounds[0], row.origin)
        bounds[1] = max(bounds[1], row.origin)
        self._count(row, 1)
        return slot

    def remove(self, digest: int) -> None:
        """Free a row."""
        slot = self._slots[digest & _PART].pop(digest)
        self._count(self.row(slot), -1)
        self._clear(slot)
        self._free.append(slot)

    def resized(self, difference: int) -> None:
        """Note that the live state has grown by this many bytes."""
        self.state_bytes += difference

    def columns(self, page: int) -> np.ndarray[Any, Any]:
        """View of a page's rows as columns."""
        count = min(self._used - page * PAGE_ROWS, PAGE_ROWS)
        return np.frombuffer(self._pages[page], COLUMNS, count)

    def living(
        self, after: int, model: int | None
    ) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Slots and origins of live rows, oldest first, in portions, a page or so at a time.

        Rows may change between two portions: a portion holds what is so when it is asked for.

        Args:
            after: Only of a greater origin.
            model: Number of a model; ``None`` = all but snapshots.
        """
        pages = [at for at, bounds in enumerate(self._bounds) if bounds[1] > after]
        pages.sort(key=lambda at: self._bounds[at][0])
        slots, origins = _NONE, _NO_ORIGIN
        for number, page in enumerate(pages):
            found, when = self._living_of(page, after, model)
            slots, origins = np.concatenate((slots, found)), np.concatenate((origins, when))
            # Rows of ended sequences are used again: later pages may hold older ones.
            if (origins[1:] < origins[:-1]).any():
                order = np.argsort(origins, kind="stable")
                slots, origins = slots[order], origins[order]
            last = number + 1 == len(pages)
            until = _LAST if last else self._bounds[pages[number + 1]][0]
            ready = len(origins) if last else int(np.searchsorted(origins, np.uint64(until)))
            if ready:
                yield slots[:ready], origins[:ready]
                slots, origins = slots[ready:], origins[ready:]

    def _living_of(
        self, page: int, after: int, model: int | None
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        columns = self.columns(page)
        alive = ((columns["flags"] & LIVE) != 0) & (columns["origin"] > after)
        if model is not None:
            alive &= columns["model"] == model
        elif hidden := self.models.beginning(SNAPSHOTS):
            alive &= ~np.isin(columns["model"], hidden)
        found = np.flatnonzero(alive)
        return found + page * PAGE_ROWS, columns["origin"][found]

    def page_bytes(self, page: int, count: int = PAGE_ROWS) -> bytes:
        """Bytes of the first rows of a page, for a checkpoint."""
        count = min(count, self._used - page * PAGE_ROWS)
        return bytes(memoryview(self._pages[page])[: count * ROW_SIZE])

    def restore(
        self, pages: list[bytearray], count: int, models: list[str], owners: list[str]
    ) -> None:
        """Take over the rows of a checkpoint.

        A checkpoint is written while rows change, so a key may be in it twice: the
        row of the higher serial is the one.

        Args:
            pages: Of :data:`PAGE_BYTES` each.
            count: Rows in them.
            models: Names of models,
            owners: and of owners.
        """
        self._pages = pages
        self._bounds = [[_LAST, 0] for _ in pages]
        self._used = count
        self.models, self.owners = Names(models), Names(owners)
        self._slots = [{} for _ in range(_PARTS)]
        self._free, self._live_of_model = [], {}
        self.live = self.dead = self.state_bytes = 0
        for page in range(len(pages)):
            self._file_slots(page)
        for page in range(len(pages)):
            self._take_stock(page)
        self._free.reverse()

    def slots_with(self, flag: int, *, without: int) -> list[int]:
        """Rows that have a flag, and not another."""
        slots: list[int] = []
        for page in range(len(self._pages)):
            flags = self.columns(page)["flags"]
            found = np.flatnonzero((flags & (flag | without)) == flag)
            slots += (found + page * PAGE_ROWS).tolist()
        return slots

    def offsets_in(self, segment: int, page: int) -> list[int]:
        """Where in a segment the current records of a page's rows lie."""
        columns = self.columns(page)
        inside = (columns["segment"] == segment) & (columns["flags"] != 0)
        found: list[int] = columns["offset"][inside].tolist()
        return found

    def bytes_by_segment(self) -> dict[int, int]:
        """Bytes of current records in each segment."""
        totals: dict[int, int] = {}
        for page in range(len(self._pages)):
            columns = self.columns(page)
            used = columns[columns["flags"] != 0]
            segments, inverse = np.unique(used["segment"], return_inverse=True)
            sums = np.bincount(inverse, weights=used["length"])
            for number, total in zip(segments.tolist(), sums.tolist(), strict=True):
                totals[number] = totals.get(number, 0) + int(total)
        return totals

    def relocate(self, row: Row, place: Place, update: Callable[[Row], Row] | None = None) -> None:
        """Point a row at a copy of its record."""
        moved = row._replace(segment=place.segment, offset=place.offset, length=place.length)
        self.set(int.from_bytes(row.digest, "little"), update(moved) if update else moved)

    def _file_slots(self, page: int) -> None:
        """Note where the keys of a page are; of a key that comes twice only the newer row stays."""
        columns = self.columns(page)
        used = np.flatnonzero(columns["flags"])
        low, high = columns["digest"][used, 0].tolist(), columns["digest"][used, 1].tolist()
        parts = self._slots
        for slot, a, b in zip((used + page * PAGE_ROWS).tolist(), low, high, strict=True):
            digest = b << 64 | a
            other = parts[digest & _PART].setdefault(digest, slot)
            if other == slot:
                continue
            older = min(other, slot, key=lambda one: self.row(one).serial)
            parts[digest & _PART][digest] = slot if older == other else other
            self._clear(older)

    def _take_stock(self, page: int) -> None:
        """Count the rows of a page."""
        columns = self.columns(page)
        flags = columns["flags"]
        self._free += (np.flatnonzero(flags == 0) + page * PAGE_ROWS).tolist()
        alive = columns[(flags & LIVE) != 0]
        self.live += len(alive)
        self.dead += int(np.count_nonzero(flags & DEAD))
        self.state_bytes += int(alive["state_bytes"].sum(dtype=np.int64))
        for number, count in enumerate(np.bincount(alive["model"]).tolist()):
            if count:
                self._live_of_model[number] = self._live_of_model.get(number, 0) + count
        if len(columns):
            self._bounds[page] = [int(columns["origin"].min()), int(columns["origin"].max())]

    def _clear(self, slot: int) -> None:
        page, at = self.place(slot)
        page[at : at + ROW_SIZE] = bytes(ROW_SIZE)

    def _extend(self) -> int:
        if self._used == len(self._pages) * PAGE_ROWS:
            self._pages.append(bytearray(PAGE_BYTES))
            self._bounds.append([_LAST, 0])
        self._used += 1
        return self._used - 1

    def _count(self, row: Row, sign: int) -> None:
        if row.flags & LIVE:
            self.live += sign
            self.state_bytes += sign * row.state_bytes
            self._live_of_model[row.model] = self._live_of_model.get(row.model, 0) + sign
        elif row.flags & DEAD:
            self.dead += sign
