"""Sequences seen and changed from outside: names, races with steps, properties of branches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles import CHAIN_SIGNATURE, FAIL_ROW, WALL_START, Harness, chain_of, state_of
from legato.core.errors import (
    ClientError,
    ModelChangedError,
    RecreatedError,
    SequenceExistsError,
    SequenceLimitError,
    StepAppliedError,
    StepGapError,
    StorageFullError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.core.ids import RESERVED, snapshot_key
from legato.core.types import NATIVE, EndReason, SequenceKey, StateRow
from legato.engine.manage import MOST_A_PAGE, Manager, Wish
from legato.engine.refusals import NotAtStepError, SnapshotExistsError, UnknownSnapshotError
from legato.stores.base import Damaged

KEY = SequenceKey("m", 1)


class Managed:
    """A harness and its manager."""

    def __init__(self, h: Harness) -> None:
        self.h = h
        self.manager = Manager(h.engine, wall=lambda: WALL_START + h.clock())

    def run(self, coroutine):
        """Run a management call to its end; calls of a slow store are carried out."""
        task = self.h.loop.create_task(coroutine)
        for _turn in range(50):
            self.h.settle()
            if task.done():
                return task.result()
        raise AssertionError("it never came back")

    def steps(self, cid, xs, **options) -> list:
        """Take steps, the first with START unless the sequence lives."""
        start = self.h.stored(cid) is None
        replies = []
        for at, x in enumerate(xs):
            replies.append(self.h.ask(cid, x, start=start and at == 0, **options))
        return replies

    def chain(self, cid=1) -> bytes:
        return self.h.state(cid).data[0]


@pytest.fixture(params=["quick store", "slow store"])
def managed(request, make) -> Managed:
    return Managed(make(slow_store=request.param == "slow store"))


# -- ends ------------------------------------------------------------


@pytest.mark.parametrize("reason", [EndReason.ENDED, EndReason.CANCELLED, EndReason.EVICTED])
def test_an_end_keeps_its_name(managed, reason) -> None:
    """A late step and a later look are told what happened, when and at which step."""
    managed.h.load()
    managed.steps(1, [5, 6])
    ending = managed.run(managed.manager.end(KEY, reason))
    managed.h.pass_time(3.0)

    late = managed.h.ask(1, 7)
    seen = managed.run(managed.manager.look(KEY))

    assert (ending.reason, ending.step) == (reason, 2)
    assert f"it {reason.value} at step 2" in str(late)
    assert (seen.ending.reason, seen.ending.step) == (reason, 2)


def test_every_other_end_has_its_name_too(make) -> None:
    """Ended by a step, expired; what was never there is unknown."""
    managed = Managed(make())
    managed.h.load(sequences={"idle_timeout_s": 10})
    managed.h.ask(1, 1, start=True, end=True)
    managed.h.ask(2, 1, start=True)
    managed.h.pass_time(12.0)

    seen = [managed.run(managed.manager.look(SequenceKey("m", cid))) for cid in (1, 2)]

    assert [head.ending.reason for head in seen] == [EndReason.ENDED, EndReason.EXPIRED]
    with pytest.raises(UnknownSequenceError) as unknown:
        managed.run(managed.manager.look(SequenceKey("m", 3)))
    assert unknown.value.ending is None


def test_an_end_may_name_the_incarnation(managed) -> None:
    """Repeated it says the same; a sequence that took the id since is left alone."""
    managed.h.load()
    managed.steps(1, [5])
    first = managed.h.stored(1)[0].incarnation

    ending = managed.run(managed.manager.end(KEY, incarnation=first))
    again = managed.run(managed.manager.end(KEY, incarnation=first))

    assert (again.reason, again.step) == (ending.reason, ending.step)
    managed.steps(1, [8])
    with pytest.raises(RecreatedError):
        managed.run(managed.manager.end(KEY, incarnation=first))
    assert managed.chain() == chain_of([8])


def test_a_repeat_of_the_last_step_is_answered_after_the_end(managed) -> None:
    """The receipt outlives the sequence (D3)."""
    managed.h.load()
    first = managed.h.ask(1, 5, start=True, number=1, request_id="a")
    managed.run(managed.manager.end(KEY))

    again = managed.h.ask(1, 5, start=True, number=1, request_id="a")

    assert again.replayed
    assert again.data == first.data


# -- snapshots ------------------------------------------------------------


def test_a_snapshot_stays_as_it_was(managed) -> None:
    """Whatever becomes of its sequence, bit for bit; it is no sequence itself."""
    managed.h.load(sequences={"max_live": 1})
    managed.steps(1, [5, 6])

    made = managed.run(managed.manager.snapshot(KEY, "before"))
    managed.steps(1, [7])
    managed.run(managed.manager.end(KEY))
    head, state = managed.run(managed.manager.read(KEY, "before"))

    assert (made.head.step, head.step) == (2, 2)
    assert state == state_of([5, 6])
    assert managed.run(managed.manager.page(Wish("m"))).rows == []
    assert managed.h.ask(2, 1, start=True).step == 1


def test_snapshots_are_listed_with_their_sequence(managed) -> None:
    """Oldest first; 1 and "1" have their own."""
    managed.h.load()
    managed.steps(1, [5])
    managed.steps("1", [5])
    managed.run(managed.manager.snapshot(KEY))
    managed.steps(1, [6])
    managed.run(managed.manager.snapshot(KEY))
    managed.run(managed.manager.snapshot(SequenceKey("m", "1"), "x"))

    of_one = managed.run(managed.manager.snapshots("m", 1)).rows
    of_all = managed.run(managed.manager.snapshots("m")).rows

    assert [row.key for row in of_one] == [snapshot_key(KEY, "step-1"), snapshot_key(KEY, "step-2")]
    assert [row.head.step for row in of_all] == [1, 2, 1]


def test_a_snapshot_never_changes(managed) -> None:
    """A name that is taken is refused until it is deleted."""
    managed.h.load()
    managed.steps(1, [5])
    managed.run(managed.manager.snapshot(KEY, "a"))
    managed.steps(1, [6])
    with pytest.raises(SnapshotExistsError, match="'a' already, of step 1"):
        managed.run(managed.manager.snapshot(KEY, "a"))

    managed.run(managed.manager.delete_snapshot(KEY, "a"))

    assert managed.run(managed.manager.snapshot(KEY, "a")).head.step == 2
    with pytest.raises(UnknownSnapshotError, match="'b'"):
        managed.run(managed.manager.delete_snapshot(KEY, "b"))


def test_a_snapshot_may_have_an_end(make) -> None:
    """With a time to live it goes by itself, and is counted nowhere."""
    managed = Managed(make())
    handle = managed.h.load()
    managed.steps(1, [5])
    managed.run(managed.manager.snapshot(KEY, "a", ttl_s=10))
    managed.h.pass_time(12.0)

    with pytest.raises(UnknownSnapshotError):
        managed.run(managed.manager.read(KEY, "a"))
    assert handle.statistics.ended == {}
    assert managed.run(managed.manager.snapshots("m")).rows == []


@pytest.mark.parametrize("name", ["a/b", "x" * 101, "a\n", ".", ".."])
def test_a_snapshots_name_is_plain(managed, name) -> None:
    """It becomes part of paths."""
    managed.h.load()
    managed.steps(1, [5])

    with pytest.raises(ClientError, match="printable"):
        managed.run(managed.manager.snapshot(KEY, name))


@pytest.mark.parametrize("start", [True, False])
def test_no_step_reaches_a_snapshot(managed, start) -> None:
    """Its id is kept from clients, also from the manager's own calls."""
    managed.h.load()
    managed.steps(1, [5])
    managed.run(managed.manager.snapshot(KEY, "a"))
    cid = snapshot_key(KEY, "a").correlation_id

    error = managed.h.ask(cid, 5, start=start)

    assert error.code == "invalid_argument"
    assert RESERVED in str(error)
    for call in (managed.manager.end, managed.manager.look, managed.manager.read):
        with pytest.raises(ClientError, match="snapshot"):
            managed.run(call(SequenceKey("m", cid)))
    assert managed.run(managed.manager.read(KEY, "a"))[1] == state_of([5])


