"""The Open Inference Protocol, as far as no server is needed."""

from __future__ import annotations

import json

import pytest

from legato.core.errors import ModelError
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.torchserve import open_inference
from legato.protocols.torchserve.open_inference import service

TENSOR = pb.ModelInferRequest.InferInputTensor


@pytest.fixture
def infer(bench, make_call):
    """Begin an inference: its call."""
    bench.add()
    method = service(bench.door, lambda _call: None, 1000).methods["ModelInfer"]

    def begin(**fields):
        call = make_call()
        data = pb.ModelInferRequest(model_name="adder", **fields).SerializeToString()
        method.factory(call).message(data)
        return call

    return begin


def test_a_request_is_the_json_that_it_is_in_rest(bench, infer) -> None:
    """Texts are base64, as JSON holds no bytes."""
    contents = pb.InferTensorContents(bytes_contents=[b"xy"])

    infer(id="mine", inputs=[TENSOR(name="a", datatype="BYTES", shape=[1], contents=contents)])

    tensor = {"name": "a", "shape": [1], "datatype": "BYTES", "data": ["eHk="]}
    body = json.loads(bench.engine.row()["body"])
    assert body == {"model_name": "adder", "id": "mine", "inputs": [tensor]}


@pytest.mark.parametrize(
    "body",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"outputs": [{"name": "a"}]}',
        b'{"outputs": [{"name": "a", "datatype": "FP99", "shape": [1], "data": [1]}]}',
        b'{"outputs": [{"name": "a", "datatype": "INT64", "shape": [1], "data": ["x"]}]}',
    ],
)
def test_an_answer_that_is_none_of_the_protocol_is_an_error(bench, infer, body: bytes) -> None:
    """It says that the handler is to blame."""
    call = infer()

    bench.engine.reply(body)

    assert call.status == 13
    assert "handler's answer" in call.message


def test_a_handler_that_fails_has_its_status(bench, infer) -> None:
    """As over TorchServe's own service."""
    call = infer()

    bench.engine.fail(ModelError("Prediction failed"))

    assert call.status != 0
    assert "Prediction failed" in call.message


def test_its_paths_are_none_of_the_others() -> None:
    """A model's path is served by TorchServe's own names."""
    assert open_inference.rest("/v2/health/live/") == {"live": True}
    assert open_inference.rest("/v2/models/m/infer") is None
