"""Ids that the server gives: in order, past those in use, not again soon."""

from __future__ import annotations

from legato.core.types import TFSERVING


def start(h, cid=None):
    return h.ask(cid, 1, start=True, dialect=TFSERVING).correlation_id


def end(h, cid):
    h.ask(cid, 1, end=True, dialect=TFSERVING)


def test_ids_count_up_from_one(make) -> None:
    """A freed one is not given again."""
    h = make()
    h.load()
    given = [start(h), start(h)]
    end(h, 1)

    assert [*given, start(h)] == [1, 2, 3]


def test_ids_of_clients_are_passed_over(make) -> None:
    """With 1 to 4 in use the first one is 5."""
    h = make()
    h.load()
    for cid in range(1, 5):
        start(h, cid)

    assert start(h) == 5


def test_a_server_started_again_gives_no_id_that_was_freed_a_moment_ago(make) -> None:
    """A late client must not write into somebody else's sequence; few looks find a free one."""
    before = make()
    before.load()
    for _ in range(100):
        end(before, start(before))
    after = make(store=before.store)
    after.load()
    looks = []
    read = after.store.read
    after.store.read = lambda key: looks.append(key) or read(key)

    given = [start(after), start(after)]

    assert given[0] > 100
    assert given[1] == given[0] + 1
    assert len(looks) < 12