# -- forks ------------------------------------------------------------


def test_a_fork_is_made_only_where_it_may(managed) -> None:
    """Not over a live one, not at another step, not of nothing, not beyond the limit."""
    managed.h.load(sequences={"max_live": 2})
    managed.steps(1, [5, 6])
    fork = managed.manager.fork

    with pytest.raises(NotAtStepError, match="at step 2, not at step 1"):
        managed.run(fork(KEY, 2, at_step=1))
    with pytest.raises(UnknownSequenceError):
        managed.run(fork(SequenceKey("m", 9), 2))
    with pytest.raises(UnknownSnapshotError):
        managed.run(fork(KEY, 2, snapshot="none"))
    with pytest.raises(SequenceExistsError):
        managed.run(fork(KEY, 1))
    made = managed.run(fork(KEY, 2, at_step=2))
    with pytest.raises(SequenceLimitError):
        managed.run(fork(KEY, 3))

    assert (made.key.correlation_id, made.head.step) == (2, 2)
    assert managed.h.state(2) == state_of([5, 6])


def test_a_fork_of_a_snapshot_needs_no_living_source(managed) -> None:
    """So an ended sequence can be had back, under its own id or another."""
    managed.h.load(sequences={"idle_timeout_s": 77})
    managed.steps(1, [5, 6])
    managed.run(managed.manager.snapshot(KEY, "a"))
    managed.run(managed.manager.end(KEY))

    made = managed.run(managed.manager.fork(KEY, 1, snapshot="a"))

    assert made.head.ttl_s == 77
    assert managed.h.ask(1, 7).step == 3
    assert managed.chain() == chain_of([5, 6, 7])


