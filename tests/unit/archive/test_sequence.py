"""The export file: what is written comes back, others can read it, and damage is noticed."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from legato.archive.sequence import Archive, ArchiveError, Tensor, pack, tensors_of, unpack
from legato.core.types import Receipt, RecordHead, SequenceKey, StateRow, StateSpec

SPECS = (
    StateSpec("h", "h", "hn", "float32", (2, 1, 3), batch_axis=1),
    StateSpec("cache", "past", "present", "int64", (1, -1, 2)),
)
STATE = StateRow(
    (np.arange(6, dtype=np.float32).tobytes(), np.arange(8, dtype=np.int64).tobytes()),
    ((2, 1, 3), (1, 4, 2)),
)


def head(**changes) -> RecordHead:
    fields = {
        "incarnation": bytes(range(16)),
        "epoch": 0,
        "step": 12,
        "receipts": (Receipt(11, b"", b"", b"x"), Receipt(12, b"r\xff", b"d" * 8, b"\x00reply")),
        "version": "2",
        "model_digest": "0123456789abcdef",
        "dialect": "kserve",
        "created": 1700000000.25,
        "ttl_s": 3600.0,
        "level": "disk",
    }
    return RecordHead(**(fields | changes))


def archive() -> Archive:
    return Archive(SequenceKey("silero", "ann/1"), head(), tensors_of(STATE, SPECS))


ids = st.one_of(
    st.integers(1, 2**64 - 1), st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
)
tensors = st.lists(
    st.tuples(
        st.sampled_from(["bool", "uint8", "int16", "float16", "float32", "int64", "float64"]),
        st.lists(st.integers(0, 3), max_size=3),
    ),
    max_size=4,
)


@given(ids, st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), tensors, st.data())
def test_what_is_packed_is_unpacked(cid, model, layout, data) -> None:
    """Key, head and every state, bit for bit, for any dtype and shape, empty ones too."""
    parts = []
    for at, (dtype, shape) in enumerate(layout):
        size = np.dtype(dtype).itemsize * math.prod(shape)
        parts.append(
            Tensor(
                f"s{at}", dtype, tuple(shape), data.draw(st.binary(min_size=size, max_size=size))
            )
        )
    made = Archive(SequenceKey(model, cid), head(), tuple(parts))

    assert unpack(pack(made)) == made


def test_other_readers_see_states_by_name(tmp_path) -> None:
    """It is a plain safetensors file with readable metadata."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(archive()))

    loaded = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, "numpy") as opened:
        metadata = opened.metadata()

    assert loaded["h"].tolist() == np.arange(6, dtype=np.float32).reshape(2, 1, 3).tolist()
    assert loaded["cache"].dtype == np.int64
    assert loaded["cache"].shape == (1, 4, 2)
    assert metadata["model"] == "silero"
    assert metadata["step"] == "12"
    assert metadata["correlation_id"] == "b:YW5uLzE"
    assert metadata["model_digest"] == "0123456789abcdef"


def test_a_file_that_another_tool_wrote_again_is_read(tmp_path) -> None:
    """The order of tensors in the file is not the model's; the metadata keeps that."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(archive()))
    with safetensors.safe_open(path, "numpy") as opened:
        metadata = opened.metadata()
    again = safetensors.numpy.save(safetensors.numpy.load_file(path), metadata)

    assert again != path.read_bytes()
    assert unpack(again) == archive()


def test_any_flipped_bit_is_noticed() -> None:
    """Anywhere in the file: refused, or it says exactly the same (a space of padding, say)."""
    whole = pack(archive())
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            try:
                assert unpack(bytes(damaged)) == archive()
            except ArchiveError:
                continue


def test_any_cut_is_noticed() -> None:
    """A copy that stopped half way is no sequence."""
    whole = pack(archive())

    for size in range(len(whole)):
        with pytest.raises(ArchiveError):
            unpack(whole[:size])
    with pytest.raises(ArchiveError):
        unpack(whole + b"x")


def rewritten(change) -> bytes:
    """The file with another header."""
    whole = pack(archive())
    (size,) = struct.unpack_from("<Q", whole)
    header = json.loads(whole[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + size :]


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("__metadata__"),
        lambda header: header["__metadata__"].pop("step"),
        lambda header: header["__metadata__"].update(step="13"),
        lambda header: header["__metadata__"].update(step="-1"),
        lambda header: header["__metadata__"].update(format="legato-sequence-9"),
        lambda header: header["__metadata__"].update(receipts="[[1]]"),
        lambda header: header["__metadata__"].update(states='["h"]'),
        lambda header: header["__metadata__"].update(ttl_s="nan"),
        lambda header: header["__metadata__"].update(extra="1"),
        lambda header: header["__metadata__"].update(checksum=None),
        lambda header: header["h"].update(dtype="F99"),
        lambda header: header["h"].update(shape=[2, 3, 1]),
        lambda header: header["h"].update(shape=[-2, -1, 3]),
        lambda header: header["h"].update(shape="213"),
        lambda header: header["h"].update(data_offsets=[0, 2**40]),
        lambda header: header["h"].update(data_offsets=[-24, 0]),
        lambda header: header.update(h=None),
        lambda header: header.update(other=header["h"]),
    ],
)
def test_a_header_that_was_changed_is_refused(change) -> None:
    """With one kind of error, whatever is wrong."""
    with pytest.raises(ArchiveError, match=r"\w"):
        unpack(rewritten(change))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"x" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        b"\x02" + bytes(7) + b"[]",
        b"\x04" + bytes(7) + b"null",
    ],
)
def test_junk_is_refused(junk) -> None:
    """Also with a length that promises the world."""
    with pytest.raises(ArchiveError):
        unpack(junk)


def test_another_safetensors_file_is_refused() -> None:
    """Weights are no sequence."""
    with pytest.raises(ArchiveError, match="not an exported sequence"):
        unpack(safetensors.numpy.save({"w": np.zeros(3)}))


def test_a_dtype_the_format_does_not_know_is_refused() -> None:
    """Named, before anything is written."""
    tensors = (Tensor("z", "complex128", (1,), bytes(16)),)

    with pytest.raises(ArchiveError, match="'z' is complex128"):
        pack(Archive(SequenceKey("m", 1), head(), tensors))


def test_states_are_taken_by_name_and_order() -> None:
    """A model with others is refused with both lists."""
    assert archive().fit(SPECS) == STATE
    with pytest.raises(ArchiveError, match=r"the file has the states 'h' \(float32\)"):
        archive().fit(SPECS[::-1])
    with pytest.raises(ArchiveError, match=r"the model has 'h' \(float32\)$"):
        archive().fit(SPECS[:1])
