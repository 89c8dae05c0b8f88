"""A pilot takes its steps over whatever streams it gets."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest
from tests.unit.client.fakes import PAYLOAD, Stream, refusal, status

from legato.client.errors import ModelFailedError, SequenceError, UnavailableError
from legato.client.pilot import Pilot
from legato.client.window import Patience, Window
from legato.client.wire import StepWriter, start_parameters


class Flight:
    """A pilot and the streams it has opened."""

    def __init__(self, *streams: Stream, window: int = 1, **patience: float) -> None:
        self.ready = list(streams)
        self.opened: list[Stream] = []
        self.pilot = Pilot(
            "sequence 'a'",
            Window("t", size=window, patience=Patience(**patience), jitter=lambda: 0.0),
            StepWriter("m", "", "a", starting=start_parameters()),
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
    flight = Flight(Stream(answers=0, then=refusal("model_failed")))

    with pytest.raises(ModelFailedError, match="the model failed"):
        await flight.step()
    await flight.pilot.close()


async def test_refusal_with_a_status_leaves_the_stream_open() -> None:
    """The next step takes the number, and the same stream."""
    flight = Flight(Stream(answers=1, then=refusal("model_failed", "INTERNAL")))
    await flight.step()

    with pytest.raises(ModelFailedError):
        await flight.step()
    answer = await flight.step()
    await flight.pilot.close()

    (stream,) = flight.opened
    numbers = [r.parameters["sequence_step"].int64_param for r in stream.requests]
    assert (answer.id, numbers) == ("t.2", [1, 2, 2])


async def test_refusal_that_passes_is_tried_on_another_stream() -> None:
    """A full queue is no answer."""
    flight = Flight(Stream(answers=0, then=refusal("queue_full", "RESOURCE_EXHAUSTED")), Stream())

    answer = await flight.step()
    await flight.pilot.close()

    assert answer.id == "t.1"
    assert len(flight.opened) == 2


async def test_stream_with_steps_behind_a_refused_one_is_left() -> None:
    """Their refusals must not be taken for those of the steps that get their numbers."""
    flight = Flight(Stream(answers=1, then=refusal("model_failed", "INTERNAL")), Stream(), window=4)
    await flight.step()

    outcomes = await asyncio.gather(flight.step(), flight.step(), return_exceptions=True)
    answer = await flight.step()
    await flight.pilot.close()

    assert [type(outcome) for outcome in outcomes] == [ModelFailedError, SequenceError]
    assert answer.id == "t.2"
    assert len(flight.opened) == 2
    assert flight.opened[0].cancelled


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
    assert (flight.pilot.unanswered, flight.pilot.over) == (1, False)
