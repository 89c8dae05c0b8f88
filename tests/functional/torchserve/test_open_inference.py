"""``ts_open_inference_protocol``: KServe's second protocol under TorchServe's name, on 7070."""

from __future__ import annotations

import grpc
import pytest
from tests.functional.torchserve.test_archives import LONGER, PLAIN, pack

from legato.protocols.kserve.gen import kserve_pb2 as pb

SERVICE = "org.pytorch.serve.grpc.openinference.GRPCInferenceService"
TENSOR = pb.ModelInferRequest.InferInputTensor
CONTENTS = pb.InferTensorContents
DOUBLES = """
def handle(data, context):
    if data is None:
        return None
    return [
        [value * 2 for value in one["data"]] if isinstance(one["data"], list) else [one["data"]]
        for one in data
    ]
"""


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    """A server with the protocol, and archives in the envelope that goes with it."""
    folder = tmp_path_factory.mktemp("open")
    (folder / "doubles.py").write_text(DOUBLES)
    pack(folder / "store", "doubles", folder / "doubles.py", PLAIN)
    pack(folder / "store", "stateful", folder / "doubles.py", LONGER)
    return torchserve(
        *("--ncs", "--disable-token-auth", "--models", "all"),
        folder=folder,
        properties={"ts_open_inference_protocol": "true", "service_envelope": "kservev2"},
    )


@pytest.fixture(scope="module")
def call(served):
    """``call(method, **fields)``: the answer of a plain grpcio client."""
    with grpc.insecure_channel(f"127.0.0.1:{served.named['grpc_inference']}") as channel:

        def ask(method: str, **fields):
            answer = getattr(pb, f"{method}Response")
            return channel.unary_unary(
                f"/{SERVICE}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )(getattr(pb, f"{method}Request")(**fields), timeout=30)

        yield ask


def test_server_and_models_are_told_of(call) -> None:
    """Alive, ready, by what name, in which versions."""
    assert call("ServerLive").live
    assert call("ServerReady").ready
    assert call("ServerMetadata").name == "Torchserve"
    assert call("ModelReady", name="doubles", version="1.0").ready
    assert list(call("ModelMetadata", name="doubles").versions) == ["1.0"]


@pytest.mark.parametrize("model", ["doubles", "stateful"])
def test_tensors_come_as_lists_and_go_as_they_are_said_to_be(call, model: str) -> None:
    """Each input is a row of the handler, each of its answers an output."""
    inputs = [
        TENSOR(name="a", datatype="INT64", shape=[2], contents=CONTENTS(int64_contents=[1, 2])),
        TENSOR(name="b", datatype="FP32", shape=[1], contents=CONTENTS(fp32_contents=[0.5])),
        TENSOR(name="c", datatype="BYTES", shape=[1], contents=CONTENTS(bytes_contents=[b"xy"])),
    ]

    answer = call("ModelInfer", model_name=model, id="mine", inputs=inputs)

    a, b, c = answer.outputs
    assert (answer.model_name, answer.model_version, answer.id) == (model, "1.0", "mine")
    assert (a.datatype, list(a.contents.int64_contents), list(a.shape)) == ("INT64", [2, 4], [2])
    assert (b.datatype, list(b.contents.fp64_contents)) == ("FP64", [1.0])
    assert (c.datatype, list(c.contents.bytes_contents)) == ("BYTES", [b"eHk="])  # as JSON has it


def test_raw_contents_are_read(call) -> None:
    """TorchServe gives the handler nothing of them."""
    inputs = [
        TENSOR(name="a", datatype="INT32", shape=[2]),
        TENSOR(name="b", datatype="BYTES", shape=[1]),
    ]
    raw = [b"\x01\0\0\0\x02\0\0\0", b"\x02\0\0\0xy"]

    answer = call("ModelInfer", model_name="doubles", inputs=inputs, raw_input_contents=raw)

    assert list(answer.outputs[0].contents.int64_contents) == [2, 4]
    assert list(answer.outputs[1].contents.bytes_contents) == [b"eHk="]


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("ModelReady", {"name": "nope"}, "NOT_FOUND", "Model not found: nope"),
        ("ModelMetadata", {"name": "doubles", "version": "9"}, "NOT_FOUND", "version: 9"),
        ("ModelInfer", {"model_name": "nope"}, "INTERNAL", "Model not found: nope"),
        ("ModelInfer", {}, "INTERNAL", "Parameter model_name is required."),
        (
            "ModelInfer",
            {"model_name": "doubles", "inputs": [TENSOR(name="a", datatype="FP99", shape=[1])]},
            "INTERNAL",
            "FP99",
        ),
    ],
    ids=["ready", "metadata", "model", "no name", "datatype"],
)
def test_what_cannot_be_served_is_told(call, method, fields, code: str, text: str) -> None:
    """With TorchServe's codes and texts where it has them."""
    with pytest.raises(grpc.RpcError) as caught:
        call(method, **fields)

    assert caught.value.code().name == code
    assert text in caught.value.details()


def test_its_paths_are_served(served) -> None:
    """Beside those that are served anyway."""
    assert served.get("inference", "/v2").json["name"] == "Torchserve"
    assert served.get("inference", "/v2/health/live").json == {"live": True}
    assert served.get("inference", "/v2/health/ready").json == {"ready": True}
    body = b'{"inputs": [{"name": "a", "datatype": "INT64", "shape": [1], "data": [4]}]}'
    answer = served.post("/v2/models/doubles/infer", body, **{"content-type": "application/json"})
    assert answer.json["outputs"][0]["data"] == [8]