def test_a_retry_meant_for_the_source_is_not_taken_by_the_fork(managed) -> None:
    """The fork answered no request yet."""
    managed.h.load()
    managed.h.ask(1, 5, start=True, number=1, request_id="a")
    managed.run(managed.manager.fork(KEY, 2))

    assert isinstance(managed.h.ask(2, 5, number=1, request_id="a"), StepAppliedError)
    assert managed.h.ask(2, 6, number=2, request_id="b").step == 2


# -- rollback ------------------------------------------------------------


def test_a_rollback_tells_numbered_clients_where_it_is(managed) -> None:
    """The gap names the expected step; one who asked for the incarnation learns that it is gone."""
    handle = managed.h.load()
    managed.steps(1, [5, 6])
    managed.run(managed.manager.snapshot(KEY, "a"))
    managed.steps(1, [7, 8])
    old = managed.h.stored(1)[0].incarnation

    made = managed.run(managed.manager.rollback(KEY, "a"))

    ahead = managed.h.ask(1, 9, number=5)
    assert isinstance(ahead, StepGapError)
    assert ahead.expected_step == 3
    assert isinstance(managed.h.ask(1, 9, number=5, incarnation=old), RecreatedError)
    assert managed.h.ask(1, 9, number=3, incarnation=made.head.incarnation).step == 3
    assert managed.chain() == chain_of([5, 6, 9])
    assert handle.statistics.ended["rolled_back"] == 1
    assert managed.h.runtime.ended == [(1, EndReason.ROLLED_BACK)]


def test_a_repeat_from_before_the_rollback_gets_no_reply_from_after(managed) -> None:
    """The receipts of the steps that never were are gone with them."""
    managed.h.load()
    managed.h.ask(1, 5, start=True, number=1, request_id="a")
    managed.run(managed.manager.snapshot(KEY, "a"))
    managed.h.ask(1, 6, number=2, request_id="b")
    managed.run(managed.manager.rollback(KEY, "a"))

    again = managed.h.ask(1, 6, number=2, request_id="b")

    assert not again.replayed
    assert managed.chain() == chain_of([5, 6])
    assert isinstance(managed.h.ask(1, 5, number=1, request_id="a"), StepAppliedError)


def test_what_has_ended_is_not_rolled_back(managed) -> None:
    """Nothing is raised from the dead (D7)."""
    managed.h.load()
    managed.steps(1, [5])
    managed.run(managed.manager.snapshot(KEY, "a"))
    with pytest.raises(UnknownSnapshotError):
        managed.run(managed.manager.rollback(KEY, "b"))
    with pytest.raises(RecreatedError):
        managed.run(managed.manager.rollback(KEY, "a", incarnation=b"o" * 16))
    managed.run(managed.manager.end(KEY))

    with pytest.raises(UnknownSequenceError, match="it ended at step 1"):
        managed.run(managed.manager.rollback(KEY, "a"))
    assert managed.h.stored() is None


# -- races with a step in flight ------------------------------------------------------------


