"""A sequence is over when its last request is answered, not before."""

from __future__ import annotations

from legato.runtimes.torchserve.streams import Streams


def test_a_lone_request_ends_its_sequence() -> None:
    """At once, and only if the handler says so."""
    streams = Streams()

    assert not streams.ends("a", "1", more=False, said=False)
    assert streams.ends("a", "2", more=False, said=True)
    assert repr(streams) == "<Streams sequences=0 ending=0>"


def test_a_running_stream_is_answered_first() -> None:
    """The end waits for its last answer; other sequences have nothing to do with it."""
    streams = Streams()
    streams.ends("a", "1", more=True, said=False)

    assert not streams.ends("a", "2", more=False, said=True)
    assert streams.ends("b", "3", more=False, said=True)
    assert not streams.ends("a", "1", more=True, said=False)
    assert streams.ends("a", "1", more=False, said=False)


def test_what_is_forgotten_ends_nothing() -> None:
    """An id that begins anew has no streams, and is not about to end."""
    streams = Streams()
    streams.ends("a", "1", more=True, said=False)
    streams.ends("a", "2", more=False, said=True)

    streams.forget("a")

    assert not streams.ends("a", "3", more=False, said=False)
