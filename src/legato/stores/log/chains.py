"""Chains: the records that together hold the state of a sequence that grows.

The newest record of such a sequence says what its step changed, and where the record
before it lies; so on, back to one that holds a whole state. A chain ends, and the next
record is a whole one, when what was added is as much as what it began with: however long
a state grows, all its records are three times its bytes at most, and those that are read twice.

The row of the index points to the newest record. What lies behind it is noted here, so
that it counts as needed; it can be found again from the records alone, which is what
recovery does. Compaction never moves a part of a chain: it writes the state whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from legato.stores import codec, grown
from legato.stores.codec import GROW, RecordError
from legato.stores.grown import Link
from legato.stores.log.segments import Place

if TYPE_CHECKING:
    from legato.core.types import StateRow
    from legato.stores.codec import Record
    from legato.stores.log.segments import Segments
    from legato.stores.log.table import Row

MOST_LINKS = 512
"""Records that one state may consist of."""

_PEEK = 4096
_CHECKSUM_BYTES = 8


class Chain(NamedTuple):
    """What lies behind the newest record of a sequence.

    Attributes:
        places: Oldest first; the first holds a whole state.
        added: Bytes of all records but that one, the newest included.
    """

    places: tuple[Place, ...]
    added: int

    @property
    def base(self) -> int:
        """Bytes of the record that holds a whole state."""
        return self.places[0].length


class Chains:
    """The chains of a log, by the digest of the key, and by the segments they lie in."""

    def __init__(self) -> None:
        self._by_digest: dict[int, Chain] = {}
        self._by_segment: dict[int, dict[int, list[int]]] = {}

    def __len__(self) -> int:
        return len(self._by_digest)

    def __repr__(self) -> str:
        return f"Chains({len(self._by_digest)})"

    def get(self, digest: int) -> Chain | None:
        """The chain of a key, if it has one."""
        return self._by_digest.get(digest)

    def put(self, digest: int, chain: Chain) -> None:
        """Note a chain of a key that has none."""
        self._by_digest[digest] = chain
        for place in chain.places:
            self._file(digest, place)

    def extend(self, digest: int, behind: Place, size: int) -> None:
        """Note that a record of ``size`` bytes now goes on from the one ``behind``."""
        old = self._by_digest.get(digest)
        places, added = ((), 0) if old is None else old
        self._by_digest[digest] = Chain((*places, behind), added + size)
        self._file(digest, behind)

    def drop(self, digest: int) -> tuple[Place, ...]:
        """Forget a chain; give the places that it needed."""
        chain = self._by_digest.pop(digest, None)
        if chain is None:
            return ()
        for segment in {place.segment for place in chain.places}:
            filed = self._by_segment[segment]
            del filed[digest]
            if not filed:
                del self._by_segment[segment]
        return chain.places

    def holds(self, digest: int, segment: int, offset: int) -> bool:
        """Tell whether the record there is a part of the key's chain."""
        return offset in self._by_segment.get(segment, {}).get(digest, ())

    def offsets_in(self, segment: int) -> list[int]:
        """Where parts of chains lie in a segment."""
        filed = self._by_segment.get(segment, {})
        return [offset for offsets in filed.values() for offset in offsets]

    def places(self) -> list[Place]:
        """All places that chains need."""
        return [place for chain in self._by_digest.values() for place in chain.places]

    def _file(self, digest: int, place: Place) -> None:
        filed = self._by_segment.setdefault(place.segment, {})
        filed.setdefault(digest, []).append(place.offset)

    def room_for(self, row: Row, digest: int, size: int) -> bool:
        """Tell whether a record of ``size`` bytes may go on from the newest of a row."""
        chain = self._by_digest.get(digest)
        if chain is None:
            return size <= row.length
        return len(chain.places) < MOST_LINKS and chain.added + size <= chain.base


def link_to(segments: Segments, row: Row, back: int, state_bytes: int) -> Link | None:
    """Point at the newest record of a row; ``None`` if it cannot be read."""
    head = segments.read(Place(row.segment, row.offset, _CHECKSUM_BYTES))
    if head is None:
        return None
    checksum = codec.read_checksum(head)
    return Link(state_bytes, row.segment, row.offset, row.length, checksum, back)


def follow(segments: Segments, row: Row) -> Chain:
    """Find the chain of a row from its records, reading no states.

    Raises:
        RecordError: A part of it is missing or is not what it was.
    """
    places: list[Place] = []
    place = Place(row.segment, row.offset, row.length)
    added = 0
    while True:
        link = _link_at(segments, place)
        if link is None:
            return Chain(tuple(reversed(places)), added)
        added += place.length
        place = Place(link.segment, link.offset, link.length)
        places.append(place)
        _check_is(segments.read(place._replace(length=_CHECKSUM_BYTES)), link)
        if len(places) > MOST_LINKS:
            raise RecordError(f"its state consists of more than {MOST_LINKS} records")


def assemble(segments: Segments, record: Record) -> StateRow:
    """Read the state that a record is the last part of.

    Raises:
        RecordError: A part of it is missing, damaged, or not what it was.
    """
    growths = []
    newest = record
    while record.kind == GROW:
        growths.append(grown.decode_growth(record.growth))
        link = growths[-1].link
        data = segments.read(Place(link.segment, link.offset, link.length))
        _check_is(data, link)
        before = codec.decode_record(data or b"")
        same = before.key == record.key and before.head.incarnation == newest.head.incarnation
        if not same or before.head.step >= record.head.step:
            raise RecordError("another record lies where its state goes on from")
        record = before
        if len(growths) > MOST_LINKS:
            raise RecordError(f"its state consists of more than {MOST_LINKS} records")
    if record.state is None:
        raise RecordError("the record that its state goes on from holds none")
    return grown.combine(record.state, growths[::-1])


def _link_at(segments: Segments, place: Place) -> Link | None:
    head = segments.read(place._replace(length=min(place.length, _PEEK)))
    if head is None:
        raise RecordError(f"a part of its state is missing from segment {place.segment}")
    try:
        return grown.read_link(head)
    except RecordError:
        if len(head) == place.length:
            raise
    return grown.read_link(segments.read(place) or b"")  # a head of many receipts


def _check_is(data: bytes | None, link: Link) -> None:
    if data is None:
        raise RecordError(f"a part of its state is missing from segment {link.segment}")
    if codec.read_checksum(data) != link.checksum:
        raise RecordError(f"a part of its state in segment {link.segment} is not what it was")