def in_flight(make, slow: bool, **step):
    """A sequence after [5, 6] with a snapshot of [5], whose step 7 runs in the model's thread."""
    managed = Managed(make(slow_store=slow))
    handle = managed.h.load(execution="thread")
    room = managed.h.hold_instances(handle)

    def let_run():
        managed.h.settle()
        managed.h.let_run(room)
        managed.h.settle()

    managed.h.send(1, 5, start=True)
    let_run()
    managed.run(managed.manager.snapshot(KEY, "a"))
    managed.h.send(1, 6)
    let_run()
    sent = managed.h.send(1, 7, **step)
    managed.h.settle()
    return managed, sent, let_run, room


@pytest.mark.parametrize("slow", [False, True])
def test_a_fork_while_a_step_runs_is_of_the_state_before(make, slow) -> None:
    """The step goes on, and neither sees the other."""
    managed, sent, let_run, _room = in_flight(make, slow)

    managed.run(managed.manager.fork(KEY, 2))
    let_run()

    assert managed.h.state(2) == state_of([5, 6])
    assert sent.reply.step == 3
    assert managed.h.state(1) == state_of([5, 6, 7])


@pytest.mark.parametrize("first", ["commit", "fork"])
def test_a_fork_in_turn_with_a_commit_is_before_or_after_it(make, first) -> None:
    """Never between: the store decides who came first."""
    managed = Managed(make(slow_store=True))
    managed.h.load()
    managed.steps(1, [5, 6])
    loop, held = managed.h.loop, managed.h.held
    fork = managed.manager.fork(KEY, 2)
    if first == "fork":
        task = loop.create_task(fork)
        loop.settle()
        sent = managed.h.send(1, 7)
    else:
        sent = managed.h.send(1, 7)
        loop.settle()
        task = loop.create_task(fork)
    loop.settle()

    assert len(held.waiting) == 2
    managed.h.settle()

    assert task.result().head.step == (2 if first == "fork" else 3)
    assert managed.h.state(2) == state_of([5, 6] if first == "fork" else [5, 6, 7])
    assert sent.reply.step == 3


@pytest.mark.parametrize("slow", [False, True])
def test_a_rollback_while_an_unnumbered_step_runs_applies_it_to_the_snapshot(make, slow) -> None:
    """It is "the next step", whatever that is by the time it is committed."""
    managed, sent, let_run, _room = in_flight(make, slow)

    managed.run(managed.manager.rollback(KEY, "a"))
    let_run()
    assert not sent.answered
    let_run()

    assert sent.reply.step == 2
    assert managed.h.state(1) == state_of([5, 7])


@pytest.mark.parametrize("slow", [False, True])
def test_a_rollback_while_a_numbered_step_runs_refuses_it(make, slow) -> None:
    """Its number does not follow any more; nothing of it stays."""
    managed, sent, let_run, room = in_flight(make, slow, number=3)

    managed.run(managed.manager.rollback(KEY, "a"))
    let_run()

    assert isinstance(sent.error, StepGapError)
    assert sent.error.expected_step == 2
    assert managed.h.state(1) == state_of([5])
    assert not room


@pytest.mark.parametrize("slow", [False, True])
def test_a_copy_in_use_is_dropped_though_its_step_fails(make, slow) -> None:
    """Otherwise a repeat would be answered from a past that was rolled back."""
    managed = Managed(make(slow_store=slow))
    handle = managed.h.load(execution="thread")
    room = managed.h.hold_instances(handle)

    def take(*args, **options):
        sent = managed.h.send(*args, **options)
        managed.h.settle()
        if room:
            managed.h.let_run(room)
            managed.h.settle()
        return sent.outcome

    take(1, 5, start=True, number=1, request_id="a")
    managed.run(managed.manager.snapshot(KEY, "a"))
    take(1, 6, number=2, request_id="b")
    failing = managed.h.send(1, 7, FAIL_ROW, number=3, request_id="c")
    managed.h.settle()
    managed.run(managed.manager.rollback(KEY, "a"))
    managed.h.let_run(room)
    managed.h.settle()
    again = take(1, 6, number=2, request_id="b")

    assert failing.error.code == "model_failed"
    assert not again.replayed
    assert managed.h.state(1) == state_of([5, 6])


