"""Bytes of a record: what goes in comes out, and nothing wrong is believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.types import Ending, EndReason, Receipt, RecordHead, SequenceKey, StateRow
from legato.stores import codec
from legato.stores.codec import Record, RecordError, Span

FIXTURE = Path(__file__).parents[2] / "fixtures" / "store" / "records-v1.bin"


def a_head(**changes: object) -> RecordHead:
    fields: dict[str, object] = {
        "incarnation": bytes(range(16)),
        "epoch": 3,
        "step": 7,
        "receipts": (Receipt(6, b"r6", b"d" * 8, b"six"), Receipt(7, b"", b"", b"seven")),
        "version": "1",
        "model_digest": "ab" * 32,
        "dialect": "kserve",
        "created": 1700000000.25,
        "ttl_s": 600.0,
        "level": "process",
    }
    return RecordHead(**{**fields, **changes})  # type: ignore[arg-type]


def released_records() -> list[Record]:
    """The records that the fixture of format 1 holds."""
    state = StateRow((b"\x00\x01\x02\x03" * 4, b"", b"\xff" * 8), ((1, 4), (0, 2), ()))
    ending = Ending(EndReason.CANCELLED, 7, 1700000111.5)
    return [
        Record(codec.PUT, 11, SequenceKey("silero", 2**64 - 1), a_head(), state, "local", 12.5, 9),
        Record(
            codec.PUT, 12, SequenceKey("modèle", "7"), a_head(receipts=(), step=0, epoch=0), state,
            "", 13.0, 12, b"p" * 16, Ending(EndReason.DISPLACED, 4, 5.0),
        ),
        Record(
            codec.DELETE, 13, SequenceKey("silero", 7), a_head(ending=ending), None, "b", 14.0, 2,
            b"", None, Span(3, 8),
        ),
        Record(codec.OWN, 14, SequenceKey("", ""), a_head(receipts=()), None, "other", 15.0, 1),
    ]  # fmt: skip


ids = st.one_of(st.integers(0, 2**64 - 1), st.text(max_size=200))
receipts = st.builds(
    Receipt, st.integers(0, 2**40), st.binary(max_size=64), st.binary(max_size=8), st.binary()
)
shapes = st.lists(st.lists(st.integers(0, 9), max_size=4).map(tuple), max_size=4).map(tuple)


@st.composite
def states(draw: st.DrawFn) -> StateRow:
    chosen = draw(shapes)
    return StateRow(tuple(draw(st.binary(max_size=40)) for _ in chosen), chosen)


@given(
    key=st.builds(SequenceKey, st.text(max_size=30), ids),
    kept=st.lists(receipts, max_size=4).map(tuple),
    state=states(),
    owner=st.text(max_size=9),
    step=st.integers(0, 2**63),
    times=st.tuples(*[st.floats(0, 1e12)] * 3),
)
def test_any_record_comes_back_as_it_was(
    key: SequenceKey,
    kept: tuple[Receipt, ...],
    state: StateRow,
    owner: str,
    step: int,
    times: tuple[float, float, float],
) -> None:
    """Every field survives, whatever its value."""
    head = a_head(receipts=kept, step=step, created=times[0], ttl_s=times[1])
    record = Record(codec.PUT, 5, key, head, state, owner, times[2], 4)

    again = codec.decode_record(codec.encode(record))

    assert again == record


def test_number_and_text_ids_are_kept_apart() -> None:
    """The id 7 and the id "7" are two sequences."""
    number = codec.encode_key(SequenceKey("m", 7))
    text = codec.encode_key(SequenceKey("m", "7"))

    assert number != text
    assert codec.decode_key(number) == SequenceKey("m", 7)
    assert codec.decode_key(text) == SequenceKey("m", "7")


@pytest.mark.parametrize("wrong", [-1, 2**64])
def test_an_id_beyond_64_bits_is_refused(wrong: int) -> None:
    """An integer id must be an unsigned 64-bit number."""
    with pytest.raises(RecordError, match="64-bit"):
        codec.encode_key(SequenceKey("m", wrong))


def test_records_of_format_1_are_read() -> None:
    """Bytes written by the first release decode to the same records for ever."""
    blob = FIXTURE.read_bytes()
    found = []
    at = 0
    while at < len(blob):
        size = codec.read_frame(blob, at).total
        found.append(codec.decode_record(blob[at : at + size]))
        at += size

    assert found == released_records()


def test_records_are_written_as_format_1() -> None:
    """Writing gives the bytes of the fixture; a change needs a new format number."""
    assert b"".join(map(codec.encode, released_records())) == FIXTURE.read_bytes()


def test_a_newer_format_is_refused_by_number() -> None:
    """Unknown formats are told apart from damage."""
    blob = bytearray(codec.encode(released_records()[0]))
    blob[12] = 9

    with pytest.raises(codec.FormatError, match="format 9"):
        codec.decode_record(blob)


@pytest.mark.parametrize("record", released_records(), ids=lambda record: str(record.serial))
def test_every_flipped_bit_is_noticed(record: Record) -> None:
    """No single wrong bit passes for a record."""
    blob = bytearray(codec.encode(record))

    for bit in range(len(blob) * 8):
        blob[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(RecordError):
            codec.decode_record(blob)
        blob[bit >> 3] ^= 1 << (bit & 7)


@pytest.mark.parametrize("record", released_records(), ids=lambda record: str(record.serial))
def test_every_cut_is_noticed(record: Record) -> None:
    """No beginning of a record passes for a record."""
    blob = codec.encode(record)

    for size in range(len(blob)):
        with pytest.raises(RecordError):
            codec.decode_record(blob[:size])


def test_a_damaged_record_is_named_by_its_header() -> None:
    """Whichever bit of a record is wrong, its key, serial and size can still be told."""
    blob = bytearray(codec.encode(released_records()[1]))
    frame = codec.read_frame(blob)
    key = bytes(blob[codec.PREFIX_SIZE : codec.PREFIX_SIZE + frame.key_size])

    for bit in range(len(blob) * 8):
        blob[bit >> 3] ^= 1 << (bit & 7)
        assert codec.salvage(blob) == (frame, key)
        blob[bit >> 3] ^= 1 << (bit & 7)


def test_a_record_cut_short_is_named_by_its_header() -> None:
    """A record whose end is missing is still known by its key."""
    blob = codec.encode(released_records()[0])

    assert codec.salvage(blob[:-1]) == codec.salvage(blob)
    assert codec.salvage(blob[:20]) is None


def test_a_header_with_many_wrong_bits_is_not_guessed() -> None:
    """Where two bytes are wrong nothing is believed."""
    blob = bytearray(codec.encode(released_records()[0]))
    blob[40] ^= 0xFF
    blob[43] ^= 0xFF

    assert codec.salvage(blob) is None


def test_the_next_record_is_found_behind_garbage() -> None:
    """The search after damage skips bytes that only look like a record."""
    good = codec.encode(released_records()[0])
    decoy = bytearray(good)
    decoy[-1] ^= 1

    assert codec.find_record(b"\x01\x00\x01\xa5" * 9 + bytes(decoy) + good, 0) == 36 + len(good)
    assert codec.find_record(bytes(decoy), 0) is None


def test_a_large_state_is_passed_on_not_copied() -> None:
    """The buffers for writing hold the very objects of a large state."""
    data = bytes(200_000)
    record = released_records()[0]
    constants = codec.encode_constants(record.head)

    buffers = codec.encode_record(
        codec.PUT, 1, codec.encode_key(record.key), constants, 1, 1, 0.0, (),
        StateRow((data,), ((200_000,),)),
    )  # fmt: skip

    assert any(buffer is data for buffer in buffers)
    decoded = codec.decode_record(b"".join(buffers))
    assert decoded.state == StateRow((data,), ((200_000,),))


@pytest.mark.parametrize("size", [0, 100, 5000, 200_000])
@pytest.mark.parametrize(("receipts", "tensors"), [(1, 1), (0, 1), (3, 1), (1, 2), (1, 0)])
def test_the_quick_way_writes_the_same_bytes(size: int, receipts: int, tensors: int) -> None:
    """Steps of a sequence in use are encoded as any other record, and their sizes are told."""
    record = released_records()[0]
    key, constants = codec.encode_key(record.key), codec.encode_constants(record.head)
    told = tuple(Receipt(7 + at, b"asked", b"12345678", b"r" * at) for at in range(receipts))
    state = StateRow((bytes(range(256)) * (size // 256 + 1),) * tensors, ((size,),) * tensors)
    encoder = codec.StepEncoder(key, constants)
    pieces = [b"before"]

    for step in (6, 7):  # the second finds what the first has kept
        del pieces[1:]
        sizes = encoder.encode(pieces, 9, 2, step, 3.5, told, state)

    plain = codec.encode_record(codec.PUT, 9, key, constants, 2, 7, 3.5, told, state)
    assert b"".join(pieces) == b"before" + b"".join(plain)
    assert sizes == (len(b"".join(plain)), state.nbytes)


def test_the_quick_way_notices_another_shape() -> None:
    """What is kept of the state's layout is not believed where shape or length differ."""
    record = released_records()[0]
    encoder = codec.StepEncoder(codec.encode_key(record.key), codec.encode_constants(record.head))
    receipt = (Receipt(1, b"", b"12345678", b""),)

    for state in (
        StateRow((b"abcd",), ((4,),)), StateRow((b"abcd",), ((2, 2),)), StateRow((b"ab",), ((2,),)),
    ):  # fmt: skip
        pieces: list[bytes] = []
        encoder.encode(pieces, 9, 2, 7, 3.5, receipt, state)

        assert codec.decode_record(b"".join(pieces)).state == state


def test_a_head_is_read_without_its_state() -> None:
    """Listings read prefix, key and head only."""
    record = released_records()[0]
    blob = codec.encode(record)

    assert codec.decode_head(blob[: codec.head_end(blob)]) == record._replace(state=None)


def test_equal_shapes_come_back_as_one_object() -> None:
    """The shapes of decoded states are shared, so that comparing them is cheap."""
    blob = codec.encode(released_records()[0])
    first, second = codec.decode_record(blob).state, codec.decode_record(blob).state

    assert first is not None
    assert second is not None
    assert first.shapes is second.shapes


def test_an_ending_belongs_to_a_tombstone() -> None:
    """A record that is live and ended at once is not written."""
    record = released_records()[2]

    with pytest.raises(RecordError, match="ending"):
        codec.encode(record._replace(kind=codec.PUT))


def test_a_field_that_does_not_fit_is_refused() -> None:
    """An id too long for its length field is an error, not a cut."""
    record = released_records()[0]
    head = a_head(receipts=(Receipt(1, b"x" * 70_000, b"", b""),))

    with pytest.raises(RecordError, match="fit"):
        codec.encode(record._replace(head=head))
