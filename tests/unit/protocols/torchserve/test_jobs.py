"""A request becomes a step, and is answered once."""

from __future__ import annotations

import asyncio

import pytest

from legato.core.errors import (
    ClientError,
    ModelError,
    SequenceLimitError,
    StepQueueFullError,
    StoreUnavailableError,
    UnknownModelError,
)
from legato.core.types import TORCHSERVE, SequenceKey
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.jobs import Job, Request, step_number
from legato.runtimes.torchserve.exchange import Part

START, END, ID = "ts_request_sequence_start", "ts_request_sequence_end", "ts_request_sequence_id"


class Asked:
    """One job, and what it was answered."""

    def __init__(self, bench, model="adder", sequence="", *, streams=False, **options) -> None:
        request = Request(model, options.pop("version", ""), [Part("data", b"1")], {}, sequence)
        for name, value in options.items():
            setattr(request, name, value)
        self.answers: list = []
        self.chunks: list = []
        partial = (lambda answer: self.chunks.append(answer.body)) if streams else None
        self.job = Job(
            bench.door, request, lambda _job, answer: self.answers.append(answer), partial
        )
        self.job.begin()

    @property
    def answer(self):
        assert len(self.answers) == 1
        return self.answers[0]


async def test_a_named_sequence_is_a_step_of_it(bench) -> None:
    """The handler finds the id among the headers; nothing says that it begins."""
    bench.add()

    asked = Asked(bench, sequence="a")

    (step,) = bench.engine.steps
    assert (step.model, step.correlation_id, step.dialect) == ("adder", "a", TORCHSERVE)
    assert not step.start
    assert bench.engine.row() == {"data": b"1"}
    assert bench.engine.shown() == {ID: "a"}
    bench.engine.reply(b"1", number=7)
    assert (asked.answer.body, asked.job.number) == (b"1", 7)


async def test_an_unnamed_sequence_gets_an_id_and_begins(bench) -> None:
    """As over REST in TorchServe: ``ts-seq-`` and a start header."""
    bench.add()

    asked = Asked(bench)

    shown = bench.engine.shown()
    assert shown[ID].startswith("ts-seq-")
    assert shown[START] == "true"
    assert asked.job.sequence_id == shown[ID] == bench.engine.steps[0].correlation_id


async def test_a_model_without_sequences_takes_no_id(bench) -> None:
    """Each request stands alone."""
    bench.add(stateful=False)

    asked = Asked(bench, sequence="a", start=True, end=True)

    (step,) = bench.engine.steps
    assert step.correlation_id is None
    assert not step.start
    assert not step.end
    assert asked.job.sequence_id == ""


async def test_first_and_last_message_do_what_their_names_say(bench) -> None:
    """The first begins anew whatever lived under the id, the last ends it."""
    bench.add()

    Asked(bench, sequence="a", start=True, end=True)

    (step,) = bench.engine.steps
    assert step.start
    assert step.restart
    assert step.end


async def test_unknown_names_are_answered(bench) -> None:
    """Without a step."""
    bench.add()

    assert Asked(bench, "nope").answer.message == "Model not found: nope"
    assert "version: 9" in Asked(bench, version="9").answer.message
    assert bench.engine.steps == []


async def test_a_model_without_workers_refuses(bench) -> None:
    """With the one text."""
    bench.add(workers=0)
    gone = bench.add("gone")
    gone.handle.instances.clear()

    for name in ("adder", "gone"):
        assert "has no worker to serve" in Asked(bench, name).answer.message


async def test_a_version_whose_workers_go_meanwhile_refuses(bench) -> None:
    """The client is not told that the model is unknown: it is registered."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.fail(UnknownModelError("adder", unloaded=True))

    assert "has no worker to serve" in asked.answer.message


async def test_a_job_ticket_is_given_while_a_worker_is_idle(bench) -> None:
    """With sequences, too, where TorchServe gives none ever."""
    one = bench.add(useJobTicket=True)

    Asked(bench, sequence="a")
    one.handle.scheduler.append("a")
    queued = Asked(bench, sequence="b")
    one.handle.scheduler.clear()
    one.handle.free.clear()
    busy = Asked(bench, sequence="c")

    assert len(bench.engine.steps) == 1
    assert queued.answer.status == busy.answer.status == 503


async def test_a_late_answer_becomes_504(bench) -> None:
    """TorchServe lets the client hang; here it is told, and a late answer is dropped."""
    bench.add(clientTimeoutInMills=1)
    asked = Asked(bench, sequence="a")

    await asyncio.wait_for(_until(lambda: asked.answers), 5)
    bench.engine.reply(b"1")

    assert asked.answer.status == 504
    assert bench.engine.cancelled == bench.engine.steps


async def _until(true) -> None:
    while not true():  # noqa: ASYNC110 - bounded by who waits
        await asyncio.sleep(0)


async def test_a_full_model_is_swept_once_before_it_refuses(bench) -> None:
    """What has expired makes room at once, not at the next second."""
    bench.add()
    first, second = Asked(bench, sequence="a"), Asked(bench, sequence="b")

    bench.engine.fail(SequenceLimitError("adder", 1), 0)
    bench.engine.fail(SequenceLimitError("adder", 1), 1)
    await _until(lambda: len(bench.engine.steps) == 4)
    swept = bench.engine.swept
    bench.engine.reply(b"1", 2)
    bench.engine.fail(SequenceLimitError("adder", 1), 3)

    assert swept == 1
    assert first.answer.body == b"1"
    assert second.answer.status == 503


async def test_a_request_of_which_nobody_knows_whether_it_was_applied_is_not(bench) -> None:
    """Two commits of it would be one too many."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.fail(StoreUnavailableError("it is not known whether the step was committed"))

    assert len(bench.engine.steps) == 1
    assert asked.answer.status == 503


