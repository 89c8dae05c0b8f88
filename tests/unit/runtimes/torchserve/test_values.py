"""Encoding of handler state: everything back as it was, everything else refused."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.runtimes.torchserve.values import (
    UnsupportedValueError,
    _classes,
    decode,
    encode,
    register,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.complex_numbers(allow_nan=False)
)
keys = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.lists(inner).map(deque)
    ),
    max_leaves=20,
)


def same(one, other) -> bool:
    """Equal, and of the same types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(values)
def test_values_come_back_as_they_were(value) -> None:
    """Types, order and contents survive."""
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize(
    "dtype", ["float32", ">f8", "int16", "bool", "complex64", "U3", "S2", "M8[s]"]
)
def test_arrays_come_back_and_can_be_written(dtype: str) -> None:
    """Shape, dtype (little endian) and bytes survive; a handler may change its array in place."""
    array = np.arange(6).reshape(2, 3).astype(dtype)

    back = decode(encode(array.T))

    assert back.dtype == array.dtype.newbyteorder("<")
    assert np.array_equal(back, array.T)
    assert back.flags.writeable


def test_numpy_numbers_stay_numpy_numbers() -> None:
    """A sum kept as float32 goes on as float32."""
    back = decode(encode({"sum": np.float32(1.5), "n": np.int64(3)}))

    assert type(back["sum"]) is np.float32
    assert type(back["n"]) is np.int64


def test_deque_keeps_its_bound() -> None:
    """A window of the last three stays one."""
    back = decode(encode(deque([1, 2, 3], maxlen=3)))

    assert back == deque([1, 2, 3])
    assert back.maxlen == 3


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (Counter(a=1), "collections.Counter"),
        (OrderedDict(), "collections.OrderedDict"),
        ([1, {"f": test_values_come_back_as_they_were}], "function"),
        (np.array([object()]), "numpy.ndarray"),
        (object(), "object"),
    ],
)
def test_what_cannot_be_stored_is_named(value, kind: str) -> None:
    """The type is in the error, for the warning that people read."""
    with pytest.raises(UnsupportedValueError) as caught:
        encode(value)

    assert caught.value.kind == kind


def test_endless_nesting_is_refused() -> None:
    """A list that holds itself has no end."""
    endless: list = []
    endless.append(endless)

    with pytest.raises(UnsupportedValueError, match="nested"):
        encode(endless)


@pytest.mark.parametrize(
    "damage", [b"", b"\x02N", b"\x01?", b"\x01s\xff\x00\x00\x00a", b"\x01NN", b"\x01i"]
)
def test_damaged_bytes_are_refused(damage: bytes) -> None:
    """A later version, a cut or a stray byte is an error, never another value."""
    with pytest.raises(ValueError, match="handler state"):
        decode(damage)


class Plain:
    def __init__(self) -> None:
        raise AssertionError("reading runs no code of the class")


def test_objects_of_registered_classes_are_their_attributes() -> None:
    """Nothing of the class runs when one is read; others are refused as before."""
    one = object.__new__(Plain)
    vars(one).update(total=np.int32([3]), names=["a"])
    with pytest.raises(UnsupportedValueError, match="Plain"):
        encode(one)

    register("here.Plain", Plain)
    again = decode(encode({7: one}))[7]

    assert type(again) is Plain
    assert (again.total.tolist(), again.names) == ([3], ["a"])


def test_object_of_a_class_that_is_not_there_cannot_be_read() -> None:
    """A model that lost the class says so instead of making something else of it."""
    one = object.__new__(Plain)
    register("here.Gone", Plain)
    data = encode(one)
    del _classes["here.Gone"]

    with pytest.raises(ValueError, match="cannot be read"):
        decode(data)
