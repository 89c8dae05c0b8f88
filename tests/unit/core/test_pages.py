"""Pages: added to without copying, joined now and then, one value whatever the pages are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.pages import RADIX, GrownRow, Pages, paged, strides
from legato.core.types import StateRow


def page(number: int, outer: int = 2, inner: int = 3) -> bytes:
    return bytes([number % 256]) * (outer * inner)


def grown(count: int, outer: int = 2, inner: int = 3) -> Pages:
    pages = Pages((), outer, inner)
    for number in range(count):
        pages = pages.add(page(number, outer, inner))
    return pages


def test_a_value_added_to_stays_as_it_is() -> None:
    """Two values grow from one, and neither sees the other's pages."""
    trunk = grown(3)

    left, right = trunk.add(page(7)), trunk.add(page(8))

    assert trunk == grown(3)
    assert left != right
    assert left.parts[:3] == right.parts[:3] == trunk.parts
    assert all(a is b for a, b in zip(left.parts, trunk.parts, strict=False))


@given(st.lists(st.integers(1, 4), max_size=40), st.integers(1, 3), st.integers(1, 3))
def test_bytes_are_those_of_the_whole_array(sizes, outer, inner) -> None:
    """In the order of the model's own axes, whatever the pages were."""
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (outer, size, inner), np.uint8) for size in sizes]
    whole = np.concatenate([np.empty((outer, 0, inner), np.uint8), *arrays], 1)

    pages = Pages((), outer, inner)
    for array in arrays:
        pages = pages.add(array.transpose(1, 0, 2).tobytes())

    assert bytes(pages) == whole.tobytes()
    assert len(pages) == whole.nbytes
    assert pages == whole.tobytes()
    again = Pages(paged(whole.tobytes(), outer, inner), outer, inner)
    assert again == pages
    assert hash(again) == hash(pages)


@pytest.mark.parametrize("count", [1, RADIX - 1, RADIX, RADIX**2 + 1, 1000, 5000])
def test_pages_stay_few(count) -> None:
    """As many of one age are joined, so their number grows with the logarithm of the steps."""
    pages = grown(count, 1, 1)

    assert len(pages.parts) <= (RADIX - 1) * 4
    assert len(pages) == count


def test_each_entry_is_copied_a_few_times_only() -> None:
    """A thousand steps join no more than three times what they add."""
    pages, joined = Pages((), 1, 1), 0
    for number in range(1000):
        before = set(map(id, pages.parts))
        pages = pages.add(bytes([number % 256]))
        joined += sum(len(part) for part in pages.parts if id(part) not in before) - 1

    assert joined <= 3 * 1000


def test_a_grown_row_equals_the_row_of_its_bytes() -> None:
    """How a state is held is no part of what it is."""
    shapes = ((2, 3, 3),)
    paged_row = GrownRow((grown(3),), shapes)
    plain = StateRow((bytes(grown(3)),), shapes)

    assert paged_row == plain
    assert paged_row.nbytes == plain.nbytes == 18
    assert (paged_row.change, paged_row.batch) == (None, None)


def test_strides_are_counted_around_the_axis() -> None:
    """Elements before it, bytes behind it; the batch axis is one of size 1."""
    assert strides((1, 8, 5, 52), 2, 4) == (8, 208)
    assert strides((1, 5, 7), 1, 2) == (1, 14)
