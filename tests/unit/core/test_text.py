"""Texts as bytes, and back."""

from __future__ import annotations

import pytest

from legato.core.text import join_texts, split_texts


@pytest.mark.parametrize("values", [[], [b""], [b"a", b"", b"\0\xff" * 300]])
def test_texts_come_back(values) -> None:
    """Whatever bytes they are."""
    assert split_texts(join_texts(values)) == values


def test_each_follows_its_length() -> None:
    """As on KServe's wire."""
    assert join_texts([b"ab"]) == b"\2\0\0\0ab"


def test_a_text_that_is_cut_off_is_refused() -> None:
    """The rest is not there."""
    with pytest.raises(ValueError, match="a text of 9 bytes is cut off"):
        split_texts(b"\1\0\0\0a\11\0\0\0b")
