"""Limits, deadlines, cancellation, the backlog, draining."""

from __future__ import annotations

import time

import pytest

from doubles import RAISE_BATCH, chain_of, state_of
from legato.core.errors import (
    BacklogTimeoutError,
    CancelledStepError,
    DeadlineError,
    DrainingError,
    ModelError,
    SequenceLimitError,
    ServerBusyError,
    StepQueueFullError,
    UnknownSequenceError,
)
from legato.core.types import KSERVE, NATIVE, EndReason, SequenceKey
from legato.engine import admission
from legato.engine.manage import Manager

# -- bounds --------------------------------------------------


def test_too_many_steps_of_one_sequence_are_refused(make) -> None:
    """The refusal names the limit and when to try again; the accepted ones are applied."""
    h = make()
    h.load(sequences={"max_queued_steps": 2})

    sent = [h.send(1, x, start=x == 0) for x in range(5)]
    h.settle()

    refused = [s.error for s in sent[3:]]
    assert all(isinstance(e, StepQueueFullError) and e.limit == 2 for e in refused)
    assert refused[0].retry_after_s > 0
    assert h.state() == state_of([0, 1, 2])


def test_too_many_steps_of_the_server_are_refused(make) -> None:
    """The bound counts unanswered steps of all models and is free again afterwards."""
    h = make(max_queued=2)
    h.load()

    sent = [h.send(cid, 0, start=True) for cid in (1, 2, 3)]
    h.settle()

    error = sent[2].error
    assert isinstance(error, ServerBusyError)
    assert error.retry_after_s > 0
    assert h.ask(3, 0, start=True).step == 1


def test_too_many_steps_of_one_model_are_refused(make) -> None:
    """``max_queued`` of a model bounds it alone; other models take steps."""
    h = make()
    h.load("a", max_queued=2)
    h.load("b")

    sent = [h.send(cid, 0, start=True, model="a") for cid in (1, 2, 3)]
    other = h.send(1, 0, start=True, model="b")
    h.settle()

    assert isinstance(sent[2].error, ServerBusyError)
    assert sent[2].error.limit == 2
    assert other.reply.step == 1
    assert h.ask(3, 0, start=True, model="a").step == 1


def test_a_sequence_beyond_its_age_gives_way_to_a_new_one(make, monkeypatch) -> None:
    """The step that finds it too old begins anew under the same id; idle time is not asked."""
    h = make()
    h.load(sequences={"max_age_s": 60.0})
    h.ask(1, 5, start=True)
    h.ask(1, 6)
    now = time.time()
    monkeypatch.setattr(admission.time, "time", lambda: now + 61)

    reply = h.ask(1, 7)

    assert reply.step == 1
    assert h.state() == state_of([7])


def test_a_batch_waits_only_for_sequences_that_live(make) -> None:
    """A lone sequence does not pay for a delay meant for company."""
    h = make()
    h.load(max_queue_delay_ms=500.0, wait_for="live")

    alone = h.ask(1, 5, start=True)
    waiting = h.send(2, 6, start=True)
    h.settle()
    waited = not waiting.answered
    h.send(1, 7)
    h.settle()

    assert alone.step == 1
    assert waited
    assert waiting.reply.step == 1


def test_a_new_sequence_beyond_the_limit_is_refused(make) -> None:
    """Live sequences go on; the refusal names the limit and a time."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True, dialect=NATIVE)

    error = h.ask(2, 1, start=True, dialect=NATIVE)

    assert isinstance(error, SequenceLimitError)
    assert (error.limit, error.retry_after_s > 0) == (1, True)
    assert h.ask(1, 2).step == 2


def test_the_three_refusals_have_three_names() -> None:
    """A client can tell a full server, a full sequence and a full table apart."""
    codes = {SequenceLimitError.code, StepQueueFullError.code, ServerBusyError.code}

    assert len(codes) == 3


def test_first_steps_under_way_count_against_the_limit(make) -> None:
    """Two STARTs in one turn do not both slip in."""
    h = make()
    h.load(sequences={"max_live": 1})

    sent = [h.send(cid, 1, start=True, dialect=NATIVE) for cid in (1, 2)]
    h.settle()

    assert sent[0].reply.step == 1
    assert isinstance(sent[1].error, SequenceLimitError)


def test_a_restart_needs_no_room(make) -> None:
    """It takes the place of the sequence it displaces."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)

    assert h.ask(1, 2, start=True).step == 1