async def test_a_full_queue_refuses_one_request(bench) -> None:
    """The sequence goes on."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.fail(StepQueueFullError(1))

    assert "maxSequenceJobQueueSize" in asked.answer.message


async def test_a_failing_handler_is_answered(bench) -> None:
    """Once, with its text."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.fail(ModelError("boom"))

    assert (asked.answer.status, asked.answer.message) == (503, "Prediction failed")


async def test_the_handler_ends_the_sequences_that_it_names(bench) -> None:
    """Before its answer leaves, so that the next request begins anew."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.reply(b"0", headers={END: "a; b"})
    early = list(asked.answers)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert early == []
    assert bench.manager.ended == [SequenceKey("adder", "a"), SequenceKey("adder", "b")]
    assert asked.answer.body == b"0"


async def test_a_sequence_whose_stream_runs_ends_after_it(bench) -> None:
    """The answer that says so does not wait; the stream is not cut off."""
    bench.add()
    streaming = Asked(bench, sequence="a", streams=True)
    ending = Asked(bench, sequence="a")

    bench.engine.reply(b"0", 1, headers={END: "a"})
    await _until(lambda: ending.answers)
    early = list(bench.manager.ended)
    bench.engine.reply(b"last", 0)
    await _until(lambda: bench.manager.ended)

    assert early == []
    assert streaming.answer.body == b"last"
    assert bench.manager.ended == [SequenceKey("adder", "a")]


async def test_a_last_message_ends_its_sequence_behind_the_stream_of_it(bench) -> None:
    """The client's own flag cuts nothing off; a request of another sequence is nothing to it."""
    bench.add(continuousBatching=True)
    stream = Asked(bench, sequence="mine", streams=True)
    other = Asked(bench, sequence="other")

    last = Asked(bench, sequence="mine", end=True)
    alone = Asked(bench, sequence="other-2", end=True)
    bench.engine.reply(b"1", at=2)
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [step.end for step in bench.engine.steps] == [False, False, False, True]
    assert last.answer.body == b"1"
    assert bench.manager.ended == []
    bench.engine.reply(b"2", at=0)
    await asyncio.sleep(0)
    assert stream.answer.body == b"2"
    assert bench.manager.ended == [SequenceKey("adder", "mine")]
    assert (other.answers, alone.answers) == ([], [])


async def test_a_last_message_that_fails_ends_nothing(bench) -> None:
    """As where no stream runs."""
    bench.add(continuousBatching=True)
    Asked(bench, sequence="mine")
    last = Asked(bench, sequence="mine", end=True)

    bench.engine.fail(ModelError("no"), at=1)
    bench.engine.reply(b"2", at=0)
    await asyncio.sleep(0)

    assert isinstance(last.answer, Failure)
    assert bench.manager.ended == []


async def test_a_handler_that_names_other_sequences_does_not_cut_their_streams(bench) -> None:
    """Nor those of its own; each ends with its last request."""
    bench.add()
    own = Asked(bench, sequence="own")
    streams = {name: Asked(bench, sequence=name) for name in ("own", "other")}

    bench.engine.reply(b"1", at=0, headers={END: "other; own;idle"})
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert own.answer.body == b"1"
    assert bench.manager.ended == [SequenceKey("adder", "idle")]
    for at, name in ((2, "other"), (1, "own")):
        bench.engine.reply(b"2", at=at)
        await asyncio.sleep(0)
        assert streams[name].answer.body == b"2"
        assert bench.manager.ended[-1] == SequenceKey("adder", name)


async def test_chunks_go_on_their_way(bench) -> None:
    """The last one is the answer."""
    bench.add()
    asked = Asked(bench, sequence="a", streams=True)
    step = bench.engine.steps[0]

    step.partial(b"1", {"headers": {"ts_stream_next": "true"}})
    step.partial(b"2", {})
    bench.engine.reply(b"3")

    assert asked.chunks == [b"1", b"2"]
    assert asked.answer.body == b"3"


async def test_chunks_of_a_unary_call_are_put_together(bench) -> None:
    """Nothing is lost where there is one answer only."""
    bench.add()
    asked = Asked(bench, sequence="a")

    bench.engine.steps[0].partial(b"1", {})
    bench.engine.reply(b"2")

    assert asked.answer.body == b"12"


async def test_a_client_that_left_is_told_nothing(bench) -> None:
    """Its step is dropped if it has not begun."""
    bench.add()
    asked = Asked(bench, sequence="a", streams=True)

    asked.job.cancel()
    bench.engine.steps[0].partial(b"1", {})
    bench.engine.reply(b"2")

    assert bench.engine.cancelled == bench.engine.steps
    assert asked.answers == asked.chunks == []


async def test_requests_are_counted(bench) -> None:
    """Those of models that are there, by the version that was asked for."""
    bench.add()
    Asked(bench, sequence="a")
    bench.engine.reply(b"1")
    Asked(bench, "nope")

    page = bench.door.metrics._requests
    assert dict(page) == {("adder", "default"): 1}


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), ("0", 0), ("9223372036854775807", 2**63 - 1)]
)
def test_step_numbers_are_read(text: str, number: int) -> None:
    """Absent means the next one."""
    assert step_number({"legato-step": text}) == number
    assert step_number({}) == 0


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "9223372036854775808", "\u0661"])
def test_what_is_no_step_number_is_refused(text: str) -> None:
    """Never guessed at."""
    with pytest.raises(ClientError):
        step_number({"legato-step": text})


def test_a_failure_is_an_exception_and_an_answer() -> None:
    """Its JSON has TorchServe's three keys."""
    text = Failure(503, "X", "m").body().decode()

    assert text == '{\n  "code": 503,\n  "type": "X",\n  "message": "m"\n}\n'