@pytest.mark.parametrize("slow", [False, True])
def test_an_end_while_a_step_runs_leaves_nothing_of_it(make, slow) -> None:
    """The step is told what became of its sequence."""
    managed, sent, let_run, _room = in_flight(make, slow)

    managed.run(managed.manager.end(KEY, EndReason.CANCELLED))
    let_run()

    assert sent.error.ending.reason is EndReason.CANCELLED
    assert managed.h.stored() is None


@pytest.mark.parametrize("slow", [False, True])
def test_a_start_of_the_target_and_a_fork_into_it_do_not_mix(make, slow) -> None:
    """Whoever commits first has the id; the other is refused or decided again."""
    managed = Managed(make(slow_store=slow))
    handle = managed.h.load(execution="thread")
    room = managed.h.hold_instances(handle)
    first = managed.h.send(1, 5, start=True)
    managed.h.settle()
    managed.h.let_run(room)
    managed.h.settle()
    assert first.answered
    sent = managed.h.send(2, 9, start=True, dialect=NATIVE)
    managed.h.settle()

    managed.run(managed.manager.fork(KEY, 2))
    managed.h.let_run(room)
    managed.h.settle()

    assert isinstance(sent.error, SequenceExistsError)
    assert managed.h.state(2) == state_of([5])


# -- import ------------------------------------------------------------


def test_an_import_goes_on_where_the_export_was(managed) -> None:
    """As a new incarnation; the receipts come with it, so a repeat is still a repeat."""
    managed.h.load()
    managed.h.ask(1, 5, start=True, number=1, request_id="a")
    head, state = managed.run(managed.manager.read(KEY))
    managed.run(managed.manager.end(KEY))

    made = managed.run(managed.manager.put(KEY, head, state))

    assert made.head.incarnation != head.incarnation
    assert managed.h.ask(1, 5, number=1, request_id="a").replayed
    assert managed.h.ask(1, 6, number=2, request_id="b").step == 2
    assert managed.chain() == chain_of([5, 6])


def test_an_import_must_fit(managed) -> None:
    """Not over a live one, not of another content, not of other shapes, not beyond the limit."""
    managed.h.load(sequences={"max_live": 2})
    managed.steps(1, [5])
    head, state = managed.run(managed.manager.read(KEY))
    put, other = managed.manager.put, SequenceKey("m", 2)

    with pytest.raises(SequenceExistsError):
        managed.run(put(KEY, head, state))
    changed = type(head)(**{**_fields(head), "model_digest": "other"})
    with pytest.raises(ModelChangedError, match="other"):
        managed.run(put(other, changed, state))
    with pytest.raises(ClientError, match="does not fit"):
        managed.run(put(other, head, StateRow(state.data[:1], state.shapes[:1])))
    with pytest.raises(UnknownModelError):
        managed.run(put(SequenceKey("nobody", 2), head, state))
    managed.run(put(other, head, state))
    with pytest.raises(SequenceLimitError):
        managed.run(put(SequenceKey("m", 3), head, state))


def _fields(head) -> dict:
    return {name: getattr(head, name) for name in head.__slots__}


def test_an_import_of_a_version_that_is_served_no_more_goes_to_one_of_the_same_content(
    make,
) -> None:
    """Content counts, not names (D8)."""
    managed = Managed(make())
    managed.h.load(version="1", digest="a" * 16)
    managed.steps(1, [5])
    head, state = managed.run(managed.manager.read(KEY))
    managed.h.load(version="2", digest="a" * 16)
    managed.h.loop.finish(managed.h.engine.unload("m", "1"))

    made = managed.run(managed.manager.put(SequenceKey("m", 2), head, state))

    assert made.head.version == "2"
    managed.h.load(version="2", digest="b" * 16)
    with pytest.raises(ModelChangedError):
        managed.run(managed.manager.put(SequenceKey("m", 3), head, state))


# -- listing ------------------------------------------------------------


def fill(managed, count: int = 6) -> None:
    """Sequences 1..count, of 1..count steps, one a second, all but the last two parked."""
    managed.h.load()
    for cid in range(1, count + 1):
        managed.steps(cid, range(cid))
        managed.h.pass_time(1.0)
    for cid in range(1, count - 1):
        managed.h.engine.release(SequenceKey("m", cid))


