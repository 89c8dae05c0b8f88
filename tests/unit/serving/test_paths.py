"""Which paths are text."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.serving.paths import TEXT, refuse_other_paths

PIECES = ["/", "a", "%", "%2F", "%zz", *(f"%{byte:02x}" for byte in range(0x80, 0x100))]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_text_may_be_a_path(text: str) -> None:
    """However it is spelled in escapes."""
    assert re.fullmatch(TEXT, quote(text))
    assert re.fullmatch(TEXT, quote(text).lower())


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=6))
def test_what_passes_can_be_decoded(pieces: list[str]) -> None:
    """Whatever passes is UTF-8; what is refused is not, but for a stray % before a digit."""
    path = "".join(pieces)

    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        assert not re.fullmatch(TEXT, path)
    else:
        assert re.fullmatch(TEXT, path) or re.search("%[89A-Fa-f](?![0-9A-Fa-f])", path)


@pytest.mark.parametrize("filters", [["app"], ["cors", "app"]])
def test_paths_are_looked_at_first(filters: list[str]) -> None:
    """Before the app, whatever else stands there."""
    manager = {"http_filters": [{"name": name} for name in filters]}

    refuse_other_paths(manager)

    assert [each["name"] for each in manager["http_filters"]] == ["paths", *filters]
