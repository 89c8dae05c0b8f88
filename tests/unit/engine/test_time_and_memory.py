"""Expiry, sweeping, parking, and what is counted."""

from __future__ import annotations

import pytest

from doubles import chain_of, state_of
from legato.core.errors import ClientError, UnknownSequenceError
from legato.core.types import NATIVE, EndReason, SequenceKey
from legato.engine.manage import Manager
from legato.engine.residence import OVERHEAD

STATE_BYTES = state_of([]).nbytes
RESIDENT_BYTES = STATE_BYTES + OVERHEAD


# -- expiry --------------------------------------------------


def test_an_idle_sequence_expires(make) -> None:
    """The model is told, the count is kept, and a late step learns of it."""
    h = make()
    handle = h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 1, start=True)

    h.pass_time(12.0)

    assert h.stored() is None
    assert h.runtime.ended == [(1, EndReason.EXPIRED)]
    assert handle.statistics.ended["expired"] == 1
    assert h.engine.tables["m"].sequences == {}
    error = h.ask(1, 2)
    assert isinstance(error, UnknownSequenceError)
    assert error.ending.reason is EndReason.EXPIRED
    assert "expired at step 1" in str(error)


def test_every_step_renews_the_idle_time(make) -> None:
    """Only silence counts."""
    h = make()
    h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 0, start=True)

    for x in range(1, 6):
        h.pass_time(8.0)
        assert h.ask(1, x).step == x + 1


def test_a_sequence_may_have_its_own_idle_time(make) -> None:
    """0 = never."""
    h = make()
    h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 0, start=True, ttl_s=0.0)
    h.ask(2, 0, start=True, ttl_s=30.0)

    h.pass_time(20.0)
    assert h.stored(2) is not None
    h.pass_time(20.0)

    assert h.stored(1) is not None
    assert h.stored(2) is None


def test_an_expired_sequence_is_expired_before_the_sweep_sees_it(make) -> None:
    """A step between the limit and the next sweep does not bring it back."""
    h = make()
    h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 1, start=True)

    h.clock.advance(10.5)  # no timer runs
    error = h.ask(1, 2)

    assert isinstance(error, UnknownSequenceError)


def test_start_of_an_expired_id_is_no_start_of_a_live_one(make) -> None:
    """Though the sweep has not come by yet and a copy is in memory."""
    h = make()
    h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 1, start=True, dialect=NATIVE)

    h.clock.advance(10.5)
    reply = h.ask(1, 2, start=True, dialect=NATIVE)

    assert (reply.step, reply.data[0]) == (1, chain_of([2]))


def test_a_step_that_runs_longer_than_the_idle_limit_is_not_lost(make) -> None:
    """The sweep leaves a busy sequence alone, and the commit counts from the arrival."""
    h = make()
    handle = h.load(execution="thread", sequences={"idle_timeout_s": 5})
    room = h.hold_instances(handle)
    first = h.send(1, 1, start=True)
    h.settle()
    h.let_run(room)
    h.settle()
    running, waiting = h.send(1, 2), h.send(1, 3)
    h.settle()

    h.pass_time(20.0)
    h.let_run(room)
    h.settle()
    h.pass_time(20.0)
    h.let_run(room)
    h.settle()

    assert [s.reply.step for s in (first, running, waiting)] == [1, 2, 3]
    assert handle.statistics.ended == {}
    assert h.state() == state_of([1, 2, 3])


def test_a_start_that_waits_while_the_id_expires_begins_anew(make) -> None:
    """What it creates is judged by what lives now, not by what lived when it arrived."""
    h = make(slow_store=True, max_resident_bytes=1)
    h.load(sequences={"idle_timeout_s": 10})
    h.ask(1, 1, start=True, dialect=NATIVE)
    sent = h.send(1, 2, start=True, dialect=NATIVE)

    h.clock.advance(10.5)
    h.settle()

    assert (sent.reply.step, sent.reply.data[0]) == (1, chain_of([2]))