def ids(page) -> list:
    return [row.key.correlation_id for row in page.rows]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6]),
        ({"min_age_s": 3.5}, [1, 2, 3]),
        ({"max_age_s": 2.5}, [5, 6]),
        ({"min_idle_s": 3.5}, [1, 2, 3]),
        ({"max_idle_s": 1.5}, [6]),
        ({"min_step": 3, "max_step": 4}, [3, 4]),
        ({"min_bytes": 25}, []),
        ({"min_bytes": 24, "max_bytes": 24}, [1, 2, 3, 4, 5, 6]),
        ({"dialect": "kserve"}, [1, 2, 3, 4, 5, 6]),
        ({"dialect": "native"}, []),
        ({"resident": True}, [5, 6]),
        ({"resident": False}, [1, 2, 3, 4]),
        ({"id_prefix": "4"}, [4]),
    ],
)
def test_a_listing_shows_what_is_asked_for(managed, wish, expected) -> None:
    """Every filter, with both its ends."""
    fill(managed)

    assert ids(managed.run(managed.manager.page(Wish("m", **wish)))) == expected


def test_pages_show_every_sequence_once(managed) -> None:
    """Also when sequences end and begin between them."""
    fill(managed)

    first = managed.run(managed.manager.page(Wish("m"), limit=2))
    managed.run(managed.manager.end(SequenceKey("m", 2)))
    managed.run(managed.manager.end(SequenceKey("m", 3)))
    second = managed.run(managed.manager.page(Wish("m"), limit=2, after=first.after))
    last = managed.run(managed.manager.page(Wish("m"), limit=2, after=second.after))

    assert (ids(first), ids(second), ids(last)) == ([1, 2], [4, 5], [6])
    assert last.after == 0


def test_a_page_is_bounded_however_little_matches(make) -> None:
    """It looks at so many rows and no more, in turns, and says where to go on."""
    managed = Managed(make())
    managed.h.load()
    store = managed.h.store
    one = managed.steps(1, [1]) and store.look(KEY)
    asked = []

    class Walk:
        def list(self, model=None, *, after=0):
            for order in range(after + 1, 1_000_000):
                asked.append(order)
                yield one._replace(order=order, key=SequenceKey("m", order))

        def live(self, model):
            return 1

    managed.h.engine.committer.store = managed.h.engine.store = Walk()
    nothing = managed.run(managed.manager.page(Wish("m", dialect="native")))
    looked_at = len(asked)
    everything = managed.run(managed.manager.page(Wish("m"), limit=10**9, after=nothing.after))
    managed.h.engine.committer.store = managed.h.engine.store = store

    assert nothing.rows == []
    assert nothing.after == looked_at < 20_000
    assert len(everything.rows) == MOST_A_PAGE
    assert everything.rows[0].key.correlation_id == looked_at + 1


def test_only_models_that_are_known_are_listed(managed) -> None:
    """An unknown one is an error; an unloaded one still has its sequences."""
    managed.h.load()
    managed.steps(1, [5])
    managed.h.loop.finish(managed.h.engine.unload("m"))

    assert ids(managed.run(managed.manager.page(Wish("m")))) == [1]
    assert ids(managed.run(managed.manager.page(Wish()))) == [1]
    with pytest.raises(UnknownModelError):
        managed.run(managed.manager.page(Wish("nobody")))
    managed.run(managed.manager.end(KEY))


# -- the store fails ------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [(StorageFullError("full"), StorageFullError), (OSError("gone"), StoreUnavailableError)],
)
def test_trouble_of_the_store_reaches_the_caller_as_it_is(make, monkeypatch, trouble, kind) -> None:
    """And the sequence is as it was."""
    managed = Managed(make())
    managed.h.load()
    managed.steps(1, [5])

    def fails(*_args, **_options):
        raise trouble

    monkeypatch.setattr(managed.h.store, "fork", fails)
    with pytest.raises(kind):
        managed.run(managed.manager.snapshot(KEY, "a"))

    assert managed.h.ask(1, 6).step == 2


def test_a_damaged_record_is_named(make, monkeypatch) -> None:
    """A person must look; it is not taken for an unknown one."""
    managed = Managed(make())
    managed.h.load()
    monkeypatch.setattr(managed.h.store, "look", lambda key: Damaged("torn"))
    monkeypatch.setattr(managed.h.store, "read", lambda key: Damaged("torn"))

    for call in (managed.manager.look, managed.manager.read, managed.manager.end):
        with pytest.raises(Exception, match="cannot be trusted: torn"):
            managed.run(call(KEY))


# -- observers ------------------------------------------------------------