# -- the backlog --------------------------------------------------


def test_a_new_sequence_waits_in_the_backlog_until_one_ends(make) -> None:
    """KServe's dialect queues; the steps behind the START wait with it."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True), h.send(2, 2)]
    h.settle()
    assert not waiting[0].answered

    h.ask(1, 2, end=True)

    assert [s.reply.step for s in waiting] == [1, 2]
    assert h.state(2) == state_of([1, 2])


def test_the_backlog_is_served_in_order_of_arrival(make) -> None:
    """One end lets one in."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    second, third = h.send(2, 1, start=True, end=True), h.send(3, 1, start=True)
    h.settle()

    h.ask(1, 2, end=True)

    assert (second.reply.step, third.reply.step) == (1, 1)
    assert h.runtime.calls[-2:] == [[2], [3]]


def test_a_full_backlog_refuses(make) -> None:
    """Every queue is bounded."""
    h = make()
    h.load(sequences={"max_live": 1, "max_backlog": 1})
    h.ask(1, 1, start=True)
    h.send(2, 1, start=True)

    error = h.ask(3, 1, start=True)

    assert isinstance(error, SequenceLimitError)


def test_a_backlog_entry_times_out(make) -> None:
    """All steps that wait with it are told, and the id is free again."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True, queue_timeout_s=3.0), h.send(2, 2)]

    h.pass_time(2.9)
    assert not waiting[0].answered
    h.pass_time(0.2)

    assert all(isinstance(s.error, BacklogTimeoutError) for s in waiting)
    h.ask(1, 2, end=True)
    assert h.stored(2) is None
    assert h.ask(2, 5, start=True).data[0] == chain_of([5])


def test_any_step_may_limit_the_wait_in_the_backlog(make) -> None:
    """The earliest limit of all steps that wait counts, whichever step has it."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True), h.send(2, 2, queue_timeout_s=3.0)]
    cancelled = h.send(2, 3, queue_timeout_s=1.0)
    h.engine.cancel(cancelled.step)

    h.pass_time(2.9)
    assert not any(step.answered for step in waiting)
    h.pass_time(0.2)

    assert all(isinstance(step.error, BacklogTimeoutError) for step in waiting)
    h.ask(1, 2, end=True)
    assert h.stored(2) is None


def test_a_backlog_entry_in_time_is_not_timed_out_later(make) -> None:
    """The timer of a step that began in time does nothing."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = h.send(2, 1, start=True, queue_timeout_s=3.0)
    h.ask(1, 2, end=True)

    h.pass_time(5.0)

    assert waiting.reply.step == 1
    assert h.ask(2, 2).step == 2


def test_a_deadline_holds_in_the_backlog_too(make) -> None:
    """It is told when it passes, not when there is room."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True, deadline=h.clock() + 2.0), h.send(2, 2)]

    h.pass_time(2.1)

    assert isinstance(waiting[0].error, DeadlineError)
    assert isinstance(waiting[1].error, UnknownSequenceError)


def test_a_start_cancelled_in_the_backlog_gives_up_its_place(make) -> None:
    """The backlog has room again, and steps behind it are not left hanging."""
    h = make()
    h.load(sequences={"max_live": 1, "max_backlog": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True), h.send(2, 2)]
    h.settle()

    h.engine.cancel(waiting[0].step)
    h.settle()
    following = h.send(3, 1, start=True)
    h.settle()

    assert isinstance(waiting[0].error, CancelledStepError)
    assert isinstance(waiting[1].error, UnknownSequenceError)
    assert not following.answered
    h.ask(1, 2, end=True)
    assert following.reply.step == 1


def test_a_first_step_that_fails_lets_the_next_in(make) -> None:
    """The place that it held while it ran is free."""
    h = make()
    h.load(sequences={"max_live": 1})

    failed, waiting = h.send(1, 1, RAISE_BATCH, start=True), h.send(2, 1, start=True)
    h.settle()

    assert isinstance(failed.error, ModelError)
    assert waiting.reply.step == 1