def test_a_failed_sweep_does_not_end_expiry(make) -> None:
    """The next round makes up for it."""
    h = make()
    h.load(sequences={"idle_timeout_s": 2})
    h.ask(1, 1, start=True)
    h.store.sweep_faults.extend([OSError("a"), OSError("b")])

    h.pass_time(6.0)

    assert h.stored() is None


def test_a_parked_sequence_expires_too(make) -> None:
    """Memory has nothing to do with life."""
    h = make(max_resident_bytes=1)
    handle = h.load(sequences={"idle_timeout_s": 5})
    h.ask(1, 1, start=True)

    h.pass_time(7.0)

    assert handle.statistics.ended["expired"] == 1


# -- ends from outside --------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
def test_a_sequence_can_be_ended_from_outside(make, slow) -> None:
    """With its reason; ending it again says that there was none."""
    h = make(slow_store=slow)
    handle = h.load()
    h.ask(1, 1, start=True)

    def end():
        ending = Manager(h.engine).end(SequenceKey("m", 1), EndReason.CANCELLED)
        task = h.loop.create_task(ending)
        for _ in range(5):
            h.settle()
        return task.result()

    assert end().step == 1
    with pytest.raises(UnknownSequenceError, match="was cancelled at step 1"):
        end()
    assert h.runtime.ended == [(1, EndReason.CANCELLED)]
    assert handle.statistics.ended["cancelled"] == 1
    assert h.ask(1, 2).ending.reason is EndReason.CANCELLED


def test_ending_from_outside_while_a_step_runs(make) -> None:
    """The step in flight finds its sequence gone; nothing brings it back (D7)."""
    h = make()
    handle = h.load(execution="thread")
    room = h.hold_instances(handle)
    h.send(1, 1, start=True)
    h.settle()
    h.let_run(room)
    h.settle()
    sent = h.send(1, 2)
    h.settle()

    h.loop.finish(Manager(h.engine).end(SequenceKey("m", 1), EndReason.EVICTED))
    h.let_run(room)
    h.settle()

    assert isinstance(sent.error, UnknownSequenceError)
    assert h.stored() is None
    assert h.ask(1, 1).ending.reason is EndReason.EVICTED


# -- memory --------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
def test_parked_sequences_come_back_bit_for_bit(make, slow) -> None:
    """Memory holds what fits; the rest is in the store and returns with its next step."""
    h = make(max_resident_bytes=3 * RESIDENT_BYTES, slow_store=slow)
    h.load()
    for round_ in range(3):
        for cid in range(1, 11):
            assert h.ask(cid, cid + round_, start=round_ == 0).step == round_ + 1

    resident = h.engine.tables["m"].sequences
    assert list(resident) == [8, 9, 10]
    assert h.engine.residence.bytes == 3 * RESIDENT_BYTES
    assert [h.state(cid) for cid in range(1, 11)] == [
        state_of([cid, cid + 1, cid + 2]) for cid in range(1, 11)
    ]


def test_the_least_recently_used_are_parked_first(make) -> None:
    """A step makes a sequence recent."""
    h = make(max_resident_bytes=2 * RESIDENT_BYTES)
    h.load()
    h.ask(1, 1, start=True)
    h.ask(2, 1, start=True)
    h.ask(1, 2)

    h.ask(3, 1, start=True)

    assert sorted(h.engine.tables["m"].sequences) == [1, 3]


