"""A state that grows, on a real server: its length and bytes, its limit, and what it survives."""

from __future__ import annotations

import os
import signal

import grpc
import numpy as np
import pytest
import safetensors.numpy
import tiny

from legato.protocols.kserve.gen import kserve_pb2 as kserve
from legato.protocols.sequences.gen import sequences_pb2 as pb

LIMIT = 4
BASE = "/legato/v1/models/grower/sequences"
TOO_LONG = f"would grow beyond its longest allowed length of {LIMIT}"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growing")
    tiny.save(tiny.grower(), folder, "model")
    (folder / "model.yaml").write_text(
        "name: grower\nfile: model.onnx\nstates:\n"
        f"  - {{input: cache, output: present, rule: append, axis: 2, max_length: {LIMIT}}}\n"
    )
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("growing-data")


@pytest.fixture(scope="module")
def server(serve, models, data):
    return serve(models, store="log", data=data, **{"max-resident-state": 1})


@pytest.fixture
def grower(client):
    return client


def step(client, cid: int | str, number: float, **parameters):
    """Append the entry [[n, n], [10n, 10n]] over KServe REST; the sum, or status and error."""
    entry = [number, number, 10 * number, 10 * number]
    body = {
        "parameters": {"sequence_id": cid, **parameters},
        "inputs": [{"name": "x", "shape": [1, 2, 1, 2], "datatype": "FP32", "data": entry}],
    }
    status, answer = client.rest("POST", "/v2/models/grower/infer", body)
    return answer["outputs"][0]["data"][0] if status == 200 else (status, answer["error"])


def fill(client, cid: int | str) -> None:
    """Take a sequence to its longest length; the sum is then 220."""
    answers = [step(client, cid, n + 1, sequence_start=n == 0) for n in range(LIMIT)]
    assert answers == [22, 66, 132, 220]


def cache_of(client, cid: int | str) -> np.ndarray:
    status, blob = client.rest("GET", f"{BASE}/{cid}/export")
    assert status == 200
    return safetensors.numpy.load(blob)["cache"]


def test_length_and_bytes_are_shown(grower) -> None:
    """Of the value as it is now, to programs and to people, also after it left the memory."""
    step(grower, 1, 1, sequence_start=True)
    step(grower, 1, 2)

    _, shown = grower.rest("GET", f"{BASE}/1")
    _, state = grower.rest("GET", f"{BASE}/1/state")

    assert shown["sequence"]["state_bytes"] == 2 * 2 * 2 * 4
    assert state["tensors"][0]["shape"] == [1, 2, 2, 2]
    assert "[1, 2, 2, 2]" in grower.run("state", "grower", "1")
    assert cache_of(grower, 1).tolist() == [[[[1, 1], [2, 2]], [[10, 10], [20, 20]]]]


def test_a_full_sequence_is_refused_over_kserve_rest(grower) -> None:
    """With the limit and what to do; it is as it was, and its last step is answered."""
    fill(grower, 2)

    status, error = step(grower, 2, 5)

    assert status == 400
    assert TOO_LONG in error
    assert "end the sequence" in error
    assert cache_of(grower, 2).shape == (1, 2, LIMIT, 2)
    assert step(grower, 2, 5, sequence_end=True) == 330
    assert "must specify the START flag" in step(grower, 2, 5)[1]


def test_a_full_sequence_is_refused_over_kserve_grpc(grower) -> None:
    """FAILED_PRECONDITION: the request is in order, the sequence is not."""
    fill(grower, 3)
    request = kserve.ModelInferRequest(model_name="grower")
    request.parameters["sequence_id"].int64_param = 3
    request.inputs.add(name="x", datatype="FP32", shape=(1, 2, 1, 2))
    request.raw_input_contents.append(np.ones(4, np.float32).tobytes())

    with grpc.insecure_channel(grower.address) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=kserve.ModelInferRequest.SerializeToString,
            response_deserializer=kserve.ModelInferResponse.FromString,
        )
        with pytest.raises(grpc.RpcError) as refused:
            call(request, timeout=30)

    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert TOO_LONG in refused.value.details()


def test_a_full_sequence_is_refused_over_tensorflow_serving(grower) -> None:
    """Over its REST interface; the end, with a last request, is taken."""

    def predict(number: float, control: int) -> tuple[int, object]:
        entry = [[[[number, number]], [[10 * number, 10 * number]]]]
        body = {"inputs": {"x": entry, "sequence_id": [4], "sequence_control_input": [control]}}
        return grower.rest("POST", "/v1/models/grower:predict", body)

    assert [predict(n + 1, int(n == 0))[0] for n in range(LIMIT)] == [200] * LIMIT

    status, answer = predict(5, 0)

    assert status == 412
    assert TOO_LONG in answer["error"]
    assert predict(5, 2)[0] == 200


def test_a_full_sequence_can_be_branched_and_ended(grower) -> None:
    """Forks and snapshots have its length; a rollback makes room; it ends without a step."""
    step(grower, 5, 1, sequence_start=True)
    snapshot = pb.SnapshotRequest(model="grower", id="5", name="short")
    grower.rpc("Snapshot", snapshot, pb.SnapshotResponse)
    for number in (2, 3, 4):
        step(grower, 5, number)
    grower.rest("POST", f"{BASE}/5/fork", {"target": "s:full"})
    back = pb.RollbackRequest(model="grower", id="5", snapshot="short")
    grower.rpc("Rollback", back, pb.RollbackResponse)

    assert step(grower, 5, 2) == 66
    assert TOO_LONG in step(grower, "full", 5)[1]
    assert cache_of(grower, "s:full").shape == (1, 2, LIMIT, 2)
    assert grower.rest("DELETE", f"{BASE}/s:full")[0] == 200


def test_its_steps_are_recorded_and_replayed(grower, data) -> None:
    """From a state that had grown before; the digests are those of the whole values."""
    step(grower, 6, 1, sequence_start=True)
    step(grower, 6, 2)
    grower.run("record", "grower", "6")
    step(grower, 6, 3)
    step(grower, 6, 4)
    grower.run("record", "grower", "6", "--off")

    (file,) = (data / "recordings").rglob("*-6-*")

    assert "2 steps" in grower.run("replay", file)


def test_sequences_of_all_lengths_outlive_a_kill(grower, server) -> None:
    """Each goes on from its own length, bit for bit."""
    for cid in range(10, 14):
        for number in range(cid - 9):
            step(grower, cid, number + 1, sequence_start=number == 0)
    before = [cache_of(grower, cid).tobytes() for cid in range(10, 14)]

    os.kill(server.pid, signal.SIGKILL)
    server.await_ready(times=2)

    assert [cache_of(grower, cid).tobytes() for cid in range(10, 14)] == before
    assert [step(grower, cid, cid - 8) for cid in range(10, 13)] == [66, 132, 220]
    assert TOO_LONG in step(grower, 13, 5)[1]
