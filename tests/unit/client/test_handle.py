"""Streams know their last chunk if they are asked to; names are checked before anything is sent."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import legato
from legato.client.errors import InvalidInputError
from legato.client.handle import lookahead
from legato.client.settings import ClientSettings, options, target


@pytest.mark.parametrize(
    "chunks", [[1, 2, 3], (1, 2, 3), np.array([1, 2, 3]), iter([1, 2, 3]), range(1, 4)]
)
def test_last_chunk_is_known_when_wanted(chunks) -> None:
    """Of lists and arrays at once, of iterators by looking ahead."""
    assert list(lookahead(chunks, hold=True)) == [(1, False), (2, False), (3, True)]


def test_nothing_is_held_back_unless_wanted() -> None:
    """A live source gets its answer before the next chunk is taken."""
    taken = []
    source = (taken.append(index) or index for index in range(3))

    first = next(lookahead(source, hold=False))

    assert first == (0, False)
    assert taken == [0]


def test_empty_source_has_no_last_chunk() -> None:
    """No chunk, no step."""
    assert list(lookahead(iter(()), hold=True)) == []


def test_ids_and_prefixes_are_made_where_none_are_given() -> None:
    """Two sequences never share them by accident."""
    first, second = target("m", None), target("m", None)

    assert first.id != second.id
    assert first.prefix != second.prefix
    assert target("m", 7, prefix="t").prefix == "t"


@pytest.mark.parametrize(
    ("name", "more"), [(0, {}), ("", {}), (-1, {}), (2**64, {}), ("a", {"window": 0})]
)
def test_impossible_ids_and_windows_are_refused(name, more) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInputError):
        target("m", name, **more)


@pytest.mark.parametrize(
    "settings",
    [{"idle_timeout_s": -1}, {"idle_timeout_s": float("nan")}, {"durability": "paper"}],
)
def test_impossible_beginnings_are_refused(settings) -> None:
    """The server would refuse them too, a step later."""
    with pytest.raises(InvalidInputError, match=next(iter(settings))):
        target("m", "a", **settings)


def test_scheme_of_an_address_is_not_needed() -> None:
    """What a browser is given works here too."""
    assert options("http://127.0.0.1:8000", ClientSettings()).address == "127.0.0.1:8000"


def test_importing_legato_imports_no_grpc() -> None:
    """The names are there at once, their weight comes with their first use."""
    code = (
        "import sys, legato; light = 'grpc' not in sys.modules and 'numpy' not in sys.modules; "
        "assert 'Client' in dir(legato); legato.Client; "
        "sys.exit(not (light and 'grpc' in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)

    assert done.returncode == 0


def test_every_promised_name_is_there() -> None:
    """The stub and the lazy names agree with the client."""
    for name in legato._CLIENT:
        assert getattr(legato, name).__module__.startswith("legato.client")
    with pytest.raises(AttributeError, match="Clientt"):
        legato.Clientt  # noqa: B018
