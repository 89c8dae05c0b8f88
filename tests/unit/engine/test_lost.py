"""Sequences whose state was in the memory of a worker that is gone, or that find no slot in one."""

from __future__ import annotations

import pytest

from doubles import ChainRuntime
from legato.core.errors import (
    BacklogTimeoutError,
    NoSlotError,
    StateLostError,
    UnknownSequenceError,
)
from legato.core.types import EndReason, Reply
from legato.runtimes.base import StepResult


class Forgetful(ChainRuntime):
    """Says that the state of a row is lost, as long as ``lost`` is set."""

    lost = False

    def step(self, batch):
        result = super().step(batch)
        gone = [at for at, row in enumerate(batch.rows) if self.lost and not row.start]
        failed = dict.fromkeys(gone, StateLostError("gone"))
        return StepResult(result.outputs, result.state, failed)


@pytest.mark.parametrize("slow_store", [False, True])
def test_lost_state_ends_the_sequence_by_name(make, slow_store: bool) -> None:
    """The step that finds it, and those after it, are told how it ended; a START begins anew."""
    h = make(runtimes=Forgetful, slow_store=slow_store)
    handle = h.load()
    h.ask(start=True)
    h.runtime.lost = True

    first, second = h.send(), h.send()
    h.settle()
    again = h.ask(start=True)

    for sent in (first, second):
        assert isinstance(sent.error, UnknownSequenceError)
        assert (sent.error.ending.reason, sent.error.ending.step) == (EndReason.LOST, 1)
    assert handle.statistics.ended["lost"] == 1
    assert (1, EndReason.LOST) in h.runtime.ended
    assert isinstance(again, Reply)
    assert h.stored()[0].step == 1


def test_neighbours_of_a_lost_row_are_answered(make) -> None:
    """They began in the same call, and go on."""
    h = make(runtimes=Forgetful)
    h.load()
    h.ask(1, start=True)
    h.runtime.lost = True

    old, new = h.send(1), h.send(2, start=True)
    h.settle()

    assert isinstance(old.error, UnknownSequenceError)
    assert isinstance(new.outcome, Reply)


def test_store_that_cannot_end_it_leaves_an_error(make) -> None:
    """Nothing was applied; the next step finds the same again."""
    h = make(runtimes=Forgetful)
    h.load()
    h.ask(start=True)
    h.runtime.lost = True
    delete = h.store.delete

    def broken(*_arguments):
        raise OSError("disk")

    h.store.delete = broken
    first = h.ask()
    h.store.delete = delete
    second = h.ask()

    assert isinstance(first, StateLostError)
    assert isinstance(second, UnknownSequenceError)


class OneSlot(ChainRuntime):
    """Has no slot for a second sequence, as long as it is told so."""

    taken = True

    def step(self, batch):
        result = super().step(batch)
        none = [at for at, row in enumerate(batch.rows) if self.taken and row.correlation_id == 2]
        return StepResult(
            result.outputs, result.state, dict.fromkeys(none, NoSlotError("all slots are taken"))
        )


def test_step_without_a_slot_is_tried_again_until_there_is_one(make) -> None:
    """It waits, and is applied once."""
    h = make(runtimes=OneSlot)
    h.load()
    waiting = h.send(2, start=True)
    h.pass_time(1.0)
    answered = waiting.answered

    h.runtime.taken = False
    h.pass_time(1.0)

    assert not answered
    assert waiting.reply.step == 1


def test_step_waits_for_a_slot_as_long_as_it_may(make) -> None:
    """Its own limit ends the wait, and so does a server that stops."""
    h = make(runtimes=OneSlot)
    h.load()
    short = h.send(2, start=True, queue_timeout_s=0.5)
    h.pass_time(1.0)
    long = h.send(2, start=True)
    h.pass_time(1.0)

    h.engine.draining = True
    h.pass_time(1.0)

    assert isinstance(short.error, BacklogTimeoutError)
    assert isinstance(long.error, NoSlotError)
    assert h.stored(2) is None
