"""The gRPC inference service."""

from __future__ import annotations

import json

import pytest

from legato.core.errors import ModelError, StepQueueFullError
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.torchserve import grpc_inference
from legato.protocols.torchserve.gen import inference_pb2 as pb
from legato.protocols.torchserve.grpc_inference import STREAM_HIGH, service


@pytest.fixture
def served(bench, make_call):
    """Begin a call of a method: its handler and its call."""
    bench.add()
    made = service(bench.door, lambda _call: None, 1000)

    def begin(method: str, **metadata: str):
        call = make_call(**metadata)
        return made.methods[method].factory(call), call

    return begin


def request(sequence="", data=b"1", model="adder", **more) -> bytes:
    message = pb.PredictionsRequest(model_name=model, input={"data": data, **more})
    if sequence:
        message.sequence_id = sequence
    return message.SerializeToString()


def responses(call) -> list:
    return [pb.PredictionResponse.FromString(data) for data in call.sent]


def shown(call) -> list:
    return [r.prediction.decode() or r.status.message for r in responses(call)]


def test_the_service_has_torchserves_name_and_methods(bench) -> None:
    """Kinds and names of spec 4.2."""
    made = service(bench.door, lambda _call: None, 1000)

    kinds = {name: (m.client_streaming, m.server_streaming) for name, m in made.methods.items()}
    assert made.name == "org.pytorch.serve.grpc.inference.InferenceAPIsService"
    assert kinds == {
        "Ping": (False, False),
        "Predictions": (False, False),
        "StreamPredictions": (False, True),
        "StreamPredictions2": (True, True),
    }


def test_ping_tells_how_the_server_is(served) -> None:
    """As pretty JSON."""
    handler, call = served("Ping")

    handler.message(b"")

    (sent,) = call.sent
    health = pb.TorchServeHealthResponse.FromString(sent).health
    assert json.loads(health) == {"status": "Healthy"}


async def test_a_prediction_of_a_sequence_model_honours_the_id(served, bench) -> None:
    """Where TorchServe hangs; and the id comes back."""
    handler, call = served("Predictions")

    handler.message(request("a", b"5"))
    bench.engine.reply(b"5", number=3)

    (found,) = responses(call)
    assert (found.prediction, found.sequence_id) == (b"5", "a")
    assert (call.status, call.trailers) == (0, (("legato-step", "3"),))
    assert bench.engine.row() == {"data": b"5"}


async def test_a_prediction_without_an_id_begins_a_sequence(served, bench) -> None:
    """The client learns its id."""
    handler, call = served("Predictions")

    handler.message(request())
    bench.engine.reply(b"1")

    assert responses(call)[0].sequence_id.startswith("ts-seq-")


async def test_a_step_may_be_numbered(served, bench) -> None:
    """By metadata."""
    handler, _call = served("Predictions", **{"legato-step": "4"})

    handler.message(request("a"))

    assert bench.engine.steps[0].number == 4


async def test_a_failed_prediction_has_status_text_and_class(served, bench) -> None:
    """The status that the handler's code stands for."""
    handler, call = served("Predictions")

    handler.message(request("a"))
    bench.engine.fail(ModelError("boom"))

    assert call.status == Status.UNAVAILABLE
    assert call.message == "Prediction failed\norg.pytorch.serve.http.InternalServerException"


def test_a_request_without_a_model_is_refused(served) -> None:
    """INTERNAL, with TorchServe's text."""
    handler, _call = served("Predictions")

    with pytest.raises(RpcError) as caught:
        handler.message(request(model=""))

    assert caught.value.status is Status.INTERNAL
    assert caught.value.message == "Parameter model_name is required.\nBadRequestException.()"


async def test_a_server_stream_ends_well_without_chunks(served, bench) -> None:
    """Where TorchServe's fails and restarts its worker."""
    handler, call = served("StreamPredictions")

    handler.message(request("a"))
    bench.engine.reply(b"1")

    assert shown(call) == ["1"]
    assert call.status == 0


async def test_a_server_stream_has_a_message_a_chunk(served, bench) -> None:
    """And one for the last answer."""
    handler, call = served("StreamPredictions")

    handler.message(request("a"))
    bench.engine.steps[0].partial(b"1", {})
    bench.engine.reply(b"2")

    assert shown(call) == ["1", "2"]
    assert responses(call)[0].sequence_id == "a"


# -- StreamPredictions2 --------------------------------------------------


async def test_a_finite_stream_gets_all_its_answers_then_ok(served, bench) -> None:
    """Half-close means: no more requests."""
    handler, call = served("StreamPredictions2")
    for value in (b"1", b"2"):
        handler.message(request("a", value))

    handler.half_close()
    early = call.status
    bench.engine.reply(b"1", 0)
    bench.engine.reply(b"3", 1)

    assert early is None
    assert shown(call) == ["1", "3"]
    assert call.status == 0


async def test_an_empty_stream_ends_at_once(served) -> None:
    """With OK."""
    handler, call = served("StreamPredictions2")

    handler.half_close()

    assert (call.status, call.sent) == (0, [])