def test_what_is_resident_is_counted_right_whatever_happens(make) -> None:
    """Restarts, failures, conflicts, ends, expiries and drops leave no bytes behind."""
    from legato.stores.base import Conflict

    h = make(max_resident_bytes=1 << 20)
    h.load(sequences={"idle_timeout_s": 50})
    for cid in range(1, 6):
        h.ask(cid, 1, start=True)
    h.ask(1, 2, start=True)
    h.ask(2, 2, 1)
    h.store.commit_faults.append(lambda batch: [Conflict(5) for _ in batch])
    h.ask(3, 2)
    h.store.commit_faults.extend([("lost", OSError("x")), OSError("x"), OSError("x")])
    h.send(4, 2)
    h.pass_time(1.0)
    h.store.commit_faults.append(("lost", OSError("x")))
    h.send(5, 2, start=True)
    h.pass_time(1.0)
    h.ask(1, 3, end=True)

    resident = [s for s in h.engine.tables["m"].sequences.values() if s.state is not None]
    assert h.engine.residence.bytes == len(resident) * RESIDENT_BYTES
    h.engine.models()
    gauges = h.engine.model("m").statistics
    assert (gauges.resident, gauges.state_bytes) == (len(resident), len(resident) * STATE_BYTES)
    assert all(not sequence.busy for sequence in h.engine.residence.idle)

    h.pass_time(60.0)
    assert h.engine.residence.bytes == 0
    assert len(h.engine.residence.idle) == 0
    assert h.engine.tables["m"].sequences == {}


def test_an_ended_sequence_leaves_the_idle_list(make) -> None:
    """Or a successor of the same id could be dropped in its place."""
    h = make(max_resident_bytes=1 << 20)
    h.load()

    for _ in range(10):
        h.ask(1, 1, start=True)
        h.ask(1, 2, end=True)

    assert len(h.engine.residence.idle) == 0


def test_releasing_a_busy_sequence_does_nothing(make) -> None:
    """Its step finds out by its commit."""
    h = make()
    h.load()
    sent = h.send(1, 1, start=True)

    h.engine.release(SequenceKey("m", 1))
    h.settle()

    assert sent.reply.step == 1
    assert h.ask(1, 2).step == 2


# -- seeing --------------------------------------------------


def test_statistics_tell_what_happened(make) -> None:
    """Steps by outcome, batches, sequences, gauges."""
    h = make()
    handle = h.load()
    for cid in (1, 2, 3):
        h.send(cid, 1, start=True)
    h.settle()
    h.send(1, 2)
    h.send(2, 2, 1)
    h.settle()
    h.ask(3, 2, end=True)
    h.engine.models()

    s = handle.statistics
    assert (s.applied, s.failed["model_failed"], s.opened, s.retried_rows) == (5, 1, 3, 2)
    assert (s.live, s.resident, s.state_bytes, s.queued, s.running) == (
        2, 2, 2 * STATE_BYTES, 0, 0,
    )  # fmt: skip
    assert s.batch_size.count == s.batches == 3
    assert s.queue_s.count == 6
    assert s.batch_seconds[3][0] == 1


def test_what_a_protocol_refused_is_counted(make) -> None:
    """For the default version of the model; of models not served nothing is kept."""
    h = make()
    handle = h.load()

    h.engine.refused("m", ClientError("step -1"))
    h.engine.refused("unheard of", ClientError("step -1"))

    assert handle.statistics.failed == {"invalid_argument": 1}


def test_the_listing_shows_live_sequences(make) -> None:
    """Oldest first, of one model or all."""
    h = make()
    h.load("a")
    h.load("b")
    for cid in (3, 1, 2):
        h.ask(cid, 1, start=True, model="a")
    h.ask(9, 1, start=True, model="b")

    assert [row.key.correlation_id for row in h.engine.sequences("a")] == [3, 1, 2]
    assert len(list(h.engine.sequences())) == 4


def test_the_engine_describes_itself_in_one_line(make) -> None:
    """With counts."""
    h = make()
    handle = h.load()
    h.ask(1, 1, start=True)

    assert repr(h.engine) == "<Engine models=1 unanswered=0>"
    assert "m v1 2 states" in repr(handle)
    assert "step=1" in repr(h.engine.tables["m"].sequences[1])


def test_closing_closes_the_models_and_the_store(make) -> None:
    """In that order, once."""
    h = make()
    h.load()

    h.loop.finish(h.engine.close())

    assert h.runtime.closed
    assert h.store.closed
    assert not h.engine.ready
