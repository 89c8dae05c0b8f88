"""Bad input over every door: a clear error in the protocol's own form, and others go on."""

from __future__ import annotations

import grpc
import httpx
import numpy as np
import pytest

from legato.protocols.kserve.gen import kserve_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server) as channel:
        yield channel


@pytest.fixture
def unharmed(channel, fresh_id):
    """Run a sequence around the test: it must not notice."""

    def step(value: float, **flags: bool) -> float:
        message = good(fresh_id, value)
        for key, flag in flags.items():
            message.parameters[key].bool_param = flag
        response = channel.unary_unary(INFER)(message.SerializeToString(), timeout=20)
        raw = pb.ModelInferResponse.FromString(response).raw_output_contents[0]
        return float(np.frombuffer(raw, np.float32)[0])

    step(1, sequence_start=True)
    yield
    assert step(2) == 3


def good(sequence: int, value: float = 1) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="accumulator", id="r")
    message.parameters["sequence_id"].int64_param = sequence
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(np.float32([[value]]).tobytes())
    return message


def changed(change) -> pb.ModelInferRequest:
    message = good(5)
    message.parameters["sequence_start"].bool_param = True
    change(message)
    return message


def other_dtype(message) -> None:
    message.inputs[0].datatype = "FP64"
    message.raw_input_contents[0] = bytes(8)


def other_shape(message) -> None:
    message.inputs[0].shape[:] = [1, 2]
    message.raw_input_contents[0] = bytes(8)


def larger_batch(message) -> None:
    message.inputs[0].shape[:] = [2, 1]
    message.raw_input_contents[0] = bytes(8)


def truncated(message) -> None:
    message.raw_input_contents[0] = b"abc"


def gigantic(message) -> None:
    message.inputs[0].shape[:] = [2**40, 2**40]


def unknown_input(message) -> None:
    message.inputs[0].name = "OTHER"


def unknown_output(message) -> None:
    message.outputs.add(name="OTHER")


def unknown_model(message) -> None:
    message.model_name = "other"


def unknown_version(message) -> None:
    message.model_version = "9"


def no_id(message) -> None:
    message.parameters["sequence_id"].int64_param = 0


def wrong_parameter(message) -> None:
    message.parameters["sequence_start"].string_param = "yes"


CASES = [
    (other_dtype, "INVALID_ARGUMENT", ("inference input 'INPUT' data-type is 'FP64', but model "
     "'accumulator' expects 'FP32'")),
    (other_shape, "INVALID_ARGUMENT", ("unexpected shape for input 'INPUT' for model "
     "'accumulator'. Expected [-1,1], got [1,2].")),
    (larger_batch, "INVALID_ARGUMENT", "must specify batch-size 1"),
    (truncated, "INVALID_ARGUMENT", "Expected 4, got 3"),
    (gigantic, "INVALID_ARGUMENT", "impossible shape"),
    (unknown_input, "INVALID_ARGUMENT", "'INPUT'"),
    (unknown_output, "INVALID_ARGUMENT", "unexpected inference output 'OTHER'"),
    (unknown_model, "NOT_FOUND", "Request for unknown model: 'other' is not found"),
    (unknown_version, "NOT_FOUND", ("Request for unknown model: 'accumulator' version 9 is not "
     "found")),
    (no_id, "INVALID_ARGUMENT", "must specify a non-zero or non-empty correlation ID"),
    (wrong_parameter, "INVALID_ARGUMENT", "invalid value type for 'sequence_start' parameter"),
]  # fmt: skip


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(("change", "status", "text"), CASES)
def test_wrong_requests_over_grpc(channel, change, status, text) -> None:
    """Unary: status and text. Stream: the text in the response, and the stream goes on."""
    message = changed(change).SerializeToString()

    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(INFER)(message, timeout=20)
    answers = [
        pb.ModelStreamInferResponse.FromString(answer)
        for answer in channel.stream_stream(STREAM)(iter([message, message]), timeout=20)
    ]

    assert caught.value.code().name == status
    assert text in caught.value.details()
    assert len(answers) == 2
    for answer in answers:
        assert text in answer.error_message
        assert answer.infer_response.id == "r"


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x2a\x05abc"])
def test_garbage_over_grpc(channel, garbage) -> None:
    """Bytes that are no message end that call, with a status."""
    with pytest.raises(grpc.RpcError) as unary:
        channel.unary_unary(INFER)(garbage, timeout=20)
    with pytest.raises(grpc.RpcError) as stream:
        list(channel.stream_stream(STREAM)(iter([garbage]), timeout=20))

    assert unary.value.code() is grpc.StatusCode.INTERNAL
    assert stream.value.code() is grpc.StatusCode.INTERNAL


def body(**changes: object) -> dict[str, object]:
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [1]}
    tensor.update({key: value for key, value in changes.items() if key in tensor})
    return {
        "id": "r",
        "parameters": changes.get("parameters", {"sequence_id": 5, "sequence_start": True}),
        "inputs": [tensor],
    }


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"datatype": "FP64"}, "data-type is 'FP64'"),
        ({"shape": [1, 2], "data": [1, 2]}, "got [1,2]"),
        ({"data": [1, 2]}, "Expected 4, got 8"),
        ({"shape": [2**40, 2**40]}, "impossible shape"),
        ({"shape": "x"}, "'shape'"),
        ({"data": {"a": 1}}, "INPUT"),
        ({"name": "OTHER"}, "INPUT"),
        ({"parameters": {}}, "correlation ID"),
        ({"parameters": {"sequence_id": 5.5}}, "sequence_id"),
        ({"parameters": []}, "parameters"),
    ],
)
def test_wrong_requests_over_rest(server, changes, text) -> None:
    """Status 400 and ``{"error": text}``."""
    answer = httpx.post(f"http://{server}/v2/models/accumulator/infer", json=body(**changes))

    assert answer.status_code == 400
    assert text in answer.json()["error"]


START = b'{"parameters": {"sequence_id": 5, "sequence_start": true}}'


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        ("accumulator/infer", b"{", {}, 500),
        ("accumulator/infer", b"\xff" * 100, {}, 500),
        ("accumulator/infer", b"{}", {"Inference-Header-Content-Length": "99"}, 400),
        ("accumulator/infer", b"{}", {"Content-Encoding": "gzip"}, 400),
        ("other/infer", b"{}", {}, 404),
        ("accumulator/versions/9/infer", START, {}, 404),
    ],
)
def test_garbage_over_rest(server, path, content, headers, status) -> None:
    """Each has the status of the protocol and a text."""
    answer = httpx.post(f"http://{server}/v2/models/{path}", content=content, headers=headers)

    assert answer.status_code == status
    assert answer.json()["error"]