async def test_answers_leave_when_they_are_ready(served, bench) -> None:
    """A slow sequence holds up no other one; each answer names its own."""
    handler, call = served("StreamPredictions2")
    handler.message(request("a"))
    handler.message(request("b"))

    bench.engine.reply(b"of b", 1)
    bench.engine.reply(b"of a", 0)

    assert [r.sequence_id for r in responses(call)] == ["b", "a"]


async def test_errors_are_messages_and_the_stream_goes_on(served, bench) -> None:
    """A handler that raises, a full queue, a model that is not there, an id that is missing."""
    handler, call = served("StreamPredictions2")

    handler.message(request("a"))
    bench.engine.fail(ModelError("boom"))
    handler.message(request("a"))
    bench.engine.fail(StepQueueFullError(1))
    handler.message(request("a", model="nope"))
    handler.message(request("a", model=""))
    handler.message(request(""))
    handler.message(request("a"))
    bench.engine.reply(b"6")

    found = responses(call)
    assert [r.status.code for r in found] == [14, 13, 13, 13, 13, 0]
    assert [r.HasField("status") for r in found] == [True] * 5 + [False]
    assert found[3].status.message == "Parameter model_name is required."
    assert found[4].status.message == "Parameter sequenceId is required."
    assert found[0].sequence_id == "a"
    assert call.status is None


async def test_an_error_carries_its_class(served) -> None:
    """As ErrorInfo, the way TorchServe's clients unpack it."""
    handler, call = served("StreamPredictions2")

    handler.message(request(""))

    (detail,) = responses(call)[0].status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
    assert pb.ErrorInfo.FromString(detail.value).reason == "BadRequestException.()"


async def test_flags_in_the_input_begin_and_end_a_sequence(served, bench) -> None:
    """As documented; the handler sees them as headers, and only when they were sent."""
    handler, _call = served("StreamPredictions2")
    start, end = {"ts_request_sequence_start": b"true"}, {"ts_request_sequence_end": b"true"}

    handler.message(request("a", **start))
    handler.message(request("a"))
    handler.message(request("a", **end))

    assert [(s.start, s.end) for s in bench.engine.steps] == [
        (True, False), (False, False), (False, True),
    ]  # fmt: skip
    keys = [sorted(bench.engine.shown(at)) for at in range(3)]
    assert keys[0] == ["ts_request_sequence_id", "ts_request_sequence_start"]
    assert keys[1] == ["ts_request_sequence_id"]
    assert keys[2] == ["ts_request_sequence_end", "ts_request_sequence_id"]
    assert bench.engine.row() == {"data": b"1"}


async def test_steps_on_a_stream_are_numbered_in_their_input(served, bench) -> None:
    """Beside the flags; a number that is none is refused, and the stream goes on."""
    handler, call = served("StreamPredictions2")

    handler.message(request("a", **{"legato-step": b"7"}))
    handler.message(request("a", **{"legato-step": b"x"}))

    (step,) = bench.engine.steps
    assert step.number == 7
    assert bench.engine.row() == {"data": b"1"}
    assert responses(call)[0].status.message.startswith("legato-step must be a step number")


async def test_a_first_message_without_an_id_gets_one(served, bench) -> None:
    """It comes back with the answer."""
    handler, call = served("StreamPredictions2")

    handler.message(request("", ts_request_sequence_start=b"true"))
    bench.engine.reply(b"1")

    assert responses(call)[0].sequence_id.startswith("ts-seq-")


async def test_a_model_without_sequences_is_served_on_a_stream(served, bench) -> None:
    """Where TorchServe ends the call with UNKNOWN."""
    bench.add("plain", stateful=False)
    handler, call = served("StreamPredictions2")

    handler.message(request(model="plain"))
    bench.engine.reply(b"1", number=0)

    assert shown(call) == ["1"]
    assert not responses(call)[0].HasField("sequence_id")


async def test_chunks_stay_apart_on_a_stream(served, bench) -> None:
    """Each is a message under its sequence's id."""
    handler, call = served("StreamPredictions2")

    handler.message(request("a"))
    bench.engine.steps[0].partial(b"1", {})
    bench.engine.reply(b"2")

    assert shown(call) == ["1", "2"]


async def test_cancelling_drops_what_has_not_begun_last_one_first(served, bench) -> None:
    """So that no later step of a sequence runs without an earlier one."""
    handler, _call = served("StreamPredictions2")
    for _ in range(3):
        handler.message(request("a"))

    handler.cancel()

    assert bench.engine.cancelled == bench.engine.steps[::-1]


async def test_a_stream_with_too_many_requests_is_not_read(served, bench, monkeypatch) -> None:
    """Until half of them are answered."""
    monkeypatch.setattr(grpc_inference, "STREAM_HIGH", 4)
    handler, call = served("StreamPredictions2")

    for _ in range(4):
        handler.message(request("a"))
    paused = call.paused
    for at in range(2):
        bench.engine.reply(b"1", at)

    assert STREAM_HIGH == 1024
    assert (paused, call.resumed) == (1, 1)


def test_a_call_without_a_key_is_refused_before_its_message(bench, make_call) -> None:
    """All four methods ask."""

    def refuse(_call) -> None:
        raise RpcError(Status.PERMISSION_DENIED, "no")

    def begin(method, call) -> None:
        method.factory(call).message(b"")

    for method in service(bench.door, refuse, 1000).methods.values():
        with pytest.raises(RpcError):
            begin(method, make_call())
