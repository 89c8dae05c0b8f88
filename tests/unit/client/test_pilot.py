"""A pilot takes its steps over whatever streams it gets."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import numpy as np
import pytest

from legato.client.errors import ModelFailedError, SequenceError, UnavailableError
from legato.client.pilot import Pilot
from legato.client.tensors import Payload
from legato.client.window import Patience, Window
from legato.client.wire import StepWriter
from legato.protocols.kserve.gen import kserve_pb2 as pb

PAYLOAD = Payload((("x", "FP32", (1, 1)),), (np.float32([[1]]).tobytes(),))


class Stream:
    """One stream of a server that answers every step with its number."""

    def __init__(self, *, answers: int | None = None, then: object = None) -> None:
        self.requests: list[pb.ModelInferRequest] = []
        self.left = answers
        self.then = then
        self.news: asyncio.Queue = asyncio.Queue()
        self.asked = asyncio.Event()
        self.cancelled = False

    async def write(self, data: bytes) -> None:
        request = pb.ModelInferRequest.FromString(data)
        self.requests.append(request)
        self.asked.set()
        if self.left == 0:
            if self.then is not None:
                self.news.put_nowait(self.then)
            return
        if self.left is not None:
            self.left -= 1
        message = pb.ModelStreamInferResponse()
        message.infer_response.id = request.id
        message.infer_response.parameters["sequence_incarnation"].string_param = "cd"
        self.news.put_nowait(message)

    async def read(self) -> object:
        item = await self.news.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def done_writing(self) -> None:
        self.news.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        self.cancelled = True
        self.news.put_nowait(asyncio.CancelledError())


def status(code: grpc.StatusCode, reason: str = "") -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(("legato-reason", reason)) if reason else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details="text")


class Flight:
    """A pilot and the streams it has opened."""

    def __init__(self, *streams: Stream, **patience: float) -> None:
        self.ready = list(streams)
        self.opened: list[Stream] = []
        self.pilot = Pilot(
            "sequence 'a'",
            Window("t", patience=Patience(**patience), jitter=lambda: 0.0),
            StepWriter("m", "", "a"),
            connect=self.connect,
            state=lambda: "nobody there",
        )

    def connect(self) -> Stream:
        self.opened.append(self.ready.pop(0))
        return self.opened[-1]

    def step(self) -> asyncio.Future:
        sink = asyncio.get_running_loop().create_future()
        self.pilot.submit(PAYLOAD, sink)
        return sink


async def test_steps_of_a_sequence_share_a_stream() -> None:
    """The first answer tells the incarnation, which later steps name."""
    flight = Flight(Stream())

    for _step in range(3):
        await flight.step()
    await flight.pilot.close()

    (stream,) = flight.opened
    assert [r.parameters["sequence_step"].int64_param for r in stream.requests] == [1, 2, 3]
    assert "sequence_incarnation" not in stream.requests[0].parameters
    assert stream.requests[2].parameters["sequence_incarnation"].string_param == "cd"
    assert stream.requests[2].parameters["sequence_acknowledged"].int64_param == 2


@pytest.mark.parametrize("end", [status(grpc.StatusCode.UNAVAILABLE), grpc.aio.EOF])
async def test_broken_stream_is_followed_by_another(end) -> None:
    """The unanswered step goes again under the same number and id."""
    flight = Flight(Stream(answers=1, then=end), Stream())
    await flight.step()

    answer = await flight.step()
    await flight.pilot.close()

    first, second = flight.opened
    assert answer.id == first.requests[1].id == second.requests[0].id
    assert second.requests[0].parameters["sequence_step"].int64_param == 2
    assert first.cancelled


async def test_refused_step_fails_and_the_next_takes_its_number() -> None:
    """An error of the model is the caller's; the sequence goes on."""
    flight = Flight(
        Stream(answers=0, then=status(grpc.StatusCode.INTERNAL, "model_failed")), Stream()
    )

    with pytest.raises(ModelFailedError):
        await flight.step()
    answer = await flight.step()
    await flight.pilot.close()

    assert answer.id == "t.1"


async def test_steps_behind_a_refused_one_say_so() -> None:
    """They were never applied, and name the step that was to blame."""
    flight = Flight(Stream(answers=0, then=status(grpc.StatusCode.INTERNAL, "model_failed")))

    outcomes = await asyncio.gather(flight.step(), flight.step(), return_exceptions=True)
    await flight.pilot.close()

    assert isinstance(outcomes[0], ModelFailedError)
    assert (outcomes[1].reason, outcomes[1].expected_step) == ("earlier_step_refused", 1)


async def test_error_without_status_is_understood() -> None:
    """A server that does not end streams with a status still tells the reason."""
    message = pb.ModelStreamInferResponse(error_message="the model failed")
    message.infer_response.parameters["legato-reason"].string_param = "model_failed"
    flight = Flight(Stream(answers=0, then=message))

    with pytest.raises(ModelFailedError, match="the model failed"):
        await flight.step()
    await flight.pilot.close()


async def test_given_up_step_is_sent_again_on_demand() -> None:
    """``retry`` brings the answer of a step whose caller was told to wait no longer."""
    flight = Flight(
        Stream(answers=0, then=status(grpc.StatusCode.UNAVAILABLE)), Stream(), retry_for_s=0
    )
    sink = asyncio.get_running_loop().create_future()

    with pytest.raises(UnavailableError):
        await flight.step()
    with pytest.raises(SequenceError, match="still unanswered"):
        await flight.step()
    flight.pilot.retry(sink)
    ((number, answer),) = await sink
    await flight.pilot.close()

    assert (number, answer.id) == (1, "t.1")


async def test_silent_stream_is_left_for_another() -> None:
    """A server that does not answer in time is asked again elsewhere."""
    silent = Stream(answers=0)
    flight = Flight(silent, Stream(), attempt_timeout_s=5)
    waiting = flight.step()
    await silent.asked.wait()

    flight.pilot.check(asyncio.get_running_loop().time() + 4)
    early = flight.opened[0].cancelled
    flight.pilot.check(asyncio.get_running_loop().time() + 6)
    answer = await waiting
    await flight.pilot.close()

    assert not early
    assert flight.opened[0].cancelled
    assert answer.id == "t.1"


async def test_abandoned_wait_takes_no_step_back() -> None:
    """A cancelled caller loses the answer; the step counts."""
    flight = Flight(Stream())

    flight.step().cancel()
    answer = await flight.step()
    await flight.pilot.close()

    assert answer.id == "t.2"


async def test_closing_fails_what_is_unanswered() -> None:
    """Nobody waits for ever."""
    flight = Flight(Stream(answers=0))
    waiting = flight.step()
    await asyncio.sleep(0)

    await flight.pilot.close()
    late = flight.step()

    for sink in (waiting, late):
        with pytest.raises(SequenceError, match="closed at this end"):
            await sink