def test_an_expired_sequence_lets_the_next_in(make) -> None:
    """So does one that is ended from outside."""
    h = make()
    h.load(sequences={"max_live": 1, "idle_timeout_s": 5})
    h.ask(1, 1, start=True)
    second, third = h.send(2, 1, start=True), h.send(3, 1, start=True)

    h.pass_time(7.0)
    assert second.reply.step == 1
    h.loop.finish(Manager(h.engine).end(SequenceKey("m", 2), EndReason.EVICTED))
    h.settle()

    assert third.reply.step == 1


def test_a_higher_limit_lets_the_backlog_in(make) -> None:
    """A reloaded config counts at once; so does one without a limit."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    second, third = h.send(2, 1, start=True), h.send(3, 1, start=True)

    h.load(sequences={"max_live": 2})
    h.settle()
    assert (second.answered, third.answered) == (True, False)
    h.load(sequences={"max_live": 0})
    h.settle()

    assert third.reply.step == 1


# -- deadlines --------------------------------------------------


def test_a_passed_deadline_stops_a_step_before_it_begins(make) -> None:
    """Neither the number nor the state moves."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)

    error = h.ask(1, 2, deadline=h.clock() - 0.001)

    assert isinstance(error, DeadlineError)
    assert h.state() == state_of([1])


def test_a_deadline_that_passes_while_the_step_waits_stops_it(make) -> None:
    """It is looked at once more when the batch is made."""
    h = make()
    handle = h.load(execution="thread")
    room = h.hold_instances(handle)
    h.send(1, 1, start=True)
    late = h.send(2, 1, start=True, deadline=h.clock() + 1.0)
    h.loop.settle()
    # The first batch took both; a third sequence waits for the instance.
    waiting = h.send(3, 1, start=True, deadline=h.clock() + 1.0)
    h.pass_time(2.0)

    h.let_run(room)
    h.settle()

    assert late.reply.step == 1  # it had begun
    assert isinstance(waiting.error, DeadlineError)
    assert room == type(room)()


# -- cancellation --------------------------------------------------


def test_a_step_cancelled_in_its_queue_is_dropped(make) -> None:
    """Those behind it take its number."""
    h = make()
    h.load()
    sent = [h.send(1, 1, start=True), h.send(1, 2), h.send(1, 3)]

    h.engine.cancel(sent[1].step)
    h.settle()

    assert isinstance(sent[1].error, CancelledStepError)
    assert sent[2].reply.step == 2
    assert h.state() == state_of([1, 3])


def test_a_step_cancelled_before_its_batch_is_dropped(make) -> None:
    """It was scheduled, but had not begun: the neighbours run without it."""
    h = make()
    h.load()
    sent = [h.send(1, 1, start=True), h.send(2, 2, start=True)]

    h.engine.cancel(sent[0].step)
    h.settle()

    assert isinstance(sent[0].error, CancelledStepError)
    assert h.stored(1) is None
    assert h.runtime.calls == [[2]]
    assert h.engine.tables["m"].creating == 0


def test_a_step_cancelled_while_it_runs_is_committed(make) -> None:
    """Its reply is given as if nothing had happened."""
    h = make()
    handle = h.load(execution="thread")
    room = h.hold_instances(handle)
    sent = h.send(1, 1, start=True)
    h.settle()

    h.engine.cancel(sent.step)
    h.let_run(room)
    h.settle()

    assert sent.reply.step == 1
    assert h.state() == state_of([1])


def test_a_step_cancelled_during_its_commit_stays_committed(make) -> None:
    """The beats after the run are not stopped half-way."""
    h = make(slow_store=True)
    h.load()
    h.ask(1, 1, start=True)
    sent = h.send(1, 2)
    h.loop.settle()
    assert len(h.held.waiting) == 1

    h.engine.cancel(sent.step)
    h.settle()

    assert sent.reply.step == 2


def test_a_step_cancelled_while_its_sequence_is_fetched_is_dropped(make) -> None:
    """The sequence comes to rest in memory and takes the next step."""
    h = make(slow_store=True)
    h.load()
    h.ask(1, 1, start=True)
    h.engine.release(SequenceKey("m", 1))
    sent = h.send(1, 2)
    h.loop.settle()

    h.engine.cancel(sent.step)
    h.settle()

    assert isinstance(sent.error, CancelledStepError)
    assert h.ask(1, 3).data[0] == chain_of([1, 3])


