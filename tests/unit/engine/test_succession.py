"""Versions give way to others; the sequences that live on them go on to their end."""

from __future__ import annotations

from doubles import chain_of
from legato.core.errors import ModelChangedError, UnknownModelError
from legato.core.types import TFSERVING

A, B = "a" * 16, "b" * 16


def reload(h, **options):
    """Load as a repository does that changed under its sequences."""
    before = h.engine.load
    h.engine.load = lambda config: before(config, keep_sequences=True)
    try:
        return h.load(**options)
    finally:
        h.engine.load = before


def unload(h, version=""):
    h.loop.finish(h.engine.unload("m", version, keep_sequences=True))


def test_a_live_sequence_stays_on_the_content_it_began_with(make) -> None:
    """Its next steps run on the old runtime, those of a new sequence on the new one."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)

    reload(h, digest=B)

    assert h.ask(1, 2).data[0] == chain_of([1, 2])
    assert h.ask(2, 3, start=True).step == 1
    assert [len(runtime.calls) for runtime in h.runtimes] == [2, 1]


def test_the_old_content_is_freed_after_its_last_sequence(make) -> None:
    """Not while one lives, also when nobody sends anything for long."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)
    h.ask(2, 1, start=True)
    reload(h, digest=B)

    h.ask(1, 2, end=True)
    h.pass_time(100)
    kept = not h.runtimes[0].closed
    h.ask(2, 2, end=True)
    h.pass_time(2)

    assert kept
    assert h.runtimes[0].closed
    assert not h.runtimes[1].closed


def test_content_that_no_sequence_lives_on_is_freed_at_once(make) -> None:
    """Within a round of housekeeping."""
    h = make()
    h.load(digest=A)

    reload(h, digest=B)
    h.pass_time(2)

    assert h.runtimes[0].closed


def test_a_parked_sequence_finds_its_content_again(make) -> None:
    """Its state is in the store only when its version gives way."""
    h = make(max_resident_bytes=1)
    h.load(digest=A)
    h.ask(1, 1, start=True)

    reload(h, digest=B)
    h.pass_time(5)

    assert h.ask(1, 2).data[0] == chain_of([1, 2])


def test_the_same_content_takes_its_sequences_over(make) -> None:
    """A change of limits needs no second copy of the model."""
    h = make()
    h.load(digest=A, sequences={"max_live": 1})
    h.ask(1, 1, start=True)

    reload(h, digest=A, sequences={"max_live": 2})

    assert h.runtimes[0].closed
    assert h.ask(1, 2).data[0] == chain_of([1, 2])
    assert h.ask(2, 2, start=True).step == 1


def test_a_version_taken_away_serves_its_sequences_only(make) -> None:
    """A START goes to what is left; naming the version taken away is an error."""
    h = make()
    h.load(digest=A, version="1")
    h.ask(1, 1, start=True)
    reload(h, digest=B, version="2")
    unload(h, "1")

    old = h.ask(1, 2)
    new = h.ask(2, 2, start=True)
    refused = h.ask(3, 2, start=True, version="1")

    assert (old.version, new.version) == ("1", "2")
    assert isinstance(refused, UnknownModelError)


def test_a_model_taken_away_serves_its_sequences_only(make) -> None:
    """When the last of them is over, the model is forgotten."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)
    unload(h)

    refused = h.ask(2, 1, start=True, dialect=TFSERVING)
    assert isinstance(refused, UnknownModelError)
    assert h.ask(1, 2, end=True).step == 2
    h.pass_time(2)

    assert h.runtimes[0].closed
    assert not h.engine.tables


def test_a_first_step_under_way_is_counted(make) -> None:
    """It commits after its version gave way: the version stays for the rest of it."""
    h = make()
    handle = h.load(digest=A, execution="thread")
    room = h.hold_instances(handle)
    first = h.send(1, 1, start=True)
    h.settle()

    reload(h, digest=B)
    h.pass_time(3)
    h.let_run(room)
    h.settle()
    h.pass_time(200)
    again = h.send(1, 2)
    h.settle()
    h.let_run(room)
    h.settle()

    assert first.reply.step == 1
    assert again.reply.data[0] == chain_of([1, 2])


def test_without_the_wish_the_old_content_is_freed(make) -> None:
    """As before: state of other content is not read."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)

    h.load(digest=B)

    assert h.runtimes[0].closed
    assert isinstance(h.ask(1, 2), ModelChangedError)


def test_sequences_are_counted_in_pages(make, monkeypatch) -> None:
    """Also those that do not fit one page."""
    monkeypatch.setattr("legato.engine.succession._PAGE", 2)
    h = make()
    h.load(digest=A)
    for cid in range(1, 6):
        h.ask(cid, 1, start=True)

    reload(h, digest=B)
    for cid in range(1, 5):
        h.ask(cid, 2, end=True)
    h.pass_time(10)
    kept = not h.runtimes[0].closed
    h.ask(5, 2, end=True)
    h.pass_time(10)

    assert kept
    assert h.runtimes[0].closed
