"""Records of states that grow: bytes that stay readable, and parts that fit or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.core.pages import Added, GrownRow, Pages
from legato.core.types import Receipt, RecordHead, SequenceKey, StateRow
from legato.stores import codec, grown
from legato.stores.codec import GROW, Record, RecordError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "store" / "records-v2.bin"

KEY = codec.encode_key(SequenceKey("moonshine", "clip"))
HEAD = RecordHead(
    bytes(range(16)), 2, 8, (Receipt(8, b"r8", b"d" * 8, b"eight"),), "1", "ab" * 32, "kserve",
    1700000000.25, 600.0, "process",
)  # fmt: skip
LINK = grown.Link(104, 3, 4096, 700, 0x0123456789ABCDEF, 5)


def a_state() -> GrownRow:
    """Eight entries of two by four bytes, the last new; a sum that changed; a constant."""
    pages = Pages((bytes(range(56)),), 2, 4).add(b"newpage!")
    row = GrownRow((pages, b"sum" * 8, b"constant" * 2), ((1, 2, 8, 4), (1, 6), ()))
    row.change = (Added(2, b"newpage!"), b"sum" * 8, None)
    return row


def written() -> bytes:
    constants = codec.encode_constants(HEAD, owner="local", origin=9)
    return b"".join(
        grown.encode_grown(21, KEY, constants, 2, 8, 12.5, HEAD.receipts, LINK, a_state())
    )


def test_records_of_format_2_are_read() -> None:
    """Bytes written by the release that brought them decode to the same record for ever."""
    record = codec.decode_record(FIXTURE.read_bytes())

    said = grown.decode_growth(record.growth)
    assert record._replace(growth=b"") == Record(
        GROW, 21, SequenceKey("moonshine", "clip"), HEAD, None, "local", 12.5, 9
    )
    assert said == grown.Growth(
        LINK,
        (
            grown.Change(grown.ADDED, 2, (1, 2, 8, 4), b"newpage!"),
            grown.Change(grown.SET, 0, (1, 6), b"sum" * 8),
            grown.Change(grown.KEPT, 0, (), b""),
        ),
    )


def test_records_are_written_as_format_2() -> None:
    """Writing gives the bytes of the fixture; a change needs a new format number."""
    assert written() == FIXTURE.read_bytes()


def test_what_an_index_needs_is_read_at_a_glance() -> None:
    """With the bytes of the whole state, not of the part."""
    blob = written()

    glance = codec.glance(blob, memoryview(blob), 0, len(blob))

    assert (glance.kind, glance.serial, glance.step, glance.state_bytes) == (GROW, 21, 8, 104)
    assert codec.decode_head(blob[: codec.head_end(blob)]).head == HEAD
    assert codec.find_record(b"noise" + blob, 0) == 5


def test_every_flipped_bit_is_noticed() -> None:
    """No single wrong bit passes for a record."""
    blob = bytearray(written())

    for bit in range(len(blob) * 8):
        blob[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(RecordError):
            codec.decode_record(blob)
        blob[bit >> 3] ^= 1 << (bit & 7)


def test_format_and_kind_belong_together() -> None:
    """Neither a grown record of the first format nor another of the second is one."""
    blob = bytearray(written())
    blob[12] = 1

    with pytest.raises(RecordError, match="not a record"):
        codec.read_frame(blob)


def test_a_state_is_made_of_the_whole_one_and_what_came_after() -> None:
    """Whatever was added, replaced or kept, in the order of the steps."""
    state = a_state()
    before = StateRow(
        (bytes(Pages((bytes(range(56)),), 2, 4)), b"old" * 8, b"constant" * 2),
        ((1, 2, 7, 4), (1, 6), ()),
    )
    said = grown.decode_growth(codec.decode_record(written()).growth)

    assert grown.combine(before, [said]) == state
    assert grown.combine(before, []) is before


@pytest.mark.parametrize("size", [0, 30, 80, 250])
def test_a_link_is_not_read_from_too_few_bytes(size: int) -> None:
    """What is cut short is no record."""
    blob = written()
    assert grown.read_link(blob) == LINK

    with pytest.raises(RecordError):
        grown.read_link(blob[:size])


def test_a_whole_record_goes_on_from_none() -> None:
    """A state ends there; a tombstone is no part of one."""
    whole = codec.encode(Record(codec.PUT, 1, SequenceKey("m", 1), HEAD, StateRow((), ())))
    owner = codec.encode(Record(codec.OWN, 1, SequenceKey("m", 1), HEAD, None))

    assert grown.read_link(whole) is None
    with pytest.raises(RecordError):
        grown.read_link(owner)


def test_parts_that_do_not_fit_are_refused() -> None:
    """A state of other tensors, sizes or bytes is not put together."""
    link = LINK._replace(state_bytes=24)
    base = StateRow((b"a" * 16,), ((1, 2, 8),))

    def after(*changes: grown.Change, link: grown.Link = link) -> StateRow:
        return grown.combine(base, [grown.Growth(link, changes)])

    page = grown.Change(grown.ADDED, 1, (1, 3, 8), b"b" * 8)
    assert after(page) == StateRow((b"a" * 16 + b"b" * 8,), ((1, 3, 8),))
    for wrong in (
        lambda: after(page, page),
        lambda: after(page._replace(data=b"b" * 7)),
        lambda: after(page._replace(shape=(1, 0, 8))),
        lambda: after(page, link=link._replace(state_bytes=25)),
        lambda: after(page._replace(shape=(1, 4, 8), data=b"b" * 12)),
        lambda: grown.decode_growth(b"short"),
    ):
        with pytest.raises(RecordError):
            wrong()


def test_a_change_that_is_not_known_cannot_be_written() -> None:
    """A state that came from elsewhere is written whole."""
    state = a_state()
    state.change = None

    with pytest.raises(RecordError, match="not known"):
        grown.encode_grown(1, KEY, b"", 1, 2, 0.0, (), LINK, state)