def test_a_stateless_step_can_be_cancelled(make) -> None:
    """Before its batch."""
    import numpy as np

    from doubles import EchoRuntime

    h = make(runtimes=EchoRuntime)
    h.load()
    sent = h.send(None, inputs={"x": np.zeros((1, 1), np.int64)})

    h.engine.cancel(sent.step)
    h.settle()

    assert isinstance(sent.error, CancelledStepError)
    assert h.runtime.calls == []


@pytest.mark.parametrize("when", ["answered", "refused", "unknown model"])
def test_cancelling_too_late_does_nothing(make, when) -> None:
    """A step that has its answer keeps it."""
    h = make()
    h.load()
    model = "nope" if when == "unknown model" else "m"
    sent = h.send(1, 1, start=when == "answered", model=model)
    h.settle()

    h.engine.cancel(sent.step)
    h.settle()

    assert len(sent.outcomes) == 1


# -- waiting for company --------------------------------------------------


def test_a_batch_waits_for_company_no_longer_than_allowed(make) -> None:
    """With a delay set, the oldest step goes when it is over."""
    h = make()
    h.load(max_queue_delay_ms=100, max_batch_size=4)
    sent = h.send(1, 1, start=True)

    h.pass_time(0.09)
    assert not sent.answered
    h.pass_time(0.02)

    assert sent.reply.step == 1


def test_a_batch_that_is_full_goes_at_once(make) -> None:
    """Whoever makes it full starts it, though a timer was set."""
    h = make()
    h.load(max_queue_delay_ms=100, max_batch_size=3)
    first = h.send(1, 1, start=True)
    h.settle()

    h.send(2, 1, start=True)
    h.settle()
    assert not first.answered
    h.send(3, 1, start=True)
    h.settle()

    assert first.reply.step == 1
    assert h.runtime.calls == [[1, 2, 3]]


def test_a_preferred_size_goes_at_once(make) -> None:
    """Also where it is smaller than the largest."""
    h = make()
    h.load(max_queue_delay_ms=100, max_batch_size=8, preferred_batch_sizes=[2])
    first = h.send(1, 1, start=True)
    h.settle()
    h.send(2, 1, start=True)
    h.settle()

    assert first.reply.step == 1


def test_waiting_for_company_leaves_no_timers_behind(make) -> None:
    """A hundred batches leave at most one timer."""
    h = make()
    h.load(max_queue_delay_ms=100, max_batch_size=2)
    for cid in range(1, 101):
        h.send(cid, 1, start=True)
        h.settle()

    assert len([t for t in h.loop._scheduled if not t.cancelled()]) <= 2  # ticker and delay


# -- draining --------------------------------------------------


def test_draining_finishes_what_is_in_flight_and_takes_nothing_new(make) -> None:
    """Queued steps are applied; a later one is refused."""
    h = make(slow_store=True)
    h.load()
    sent = [h.send(1, 1, start=True), h.send(1, 2)]
    drained = h.loop.create_task(h.engine.drain(10.0))
    h.loop.settle()

    refused = h.send(1, 3)
    assert isinstance(refused.error, DrainingError)
    assert refused.error.retry_after_s > 0
    assert not drained.done()
    h.settle()

    assert drained.result() is True
    assert [s.reply.step for s in sent] == [1, 2]


def test_draining_an_idle_server_takes_no_time(make) -> None:
    """There is nothing to wait for."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)

    assert h.loop.finish(h.engine.drain(0.0)) is True


def test_draining_gives_up_when_time_is_up(make) -> None:
    """And says so."""
    h = make()
    handle = h.load(execution="thread")
    room = h.hold_instances(handle)
    sent = h.send(1, 1, start=True)

    assert h.loop.finish(h.engine.drain(2.0)) is False

    h.let_run(room)
    h.settle()
    assert sent.reply.step == 1


def test_draining_turns_the_backlog_away(make) -> None:
    """No room will be made any more: waiting for it would hold up the stop."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = [h.send(2, 1, start=True, dialect=KSERVE), h.send(2, 2)]
    h.settle()

    assert h.loop.finish(h.engine.drain(2.0)) is True

    assert all(isinstance(s.error, DrainingError) for s in waiting)
