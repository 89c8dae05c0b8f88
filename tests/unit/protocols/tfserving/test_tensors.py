"""Every legal encoding of a tensor is read."""

from __future__ import annotations

import numpy as np
import pytest

from legato.protocols.tfserving import tensors
from legato.protocols.tfserving.datatypes import BY_NUMPY
from legato.protocols.tfserving.errors import RefusalError

NUMBERS = [name for name in BY_NUMPY if name not in ("object", "bfloat16")]


def read(tensor, dtype, shape):
    return tensors.read(tensor, np.dtype(dtype), shape, "x")


@pytest.mark.parametrize("dtype", NUMBERS)
def test_content_is_little_endian_and_row_major(kit, dtype) -> None:
    """Of every type, and without a copy where the bytes are the array."""
    array = np.arange(6).reshape(2, 3).astype(dtype)

    found = read(kit.tensor(array), dtype, (2, 3))

    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", NUMBERS)
def test_typed_values_are_read(kit, dtype) -> None:
    """Each type has its field; halves are bit patterns."""
    kind = BY_NUMPY[dtype]
    array = np.arange(4).astype(dtype)
    given = array.view(np.uint16) if dtype == "float16" else array
    tensor = kit.values(kind.field, *given.tolist(), shape=(2, 2), dtype=kind.number)

    found = read(tensor, dtype, (2, 2))

    np.testing.assert_array_equal(found, array.reshape(2, 2))


@pytest.mark.parametrize("dtype", NUMBERS)
def test_one_value_stands_for_all(kit, dtype) -> None:
    """A tensor of equal values may be written once."""
    kind = BY_NUMPY[dtype]
    one = np.ones(1, dtype)
    given = one.view(np.uint16) if dtype == "float16" else one
    tensor = kit.values(kind.field, *given.tolist(), shape=(2, 5), dtype=kind.number)

    found = read(tensor, dtype, (2, 5))

    np.testing.assert_array_equal(found, np.ones((2, 5), dtype))


def test_the_last_value_fills_the_rest(kit) -> None:
    """As TensorFlow writes tensors that end in equal values."""
    tensor = kit.values("float_val", 1, 2, shape=(4,), dtype=1)

    assert read(tensor, "float32", (4,)).tolist() == [1, 2, 2, 2]


def test_strings_lie_in_their_field(kit) -> None:
    """They are bytes, whatever their shape."""
    tensor = kit.values("string_val", b"a", b"\xff", shape=(2, 1), dtype=7)

    assert read(tensor, object, (2, 1)).tolist() == [[b"a"], [b"\xff"]]


def test_negative_small_numbers_survive(kit) -> None:
    """``int_val`` is wider than the types that it holds."""
    tensor = kit.values("int_val", -1, -128, shape=(2,), dtype=6)

    assert read(tensor, "int8", (2,)).tolist() == [-1, -128]


def test_any_byte_but_zero_is_true(kit) -> None:
    """Flags are made 0 and 1 before a model sees them."""
    tensor = kit.tensor(np.array([0, 1, 2], np.uint8))
    tensor.dtype = 10

    assert read(tensor, bool, (3,)).tolist() == [False, True, True]


def test_an_empty_tensor_needs_no_bytes(kit) -> None:
    """Its shape says it all."""
    tensor = kit.values("float_val", shape=(0, 3), dtype=1)

    assert read(tensor, "float32", (0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda kit: kit.tensor(np.ones(3, np.float32)),
            (
                "Invalid content size of tensor proto - Expected: 16 bytes; Actual: 12 bytes; "
                "input name: x"
            ),
        ),
        (
            lambda kit: kit.values("float_val", shape=(4,), dtype=1),
            (
                "Invalid content size of tensor proto - Expected: 16 bytes; Actual: 0 bytes; "
                "input name: x"
            ),
        ),
        (
            lambda kit: kit.values("float_val", 1, 2, 3, 4, 5, shape=(4,), dtype=1),
            (
                "Invalid number of values in tensor proto container - Expected: 4; Actual: 5; "
                "input name: x"
            ),
        ),
    ],
)
def test_data_that_does_not_fill_the_shape_is_refused(kit, build, text) -> None:
    """With the sizes of both."""
    with pytest.raises(RefusalError) as caught:
        read(build(kit), "float32", (4,))

    assert caught.value.message == text


@pytest.mark.parametrize("given", [[], [b"a", b"b", b"c"]])
def test_strings_must_fill_the_shape(kit, given) -> None:
    """None, or more than there is room for."""
    tensor = kit.values("string_val", *given, shape=(2,), dtype=7)

    with pytest.raises(RefusalError) as caught:
        read(tensor, object, (2,))

    assert f"Expected: 2; Actual: {len(given)}" in caught.value.message
