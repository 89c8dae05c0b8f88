"""Models without state: priorities, limits of waiting, and answers in order."""

from __future__ import annotations

import numpy as np
import pytest

from doubles import STATELESS, ChainRuntime
from legato.core.errors import BacklogTimeoutError, ServerBusyError
from legato.engine.ordering import Line
from legato.runtimes.base import StepResult
from legato.stores.base import Conflict


class Echo(ChainRuntime):
    """Answers with what it gets; remembers in which order."""

    def __init__(self) -> None:
        super().__init__(STATELESS)
        self.seen: list[int] = []

    def step(self, batch):
        self.seen += batch.inputs["x"].ravel().tolist()
        return StepResult({"y": batch.inputs["x"]}, {})


@pytest.fixture
def busy(make):
    """Return ``busy(**queue)``: a model of one row a call, whose only instance is taken."""

    def busy(**queue):
        h = make(runtimes=Echo)
        handle = h.load(queue=queue, execution="thread", max_batch_size=1)
        room = h.hold_instances(handle)
        say(h, 0)
        h.settle()
        return h, room

    return busy


def say(h, x, **options):
    return h.send(None, inputs={"x": np.array([[x]], np.int64)}, **options)


def let_all_run(h, room):
    while room:
        h.let_run(room)
        h.settle()


def test_levels_go_before_each_other(busy) -> None:
    """1 is the highest; a level that does not exist is the default one."""
    h, room = busy(levels=3, default_level=2)

    for x, priority in ((30, 3), (20, 0), (21, 9), (10, 1)):
        say(h, x, priority=priority)
    h.settle()
    let_all_run(h, room)

    assert h.runtime.seen == [0, 10, 20, 21, 30]


def test_a_level_takes_only_so_many(busy) -> None:
    """Further steps are refused at once; other levels have their own limit."""
    h, room = busy(levels=2, default_level=1, by_level={1: {"max_size": 1}})

    one, two, other = say(h, 1), say(h, 2), say(h, 3, priority=2)
    h.settle()
    let_all_run(h, room)

    assert isinstance(two.error, ServerBusyError)
    assert one.answered
    assert other.answered
    assert h.runtime.seen == [0, 1, 3]


def test_a_step_waits_only_so_long(busy) -> None:
    """Then it fails, and is not run."""
    h, room = busy(default={"timeout_s": 0.5})

    late = say(h, 1)
    h.pass_time(0.6)
    let_all_run(h, room)

    assert isinstance(late.error, BacklogTimeoutError)
    assert h.runtime.seen == [0]


def test_a_late_step_may_be_delayed_instead(busy) -> None:
    """It runs after all that are in time."""
    h, room = busy(default={"timeout_s": 0.5, "on_timeout": "delay"})

    late = say(h, 1)
    h.pass_time(0.6)
    in_time = say(h, 2)
    h.settle()
    let_all_run(h, room)

    assert late.answered
    assert in_time.answered
    assert h.runtime.seen == [0, 2, 1]


@pytest.mark.parametrize(("may", "runs"), [(True, [0]), (False, [0, 1])])
def test_a_client_may_wait_less_where_it_may_say_so(busy, may, runs) -> None:
    """Its own timeout counts only if the config allows it."""
    h, room = busy(default={"timeout_s": 9.0, "client_may_say": may})

    say(h, 1, queue_timeout_s=0.1)
    h.pass_time(0.2)
    let_all_run(h, room)

    assert h.runtime.seen == runs


def test_a_step_that_ran_in_time_is_left_alone(busy) -> None:
    """Its time limit passes later, and changes nothing."""
    h, room = busy(default={"timeout_s": 0.5})

    sent = say(h, 1)
    h.settle()
    let_all_run(h, room)
    h.pass_time(1)

    assert sent.reply.data


def test_answers_leave_in_the_order_of_their_steps(make) -> None:
    """Also those of another sequence; a step that is refused is answered at once."""
    h = make()
    handle = h.load(preserve_order=True, execution="thread", instances=2)
    room = h.hold_instances(handle)
    order: list[str] = []
    h.send(1, 1, start=True, then=lambda _: order.append("first"))
    h.settle()
    h.send(2, 1, start=True, then=lambda _: order.append("second"))
    h.settle()
    h.send(3, 1, then=lambda _: order.append("refused"))
    h.settle()

    room.rotate(1)
    h.let_run(room)
    h.settle()
    before = list(order)
    h.let_run(room)
    h.settle()

    assert before == ["refused"]
    assert order == ["refused", "first", "second"]


def test_a_sequence_that_waits_for_room_holds_up_no_answer(make) -> None:
    """The one that will make room may need its answer first."""
    h = make()
    h.load(preserve_order=True, sequences={"max_live": 1})
    h.ask(1, 1, start=True)

    waiting = h.send(2, 1, start=True)
    answer = h.ask(1, 2)
    h.ask(1, 3, end=True)
    h.settle()

    assert answer.step == 2
    assert waiting.reply.step == 1


def test_a_step_that_is_decided_again_keeps_its_place(make) -> None:
    """A commit that another server overtook is no new step."""
    h = make()
    h.load(preserve_order=True)
    h.ask(1, 1, start=True)
    h.store.commit_faults.append(lambda batch: [Conflict(5) for _ in batch])

    assert h.ask(1, 2).step == 2
    assert h.ask(1, 3).step == 3


def test_an_answer_that_cannot_be_given_holds_up_nobody() -> None:
    """A callback that fails is logged, and the next one is called."""
    line, got = Line(), []

    def broken(_answer):
        raise RuntimeError("boom")

    first, second = line.take(broken), line.take(got.append)
    second("b")
    first("a")

    assert got == ["b"]
    assert "waiting=0" in repr(line)


def test_a_request_may_be_a_sequence_of_its_own(make) -> None:
    """``iterative``: it begins and ends with the request; nothing is left of it."""
    h = make()
    h.load(sequences={"iterative": True})

    first, second = h.ask(None, 5), h.ask(None, 5)

    assert first.step == second.step == 1
    assert first.correlation_id != second.correlation_id
    assert h.store.live("m") == 0
