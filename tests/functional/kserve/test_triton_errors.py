"""Triton's error texts, which users match on: the same over unary calls, streams and REST."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from legato.protocols.kserve.gen import kserve_pb2 as pb

ONE = np.float32([[1]]).tobytes()
TIMEOUT_S = 20


@dataclass
class Asked:
    """One request, in the words of no transport."""

    model: str = "accumulator"
    version: str = ""
    id: str = "r"
    sequence: int | str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: list[tuple[str, str, list[int], bytes | None]] = field(
        default_factory=lambda: [("INPUT", "FP32", [1, 1], ONE)]
    )
    outputs: list[str] = field(default_factory=list)

    def message(self) -> pb.ModelInferRequest:
        made = pb.ModelInferRequest(model_name=self.model, model_version=self.version, id=self.id)
        for key, value in self.named().items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
            setattr(made.parameters[key], kind, value)
        for name, datatype, shape, raw in self.inputs:
            made.inputs.add(name=name, datatype=datatype, shape=shape)
            if raw is not None:
                made.raw_input_contents.append(raw)
        for name in self.outputs:
            made.outputs.add(name=name)
        return made

    def named(self) -> dict[str, Any]:
        given = {} if self.sequence is None else {"sequence_id": self.sequence}
        return {**given, **self.parameters}

    def body(self) -> tuple[bytes, dict[str, str]]:
        head: dict[str, Any] = {"parameters": self.named(), "inputs": []}
        if self.id:
            head["id"] = self.id
        tail = b""
        for name, datatype, shape, raw in self.inputs:
            entry = {"name": name, "datatype": datatype, "shape": shape}
            if raw is not None:
                entry["parameters"] = {"binary_data_size": len(raw)}
                tail += raw
            head["inputs"].append(entry)
        head["outputs"] = [{"name": name} for name in self.outputs]
        text = json.dumps(head).encode()
        return text + tail, {"Inference-Header-Content-Length": str(len(text))}


@dataclass
class Told:
    """An error as a client sees it; ``status`` is a gRPC status or that of HTTP."""

    status: Any
    text: str
    reason: str


def over_grpc(address: str, asked: Asked) -> Told:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(asked.message().SerializeToString(), timeout=TIMEOUT_S)
    trailers = dict(caught.value.trailing_metadata() or ())
    return Told(caught.value.code().name, caught.value.details(), trailers.get("legato-reason", ""))


def over_stream(address: str, asked: Asked) -> Told:
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = list(call(iter([asked.message().SerializeToString()]), timeout=TIMEOUT_S))
    (answer,) = [pb.ModelStreamInferResponse.FromString(answer) for answer in answers]
    response = answer.infer_response
    assert response.id == asked.id
    parameters = response.parameters
    return Told(
        parameters["legato-status"].string_param,
        answer.error_message,
        parameters["legato-reason"].string_param,
    )


def over_http(address: str, asked: Asked) -> Told:
    body, headers = asked.body()
    version = f"/versions/{asked.version}" if asked.version else ""
    answer = httpx.post(
        f"http://{address}/v2/models/{asked.model}{version}/infer",
        content=body, headers=headers, timeout=TIMEOUT_S,
    )  # fmt: skip
    return Told(answer.status_code, answer.json()["error"], answer.headers.get("legato-reason", ""))


TRANSPORTS = {"grpc": over_grpc, "stream": over_stream, "http": over_http}
HTTP_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "UNAVAILABLE": 503, "INTERNAL": 500}

TWO = np.float32([[1, 2]]).tobytes()
ROWS: dict[str, tuple[Asked, str, str, str]] = {
    "no id": (
        Asked(),
        "INVALID_ARGUMENT",
        ("inference request to model 'accumulator' must specify a non-zero or non-empty "
        "correlation ID"),
        "missing_correlation_id",
    ),
    "id 0": (
        Asked(sequence=0),
        "INVALID_ARGUMENT",
        ("inference request to model 'accumulator' must specify a non-zero or non-empty "
        "correlation ID"),
        "missing_correlation_id",
    ),
    "empty id": (
        Asked(sequence=""),
        "INVALID_ARGUMENT",
        ("inference request to model 'accumulator' must specify a non-zero or non-empty "
        "correlation ID"),
        "missing_correlation_id",
    ),
    "not started": (
        Asked(sequence=999_999),
        "INVALID_ARGUMENT",
        ("inference request for sequence 999999 to model 'accumulator' must specify the START flag "
        "on the first request of the sequence"),
        "unknown_sequence",
    ),
    "not started, text": (
        Asked(sequence="nobody"),
        "INVALID_ARGUMENT",
        ("inference request for sequence nobody to model 'accumulator' must specify the START flag "
        "on the first request of the sequence"),
        "unknown_sequence",
    ),
    "batch": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP32", [2, 1], TWO)]),
        "INVALID_ARGUMENT",
        ("inference request to model 'accumulator' must specify batch-size 1 due to requirements "
        "of sequence batcher"),
        "invalid_input",
    ),
    "unknown model": (
        Asked(model="nobody"),
        "NOT_FOUND",
        "Request for unknown model: 'nobody' is not found",
        "unknown_model",
    ),
    "unknown version": (
        Asked(version="7", sequence=8, parameters={"sequence_start": True}),
        "NOT_FOUND",
        "Request for unknown model: 'accumulator' version 7 is not found",
        "unknown_model",
    ),
    "dtype": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP64", [1, 1], bytes(8))]),
        "INVALID_ARGUMENT",
        ("[request id: r] inference input 'INPUT' data-type is 'FP64', but model 'accumulator' "
        "expects 'FP32'"),
        "invalid_input",
    ),
    "dtype without a request id": (
        Asked(sequence=8, id="", parameters={"sequence_start": True},
              inputs=[("INPUT", "FP64", [1, 1], bytes(8))]),
        "INVALID_ARGUMENT",
        ("[request id: <id_unknown>] inference input 'INPUT' data-type is 'FP64', but model "
        "'accumulator' expects 'FP32'"),
        "invalid_input",
    ),
    "shape": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP32", [1, 2], TWO)]),
        "INVALID_ARGUMENT",
        ("[request id: r] unexpected shape for input 'INPUT' for model 'accumulator'. Expected "
        "[-1,1], got [1,2]. NOTE: the first dimension is the batch; a step of a sequence has 1 "
        "there."),
        "invalid_input",
    ),
    "unknown input": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP32", [1, 1], ONE), ("X", "FP32", [1, 1], ONE)]),
        "INVALID_ARGUMENT",
        "unexpected inference input 'X' for model 'accumulator'",
        "invalid_input",
    ),
    "unknown output": (
        Asked(sequence=8, parameters={"sequence_start": True}, outputs=["X"]),
        "INVALID_ARGUMENT",
        "unexpected inference output 'X' for model 'accumulator'",
        "invalid_input",
    ),
    "number of inputs": (
        Asked(sequence=8, parameters={"sequence_start": True}, inputs=[]),
        "INVALID_ARGUMENT",
        ("[request id: r] expected 1 inputs but got 0 inputs for model 'accumulator'. Got input(s) "
        "[], but missing required input(s) ['INPUT']. Please provide all required input(s)."),
        "invalid_input",
    ),
    "no data": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP32", [1, 1], None)]),
        "INVALID_ARGUMENT",
        "unable to find data for input tensor 'INPUT' for model 'accumulator' in request.",
        "invalid_input",
    ),
    "byte size": (
        Asked(sequence=8, parameters={"sequence_start": True},
              inputs=[("INPUT", "FP32", [1, 1], bytes(8))]),
        "INVALID_ARGUMENT",
        ("[request id: r] input byte size mismatch for input 'INPUT' for model 'accumulator'. "
        "Expected 4, got 8"),
        "invalid_input",
    ),
    "type of an id": (
        Asked(sequence=True),
        "INVALID_ARGUMENT",
        "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        "invalid_argument",
    ),
    "type of a flag": (
        Asked(sequence=8, parameters={"sequence_start": 1}),
        "INVALID_ARGUMENT",
        "invalid value type for 'sequence_start' parameter, expected bool_param.",
        "invalid_argument",
    ),
    "reserved parameter": (
        Asked(sequence=8, parameters={"sequence_start": True, "triton_other": 1}),
        "INVALID_ARGUMENT",
        ("parameter keys starting with 'triton_' are reserved for Triton usage and should not be "
        "specified: 'triton_other' is not supported"),
        "invalid_argument",
    ),
}  # fmt: skip


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("row", ROWS)
def test_errors_have_tritons_status_and_text(server, row, transport) -> None:
    """And a reason for machines beside it."""
    asked, status, text, reason = ROWS[row]

    told = TRANSPORTS[transport](server, asked)

    assert told.text == text
    assert told.status == (HTTP_STATUS[status] if transport == "http" else status)
    assert told.reason == reason


def expired(address: str) -> float:
    """How many sequences have expired on a server."""
    page = httpx.get(f"http://{address}/metrics", timeout=TIMEOUT_S).text
    return sum(
        float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("legato_sequences_ended_total") and 'reason="expired"' in line
    )


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_end_of_a_sequence_stands_beside_the_one_text(server, fresh_id, transport) -> None:
    """Triton says the same for sequences that ended, expired and never were."""
    before = expired(server)
    begin(server, fresh_id, sequence_end=True)
    begin(server, fresh_id + 1, sequence_idle_timeout_s=1)
    deadline = time.monotonic() + TIMEOUT_S
    while expired(server) == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)

    told = [TRANSPORTS[transport](server, Asked(sequence=fresh_id + at)) for at in range(3)]

    assert [one.reason for one in told] == ["ended", "expired", "unknown_sequence"]
    assert all("must specify the START flag on the first request" in one.text for one in told)


def begin(address: str, sequence: int, **parameters: Any) -> None:
    message = Asked(sequence=sequence, parameters={"sequence_start": True, **parameters}).message()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        call(message.SerializeToString(), timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def narrow(serve, model, tmp_path_factory) -> str:
    """Address of a server with room for one sequence and one more that waits."""
    folder = tmp_path_factory.mktemp("narrow") / "accumulator"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    (folder / "model.yaml").write_text(
        (model / "model.yaml").read_text() + "sequences: {max_live: 1, max_backlog: 1}\n"
    )
    address = serve(folder).address
    begin(address, 1)
    return address


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_waiting_for_room_has_its_time(narrow, transport) -> None:
    """The microseconds count only while the sequence waits in the backlog."""
    asked = Asked(sequence=2, parameters={"sequence_start": True, "timeout": 50_000})

    told = TRANSPORTS[transport](narrow, asked)

    assert told.text == "timeout of the corresponding sequence has been expired"
    assert told.status == (503 if transport == "http" else "UNAVAILABLE")
    assert told.reason == "queue_timeout"


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_models_are_not_changed_unless_clients_may(server, verb) -> None:
    """UNAVAILABLE, over both."""
    text = "explicit model load / unload is not allowed if polling is enabled"
    path = f"/inference.GRPCInferenceService/RepositoryModel{verb.capitalize()}"
    request = getattr(pb, f"RepositoryModel{verb.capitalize()}Request")(model_name="accumulator")

    rest = httpx.post(f"http://{server}/v2/repository/models/accumulator/{verb}", content=b"")
    with grpc.insecure_channel(server) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(request.SerializeToString(), timeout=TIMEOUT_S)

    assert (rest.status_code, rest.json()["error"]) == (503, text)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, text)


def test_errors_close_a_stream_that_asks_for_it(server) -> None:
    """With the metadata, the first error ends the stream with its status."""
    messages = [Asked(sequence=999_998).message().SerializeToString()] * 2
    with grpc.insecure_channel(server) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        answers = call(iter(messages), metadata=(("triton_grpc_error", "true"),), timeout=TIMEOUT_S)

        with pytest.raises(grpc.RpcError) as caught:
            list(answers)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "must specify the START flag" in caught.value.details()
