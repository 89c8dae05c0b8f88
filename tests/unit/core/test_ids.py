"""Ids as text are one to one, and snapshots never meet sequences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.ids import (
    group_of,
    id_from_text,
    id_to_text,
    is_reserved,
    snapshot_key,
    snapshot_of,
    snapshot_prefix,
    snapshots_of,
)
from legato.core.types import SequenceKey

IDS = st.one_of(
    st.integers(1, 2**64 - 1),
    st.text(min_size=1, max_size=50).filter(
        lambda text: len(text.encode("utf-8", "surrogatepass")) <= 1000
    ),
)


@given(IDS)
def test_typed_id_says_which_id_it_is(correlation_id) -> None:
    """Numbers and texts come back as they were, through characters that any path carries."""
    text = id_to_text(correlation_id)

    assert id_from_text(text) == correlation_id
    assert type(id_from_text(text)) is type(correlation_id)
    assert "/" not in text
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "correlation_id"),
    [
        ("7", 7),
        ("i:7", 7),
        ("s:7", "7"),
        ("ann", "ann"),
        ("s:i:7", "i:7"),
        ("b:YS9i", "a/b"),
        ("x:1", "x:1"),
    ],
)
def test_bare_digits_are_a_number_and_other_text_itself(text, correlation_id) -> None:
    """What people type without thinking means what they think."""
    assert id_from_text(text) == correlation_id


@pytest.mark.parametrize(
    "text", ["", "0", "i:", "i:-1", "i:x", f"i:{2**64}", "s:", "b:%", "b:", "a" * 1001, "é" * 501]
)
def test_what_is_no_id_is_refused(text) -> None:
    """With a sentence, not with a wrong sequence."""
    with pytest.raises(ValueError, match=r"\w"):
        id_from_text(text)


@given(IDS, st.text(min_size=1, max_size=20), IDS, st.text(min_size=1, max_size=20))
def test_snapshots_have_keys_of_their_own(one, name, other, second) -> None:
    """Two snapshots share a key only if sequence and name are the same."""
    a, b = snapshot_key(SequenceKey("m", one), name), snapshot_key(SequenceKey("m", other), second)
    same = (type(one), one, name) == (type(other), other, second)

    assert (a == b) == same
    assert snapshot_of(a.correlation_id) == (one, name)
    assert a.correlation_id.startswith(snapshot_prefix(one))
    assert b.correlation_id.startswith(snapshot_prefix(one)) == (
        (type(one), one) == (type(other), other)
    )


def test_snapshots_are_filed_apart() -> None:
    """The group of a snapshot is no model's name."""
    key = SequenceKey("m", 7)

    assert group_of(key) == "m"
    assert group_of(snapshot_key(key, "a")) == snapshots_of("m")
    assert "/" in snapshots_of("m")


@pytest.mark.parametrize(
    "correlation_id", [7, "ann", "legato:snap", "legato:snapshot:junk", "legato:snapshot:i.x.!"]
)
def test_no_other_id_is_a_snapshot(correlation_id) -> None:
    """Also not one that only begins like it."""
    assert snapshot_of(correlation_id) is None
    assert is_reserved(correlation_id) == str(correlation_id).startswith("legato:snapshot:")