def test_observers_see_what_was_committed_before_it_is_answered(make) -> None:
    """With inputs, outputs and both states; what they do wrong hurts nobody."""
    managed = Managed(make())
    managed.h.load()
    seen = []
    answers = []

    def watch(handle, done, batch, results):
        ((work, row),) = done
        seen.append(
            (work.number, int(work.step.inputs["x"][0, 0]), work.state, row.state, len(answers))
        )
        raise RuntimeError("a mistake")

    managed.h.engine.commits.observers.append(watch)
    answers += managed.steps(1, [5])
    answers += managed.steps(1, [6])

    assert [reply.step for reply in answers] == [1, 2]
    assert [(number, x, count) for number, x, _, _, count in seen] == [(1, 5, 0), (2, 6, 1)]
    assert seen[1][2] == seen[0][3] == state_of([5])
    assert seen[1][3] == state_of([5, 6])


# -- branches as properties (issue 3, "must show" 5) --------------------------

XS = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5)
OPTIONS = settings(max_examples=30)


def branch(slow: bool):
    return Managed(Harness(slow_store=slow))


@OPTIONS
@given(slow=st.booleans(), before=XS, after=XS, frozen=st.booleans())
def test_a_fork_followed_by_the_same_steps_gives_the_same_answers(
    slow, before, after, frozen
) -> None:
    """Outputs and states, bit for bit, from the live state and from a snapshot."""
    managed = branch(slow)
    managed.h.load()
    managed.steps(1, before)
    if frozen:
        managed.run(managed.manager.snapshot(KEY, "a"))
    managed.run(managed.manager.fork(KEY, 2, snapshot="a" if frozen else ""))

    ours = managed.steps(1, after)
    theirs = managed.steps(2, after)

    assert [(r.step, r.headers, r.data) for r in ours] == [
        (r.step, r.headers, r.data) for r in theirs
    ]
    assert managed.h.state(1) == managed.h.state(2) == state_of([*before, *after])
    managed.h.close()


@OPTIONS
@given(
    slow=st.booleans(),
    before=XS,
    turns=st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 9)), max_size=8),
)
def test_neither_branch_sees_the_other(slow, before, turns) -> None:
    """However their steps interleave, each is what it would be alone."""
    managed = branch(slow)
    managed.h.load()
    managed.steps(1, before)
    managed.run(managed.manager.fork(KEY, 2))
    taken = {1: list(before), 2: list(before)}
    sent = []

    for cid, x in turns:
        taken[cid].append(x)
        sent.append((cid, list(taken[cid]), managed.h.send(cid, x)))
    managed.h.settle()

    for _cid, xs, one in sent:
        assert one.reply.data[0] == chain_of(xs)
    for cid, xs in taken.items():
        assert managed.h.state(cid) == state_of(xs)
    managed.h.close()


@OPTIONS
@given(
    slow=st.booleans(), before=XS, lost=XS, after=XS, times=st.integers(1, 3), parked=st.booleans()
)
def test_a_rollback_equals_never_having_taken_the_later_steps(
    slow, before, lost, after, times, parked
) -> None:
    """Bit for bit against a sequence that never took them, also again and again."""
    managed = branch(slow)
    managed.h.load()
    managed.steps(1, before)
    managed.steps(2, before)
    managed.run(managed.manager.snapshot(KEY, "a"))
    for _time in range(times):
        managed.steps(1, lost)
        if parked:
            managed.h.engine.release(KEY)
        managed.run(managed.manager.rollback(KEY, "a"))

    ours = managed.steps(1, after)
    never = managed.steps(2, after)

    assert [(r.step, r.headers, r.data) for r in ours] == [
        (r.step, r.headers, r.data) for r in never
    ]
    assert managed.h.state(1) == managed.h.state(2) == state_of([*before, *after])
    assert managed.run(managed.manager.read(KEY, "a"))[1] == state_of(before)
    managed.h.close()


def test_the_model_of_these_tests_tells_every_difference() -> None:
    """Two states, one of which counts and one of which remembers everything."""
    assert [spec.name for spec in CHAIN_SIGNATURE.states] == ["chain", "count"]
    assert state_of([1, 2]) != state_of([2, 1])
    assert isinstance(state_of([1]), StateRow)
    assert np.frombuffer(state_of([1, 2]).data[1], np.float32).tolist() == [2, 2]
