"""A numbered step is applied once, however often and over whatever door it is sent."""

from __future__ import annotations

import contextlib

import grpc
import httpx
import numpy as np
import pytest

from legato.protocols.kserve.gen import kserve_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server) as channel:
        yield channel


def request(sequence: int, step: int, value: float, **flags: bool) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="accumulator", id=f"r{step}")
    message.parameters["sequence_id"].int64_param = sequence
    if step:
        message.parameters["sequence_step"].int64_param = step
    for key, flag in flags.items():
        message.parameters[key].bool_param = flag
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(np.float32([[value]]).tobytes())
    return message


def unary(channel, message, **options):
    call = channel.unary_unary(
        SERVICE + "ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return call(message, timeout=20, **options)


def stream(channel, messages, **options) -> list[pb.ModelStreamInferResponse]:
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    return list(call(iter(messages), timeout=20, **options))


def test_step_sent_twice_is_applied_once(channel, server, fresh_id) -> None:
    """Unary, stream and REST all get the stored reply, byte for byte."""
    unary(channel, request(fresh_id, 1, 1, sequence_start=True))
    first = unary(channel, request(fresh_id, 2, 10))

    again = unary(channel, request(fresh_id, 2, 10))
    (streamed,) = stream(channel, [request(fresh_id, 2, 10)])
    web = httpx.post(
        f"http://{server}/v2/models/accumulator/infer",
        json={
            "id": "r2",
            "parameters": {"sequence_id": fresh_id},
            "inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [10]}],
        },
        headers={"legato-step": "2"},
    )
    following = unary(channel, request(fresh_id, 3, 100))

    assert again.raw_output_contents == first.raw_output_contents
    assert again.parameters["sequence_replayed"].bool_param
    assert "sequence_replayed" not in first.parameters
    assert streamed.infer_response.raw_output_contents == first.raw_output_contents
    assert web.json()["outputs"][0]["data"] == [11.0]
    assert web.json()["parameters"] == {
        "sequence_step": 2,
        "sequence_durability": "none",
        "sequence_replayed": True,
    }
    assert web.headers["legato-step"] == "2"
    assert np.frombuffer(following.raw_output_contents[0], np.float32) == [111]


@pytest.mark.parametrize(
    ("step", "reason", "status"),
    [
        (9, "step_gap", grpc.StatusCode.FAILED_PRECONDITION),
        (1, "step_already_applied", grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
def test_gap_and_stale_step_are_refused(channel, server, fresh_id, step, reason, status) -> None:
    """Every door tells the number expected, in the text and beside it."""
    for number in (1, 2):
        unary(channel, request(fresh_id, number, 1, sequence_start=number == 1))

    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, request(fresh_id, step, 5))
    (streamed,) = stream(channel, [request(fresh_id, step, 5)])
    web = httpx.post(
        f"http://{server}/v2/models/accumulator/infer",
        json={
            "id": f"r{step}",
            "parameters": {"sequence_id": fresh_id, "sequence_step": step},
            "inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [5]}],
        },
    )

    trailers = dict(caught.value.trailing_metadata())
    assert caught.value.code() is status
    assert "step 3 is expected" in caught.value.details()
    assert (trailers["legato-reason"], trailers["legato-expected-step"]) == (reason, "3")
    assert "step 3 is expected" in streamed.error_message
    assert streamed.infer_response.parameters["legato-expected-step"].string_param == "3"
    assert web.status_code == 409
    assert "step 3 is expected" in web.json()["error"]
    assert web.headers["legato-expected-step"] == "3"
    assert unary(channel, request(fresh_id, 3, 0)).parameters["sequence_step"].int64_param == 3


def test_ended_sequence_says_how_it_ended(channel, fresh_id) -> None:
    """The text is Triton's, the trailer knows more."""
    unary(channel, request(fresh_id, 0, 1, sequence_start=True, sequence_end=True))

    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, request(fresh_id, 0, 1))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        f"inference request for sequence {fresh_id} to model 'accumulator' must specify the START "
        "flag on the first request of the sequence"
    )
    assert dict(caught.value.trailing_metadata())["legato-reason"] == "ended"


def test_stream_closes_with_the_status_if_asked(channel, fresh_id) -> None:
    """``triton_grpc_error`` turns the first error into the end of the stream."""
    with pytest.raises(grpc.RpcError) as caught:
        stream(channel, [request(fresh_id, 0, 1)], metadata=(("triton_grpc_error", "true"),))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_cancelled_stream_leaves_its_sequence_alive(channel, fresh_id) -> None:
    """The client goes; the next call takes up where the last answered step was."""
    call = channel.stream_stream(
        SERVICE + "ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )
    answers = call(iter([request(fresh_id, 1, 4, sequence_start=True)]), timeout=20)
    next(answers)
    answers.cancel()
    with contextlib.suppress(grpc.RpcError):
        list(answers)

    after = unary(channel, request(fresh_id, 2, 4))

    assert np.frombuffer(after.raw_output_contents[0], np.float32) == [8]


def test_request_order_is_kept_if_the_server_is_told_to(serve, model, fresh_id) -> None:
    """``--stream-order request``: replies leave in the order of all requests of a stream."""
    messages = [
        request(fresh_id + sequence, 0, 1, sequence_start=step == 0)
        for step in range(10)
        for sequence in range(10)
    ]
    for index, message in enumerate(messages):
        message.id = str(index)

    address = serve(model, stream_order="request").address
    with grpc.insecure_channel(address) as channel:
        answers = stream(channel, messages)

    assert [int(answer.infer_response.id) for answer in answers] == list(range(100))
