"""What is known to go wrong with sequences on Triton does not go wrong here.

Crossed and ragged states are in test_repository.py, reloads in test_control.py, exceptions of
Python models in python_backend/test_requests.py; here are the faults that take several clients.
"""

from __future__ import annotations

import queue
import threading
import time
import urllib.request

import grpc
import pytest
from tests.functional.triton.conftest import TIMEOUT_S, step, tensor, told, until
from tests.models import triton_models as models
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

GUARDED = 'parameters { key: "legato.sequences.start_of_live" value { string_value: "refuse" } }\n'
SHORT = "max_sequence_idle_microseconds: 1000000"
SLOW_S = 1.5
SLOW = f'''
"""Sums up by id; a hundred or more takes its time, a negative number is too much."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {{}}

    def execute(self, requests):
        responses = []
        for request in requests:
            name = request.correlation_id()
            value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            if (value < 0).any():
                raise ValueError("too little")
            if (value >= 100).any():
                time.sleep({SLOW_S})
            before = 0 if request.flags() & 1 else self.sums.get(name, 0)
            self.sums[name] = before + value
            tensor = pb_utils.Tensor("OUTPUT", self.sums[name].astype(np.float32))
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses
'''
SLOW_CONFIG = (
    'backend: "python"\nmax_batch_size: 4\n'
    + models.tensors("input", ("INPUT", "FP32", "1"))
    + models.tensors("output", ("OUTPUT", "FP32", "1"))
    + "instance_group [ { count: 2 kind: KIND_CPU } ]\n"
    + "sequence_batching { max_sequence_idle_microseconds: 60000000 oldest { } }\n"
)


@pytest.fixture(scope="module")
def server(triton, tmp_path_factory):
    """Accumulators with three sets of rules, and a slow model."""
    repository = tmp_path_factory.mktemp("faults")
    models.write_accumulator(repository, "oldest { }", "sums")
    guarded = models.write_accumulator(repository, "oldest { }", "guarded") / "config.pbtxt"
    guarded.write_text(guarded.read_text() + GUARDED)
    short = models.write_accumulator(repository, "direct { }", "short") / "config.pbtxt"
    long_idle = "max_sequence_idle_microseconds: 60000000"
    short.write_text(short.read_text().replace(long_idle, SHORT))
    slow = models.write(repository, "slow", None, SLOW_CONFIG)
    (slow / "1" / "model.py").write_text(SLOW)
    return triton(repository)


@pytest.fixture(scope="module")
def client(server):
    """A client of all tests."""
    return server.client()


def numbered(model: str, sequence: int, number: int, value: float) -> pb.ModelInferRequest:
    """Make a request that carries its step number."""
    request = pb.ModelInferRequest(model_name=model, id=f"{sequence}.{number}")
    parameters = request.parameters
    parameters["sequence_id"].int64_param = sequence
    parameters["sequence_start"].bool_param = number == 1
    parameters["sequence_step"].int64_param = number
    request.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(tensor(value)._get_content())
    return request


def test_a_step_retried_after_its_deadline_is_applied_once(server, client) -> None:
    """Triton applies the step that the client gave up, and then its retry."""
    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(numbered("slow", 11, 1, 1), timeout=TIMEOUT_S)
        with pytest.raises(grpc.RpcError) as given_up:
            stub.ModelInfer(numbered("slow", 11, 2, 100), timeout=SLOW_S / 3)
        again = stub.ModelInfer(numbered("slow", 11, 2, 100), timeout=TIMEOUT_S)

    after = told(step(client, "slow", 5, 11))
    assert given_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert again.parameters["sequence_step"].int64_param == 2
    assert after == 106


def test_a_stranger_s_start_is_refused_where_the_policy_says_so(client) -> None:
    """Two clients with one id: the second START does not silently take the first one's state."""
    step(client, "guarded", 1, 21, sequence_start=True)

    with pytest.raises(InferenceServerException, match="is live at step 1") as refused:
        step(client, "guarded", 50, 21, sequence_start=True)

    assert refused.value.status() == "StatusCode.ALREADY_EXISTS"
    assert told(step(client, "guarded", 2, 21, sequence_end=True)) == 3


def test_each_end_has_its_own_name(server, client) -> None:
    """The text is Triton's for all of them; the reason beside it tells them apart."""
    step(client, "sums", 1, 31, sequence_start=True, sequence_end=True)
    step(client, "short", 1, 32, sequence_start=True)
    until(lambda: ended(server, "short", "expired"), "the sequence expires")
    found = {}

    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for model, sequence in (("sums", 31), ("short", 32), ("sums", 33)):
            found[sequence] = reason(stub, model, sequence)

    assert len(set(found.values())) == 3, found
    assert "ended" in found[31]
    assert "expired" in found[32]


def ended(server, model: str, why: str) -> bool:
    """Whether the metrics know of a sequence of a model that ended so."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    rows = [row for row in text.splitlines() if row.startswith("legato_sequences_ended_total{")]
    return any(f'"{model}"' in row and why in row and not row.endswith(" 0.0") for row in rows)


def reason(stub, model: str, sequence: int) -> str:
    """Ask for a further step; return the reason that stands beside Triton's text."""
    request = numbered(model, sequence, 0, 1)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=TIMEOUT_S)
    assert refused.value.details() == (
        f"inference request for sequence {sequence} to model '{model}' must specify the START "
        "flag on the first request of the sequence"
    )
    return dict(refused.value.trailing_metadata())["legato-reason"]


def test_a_slow_sequence_holds_up_no_other_one_on_its_stream(server) -> None:
    """Answers of one stream come in the order of each sequence, not of all of them."""
    answers: queue.Queue = queue.Queue()
    client = server.client()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        for name, sequence, value in (("slow", 41, 200), ("quick", 42, 3)):
            client.async_stream_infer(
                "slow", [tensor(value)], request_id=name, sequence_id=sequence, sequence_start=True
            )
            time.sleep(0.2)  # the slow one runs before the quick one comes

        order = [answers.get(timeout=TIMEOUT_S) for _ in range(2)]
    finally:
        client.stop_stream()

    assert [error for _result, error in order] == [None, None]
    assert [result.get_response().id for result, _error in order] == ["quick", "slow"]


def test_an_exception_fails_its_own_request_only(server) -> None:
    """On Triton an exception of ``execute`` fails all requests of the batch."""
    clients = [server.client() for _ in range(8)]
    outcomes: dict[int, object] = {}
    for at, client in enumerate(clients):
        step(client, "slow", 1, 50 + at, sequence_start=True)

    def send(at: int) -> None:
        value = -1 if at == 3 else 10
        try:
            outcomes[at] = told(step(clients[at], "slow", value, 50 + at))
        except InferenceServerException as error:
            outcomes[at] = error.message()

    threads = [threading.Thread(target=send, args=(at,)) for at in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert "too little" in str(outcomes.pop(3))
    assert outcomes == dict.fromkeys((0, 1, 2, 4, 5, 6, 7), 11)
    assert told(step(clients[3], "slow", 10, 53)) == 11


def test_an_end_is_forgotten_after_the_time_that_was_asked_for(start, tmp_path) -> None:
    """With --keep-ends the reason is kept so long, and no longer."""
    models.write_accumulator(tmp_path, "oldest { }", "sums")
    server = start(tmp_path, "--keep-ends=0.2")
    step(server.client(), "sums", 1, 61, sequence_start=True, sequence_end=True)

    with grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        until(lambda: "ended" not in reason(stub, "sums", 61), "the end is forgotten")
