"""Rows that are answered after their call, and what they are until then."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest

from doubles import EchoRuntime
from legato.core.errors import ModelError, ModelSaysError
from legato.core.types import OutputHeader, StateRow
from legato.engine.batch import RowResult, Unfinished
from legato.engine.late import _Talk
from legato.engine.process import WorkerGoneError
from legato.runtimes.base import Asked, Partial, RowInfo, StepBatch, StepResult
from legato.runtimes.worker.frames import Channel, ChannelClosedError

HEADERS = (OutputHeader("y", "int64", (1, 1)),)
ANSWER = RowResult(HEADERS, (bytes(8),), StateRow((), ()))
WAIT_S = 30


def test_outcome_reaches_whoever_asks_first_or_later() -> None:
    """It does not matter whether the answer or the listener is quicker."""
    early, late = Unfinished(), Unfinished()
    heard: list = []

    early.finish(ANSWER)
    early.attach(heard.append)
    late.attach(heard.append)
    late.finish(ANSWER)

    assert heard == [ANSWER, ANSWER]


class Late(EchoRuntime):
    """Answers rows whose x is negative later."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Unfinished] = []

    def step(self, batch):
        x = batch.inputs["x"]
        later = {at: Unfinished() for at, value in enumerate(x.ravel()) if value < 0}
        self.open += later.values()
        return StepResult({"y": x * 2}, {}, later=later)


def numbers(*values: int) -> dict:
    return {"x": np.array([values], np.int64)}


def test_instance_is_free_before_a_late_row_is_answered(make) -> None:
    """Rows that are done are answered at once, and the next call is made."""
    h = make(runtimes=Late)
    handle = h.load()
    h.engine.tables["m"].versions["1"].post = h.loop.call_soon
    waiting = h.send(None, inputs=numbers(-1))
    h.settle()

    other = h.ask(None, inputs=numbers(4))
    open_before = (waiting.answered, handle.late)
    h.runtime.open[0].finish(ANSWER)
    h.settle()

    assert np.frombuffer(other.data[0], np.int64).tolist() == [8]
    assert open_before == (False, 1)
    assert waiting.reply.data == ANSWER.data
    assert (handle.late, handle.statistics.applied) == (0, 2)


def test_late_row_may_fail(make) -> None:
    """Its error is its own."""
    h = make(runtimes=Late)
    handle = h.load()
    handle.post = h.loop.call_soon
    waiting = h.send(None, inputs=numbers(-1))
    h.settle()

    h.runtime.open[0].finish(ModelError("no"))
    h.settle()

    assert waiting.error.message == "no"


# -- what is said to a worker, and what it says ---------------------------------------------


class Other:
    """The far end of a worker's socket, and what is known of its process."""

    pid = 7
    alive = False

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours, shared_from=1 << 20)
        self.far = Channel(theirs, shared_from=1 << 20)
        self.heard = threading.Event()

    def epitaph(self) -> str:
        return "exit code 1"


class Outcomes:
    """What a late runtime makes of a worker's words."""

    def outcome(self, message):
        return ModelSaysError("no") if message["error"] else ANSWER


@pytest.fixture
def other():
    one = Other()
    yield one
    one.far.close()
    for thread in threading.enumerate():
        if thread.name == "legato-worker-reader":
            thread.join(WAIT_S)
    one.channel.close()


def batch(*, cancelled=lambda: False, partial=None) -> StepBatch:
    asked = Asked("r", (), 0, 0, cancelled)
    return StepBatch(numbers(1), {}, (RowInfo(0, 0, False, False, {}, partial, asked),))


def ask(talk: _Talk, given: StepBatch, answers: list) -> threading.Thread:
    """Make a call in a thread, as an instance does."""

    def call() -> None:
        try:
            answers.append(talk.ask(given, time.monotonic() + WAIT_S, [])[0])
        except ChannelClosedError as error:
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_row_is_answered_by_its_call_and_number(other) -> None:
    """Parts and the last answer find it after the call is over; what nobody knows is dropped."""
    talk = _Talk(other, Outcomes())
    parts: list = []
    heard: list = []
    done = threading.Event()
    answers: list = []
    thread = ask(talk, batch(partial=Partial(lambda *part: parts.append(part))), answers)
    call = other.far.receive(time.monotonic() + WAIT_S)[0]["call"]

    other.far.send({"kind": "done", "later": [0]})
    thread.join(WAIT_S)
    answers[0]["unfinished"][0].attach(lambda outcome: (heard.append(outcome), done.set()))
    for row in (5, 0):
        part = {"kind": "partial", "call": call, "row": row, "body": b"p", "meta": {}}
        other.far.send(part)
    other.far.send({"kind": "later", "call": call, "row": 0, "error": None, "answer": None})

    assert done.wait(WAIT_S)
    assert (parts, heard) == ([(b"p", {})], [ANSWER])


def test_death_of_the_worker_reaches_every_row_that_is_open(other) -> None:
    """And the call that is under way, and every later one."""
    talk = _Talk(other, Outcomes())
    answers: list = []
    thread = ask(talk, batch(), answers)
    other.far.receive(time.monotonic() + WAIT_S)
    other.far.send({"kind": "done", "later": [0]})
    thread.join(WAIT_S)
    heard: list = []
    done = threading.Event()
    answers[0]["unfinished"][0].attach(lambda outcome: (heard.append(outcome), done.set()))

    other.far.close()

    assert done.wait(WAIT_S)
    assert isinstance(heard[0], WorkerGoneError)
    assert heard[0].ran


def test_cancelled_request_is_told_to_the_worker_once(other) -> None:
    """Found by looking, while the row is open."""
    talk = _Talk(other, Outcomes())
    gone = threading.Event()
    answers: list = []
    thread = ask(talk, batch(cancelled=gone.is_set), answers)
    call = other.far.receive(time.monotonic() + WAIT_S)[0]["call"]
    other.far.send({"kind": "done", "later": [0]})
    thread.join(WAIT_S)

    gone.set()
    told, _data = other.far.receive(time.monotonic() + WAIT_S)

    assert told == {"kind": "cancelled", "call": call, "row": 0}
    with pytest.raises(TimeoutError):
        other.far.receive(time.monotonic() + 0.6)
