"""Triton's Python models behind ``legato triton``, asked by Triton's own clients."""

from __future__ import annotations

import os
import queue
import signal
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http.aio as http_aio
from tests.functional.triton.conftest import until
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

from triton_python_kit import MODELS

SERVED = (
    "adder_by_id", "adder_by_text", "adder_by_slot", "adder_hidden", "repeat_int32", "tokens",
    "countdown", "moody",
)  # fmt: skip
WAIT_S = 30


@pytest.fixture(scope="module")
def server(triton):
    """One server for the module; each test takes ids of its own."""
    loads = [f"--load-model={name}" for name in SERVED]
    return triton(MODELS, "--model-control-mode=explicit", *loads)


def given(kind, **values):
    """Make inputs of arrays."""
    types = {"i": "INT32", "u": "UINT32", "O": "BYTES"}
    made = []
    for name, value in values.items():
        tensor = kind.InferInput(name, list(value.shape), types[value.dtype.kind])
        tensor.set_data_from_numpy(value)
        made.append(tensor)
    return made


def row(value: int):
    return np.array([[value]], np.int32)


def total(result) -> int:
    return int(result.as_numpy("OUTPUT").item())


@pytest.mark.parametrize(
    ("model", "one", "two"),
    [("adder_by_id", 1001, 1002), ("adder_by_text", "s-1", "s-2"), ("adder_by_slot", 1003, 1004)],
)
def test_sums_over_unary_grpc_and_http(server, model: str, one, two) -> None:
    """Interleaved sequences, each step by another protocol, have their own sums."""
    clients = [(grpc, server.client()), (http, http.InferenceServerClient(server.http))]
    steps = [(2, "start"), (20, ""), (200, ""), (2000, "end")]

    found = {one: [], two: []}
    for at, (value, flag) in enumerate(steps):
        for factor, name in ((1, one), (2, two)):
            kind, client = clients[at % 2]
            result = client.infer(
                model, given(kind, INPUT=row(factor * value)), sequence_id=name,
                sequence_start=flag == "start", sequence_end=flag == "end",
            )  # fmt: skip
            found[name].append(total(result))

    assert found == {one: [2, 22, 222, 2222], two: [4, 44, 444, 4444]}


class Stream:
    """A stream whose answers can be waited for."""

    def __init__(self, client) -> None:
        self.client = client
        self.answers: queue.Queue = queue.Queue()
        client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, model: str, **options) -> None:
        values = {name: options.pop(name) for name in list(options) if name.isupper()}
        self.client.async_stream_infer(model, given(grpc, **values), **options)

    def next(self):
        """Return the next result; an error is raised."""
        result, error = self.answers.get(timeout=WAIT_S)
        if error is not None:
            raise error
        return result


@pytest.fixture
def stream(server):
    """A stream of the test's own."""
    client = server.client()
    yield Stream(client)
    client.stop_stream()


def said(result) -> tuple[str, bool]:
    """Request id and final flag of an answer."""
    response = result.get_response()
    return response.id, response.parameters["triton_final_response"].bool_param


def test_sums_over_a_stream(stream) -> None:
    """Steps sent without waiting are answered in order, each sequence with its own sum."""
    for value in range(1, 6):
        for name in (2001, 2002):
            stream.send(
                "adder_by_id", INPUT=row(value * (name - 2000)), sequence_id=name,
                sequence_start=value == 1, sequence_end=value == 5, request_id=f"{name}-{value}",
            )  # fmt: skip
    results = [stream.next() for _ in range(10)]

    sums = {said(result)[0]: total(result) for result in results}
    assert [sums[f"2001-{n}"] for n in range(1, 6)] == [1, 3, 6, 10, 15]
    assert [sums[f"2002-{n}"] for n in range(1, 6)] == [2, 6, 12, 20, 30]
    assert all(said(result)[1] for result in results)


async def test_sums_over_both_asyncio_clients(server) -> None:
    """A sequence goes on from one client to the other."""
    async with (
        grpc_aio.InferenceServerClient(server.grpc) as first,
        http_aio.InferenceServerClient(server.http) as second,
    ):
        sums = [
            total(
                await client.infer(
                    "adder_by_slot",
                    given(kind, INPUT=row(value)),
                    sequence_id=3001,
                    sequence_start=value == 1,
                )
            )
            for kind, client, value in ((grpc, first, 1), (http, second, 2), (grpc, first, 3))
        ]

    assert sums == [1, 3, 6]


def test_decoupled_responses_and_the_final_flag(stream) -> None:
    """A response for each number, in order, none of them final; then an empty one that is."""
    stream.send(
        "repeat_int32", IN=np.int32([4, 2, 0]), DELAY=np.uint32([1, 1, 1]), WAIT=np.uint32([0]),
        request_id="r", enable_empty_final_response=True,
    )  # fmt: skip
    results = [stream.next() for _ in range(4)]

    assert [said(result) for result in results] == [("r", False)] * 3 + [("r", True)]
    assert [result.as_numpy("OUT").tolist() for result in results[:3]] == [[4], [2], [0]]
    assert [result.as_numpy("IDX").tolist() for result in results[:3]] == [[0], [1], [2]]
    assert not results[3].get_response().outputs


def test_decoupled_models_are_asked_by_streams_only(server) -> None:
    """A unary call is told so, in Triton's words."""
    inputs = given(grpc, IN=np.int32([1]), DELAY=np.uint32([0]), WAIT=np.uint32([0]))

    with pytest.raises(InferenceServerException, match="decoupled transaction policy"):
        server.client().infer("repeat_int32", inputs)


def test_tokens_arrive_one_by_one(stream) -> None:
    """A decoupled iterative model: each round an answer, the last one final."""
    stream.send("tokens", INPUT=row(4), request_id="t")
    results = [stream.next() for _ in range(4)]

    assert [total(result) for result in results] == [3, 2, 1, 0]
    assert [said(result) for result in results] == [("t", False)] * 3 + [("t", True)]


def test_iterative_request_needs_no_sequence(server) -> None:
    """Clients send neither ids nor flags; the answer echoes the request's id."""
    result = server.client().infer("countdown", given(grpc, INPUT=row(6)), request_id="c")

    assert (total(result), result.get_response().id) == (6, "c")


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [
        ("invalid", "StatusCode.INVALID_ARGUMENT", "not like this"),
        ("error", "StatusCode.INTERNAL", "no"),
        ("raise", "StatusCode.INTERNAL", "message: ValueError: boom"),
    ],
)
def test_errors_have_the_model_s_words_and_code(server, what, status, text) -> None:
    """What a model says reaches the client by both protocols."""
    value = np.array([[what.encode()]], object)

    with pytest.raises(InferenceServerException) as by_grpc:
        server.client().infer("moody", given(grpc, WHAT=value))
    with pytest.raises(InferenceServerException) as by_http:
        http.InferenceServerClient(server.http).infer("moody", given(http, WHAT=value))

    assert by_grpc.value.status() == status
    assert text in by_grpc.value.message()
    assert text in by_http.value.message()


def workers(server) -> set[int]:
    """Processes that the serving process started."""
    found = Path(f"/proc/{server.served.pid}/task").glob("*/children")
    return {int(pid) for each in found for pid in each.read_text().split()}


def test_killed_workers_cost_no_sum(server) -> None:
    """Every worker killed at once: kept sums go on, hidden ones end, and say how."""
    client = server.client()
    for model, name in (("adder_by_id", 5001), ("adder_by_slot", 5002), ("adder_hidden", 5003)):
        client.infer(model, given(grpc, INPUT=row(1)), sequence_id=name, sequence_start=True)
    old = workers(server)

    for pid in old:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(workers(server) - old) == len(SERVED), "the workers are back")
    sums = [
        total(client.infer(model, given(grpc, INPUT=row(1)), sequence_id=name))
        for model, name in (("adder_by_id", 5001), ("adder_by_slot", 5002))
    ]
    with pytest.raises(InferenceServerException) as lost:
        client.infer("adder_hidden", given(grpc, INPUT=row(1)), sequence_id=5003)
    tensor = {"name": "INPUT", "datatype": "INT32", "shape": [1, 1], "data": [1]}
    body = {"parameters": {"sequence_id": 5003}, "inputs": [tensor]}
    told = httpx.post(f"http://{server.http}/v2/models/adder_hidden/infer", json=body)

    assert sums == [2, 2]
    assert "must specify the START flag on the first request" in lost.value.message()
    assert told.headers["legato-reason"] == "lost"


def test_killed_server_costs_no_sum(start, tmp_path) -> None:
    """What is kept by id goes on after ``kill -9``; what is hidden is told to be lost."""
    flags = ("--model-control-mode=explicit", "--load-model=adder_by_text",
             "--load-model=adder_hidden", f"--data={tmp_path}")  # fmt: skip
    first = start(MODELS, *flags)
    for model, name in (("adder_by_text", "long"), ("adder_hidden", 1)):
        for at in range(3):
            first.client().infer(
                model, given(grpc, INPUT=row(5)), sequence_id=name, sequence_start=at == 0
            )
    os.kill(first.served.pid, signal.SIGKILL)
    first.served.close()

    client = start(MODELS, *flags).client()
    kept = client.infer("adder_by_text", given(grpc, INPUT=row(5)), sequence_id="long")
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        client.infer("adder_hidden", given(grpc, INPUT=row(5)), sequence_id=1)

    assert total(kept) == 20


def test_models_own_metrics_are_on_the_metrics_page(server) -> None:
    """Under the name and the labels that the model gave them."""
    server.client().infer("moody", given(grpc, WHAT=np.array([[b"fine"]], object)))

    page = httpx.get(f"http://{server.metrics}/metrics").text

    line = next(line for line in page.splitlines() if line.startswith("moods_total"))
    assert line.startswith('moods_total{model="moody"} ')
    assert float(line.split()[1]) >= 1


def test_model_config_tells_what_was_written(server) -> None:
    """ModelConfig and metadata of a Python model, as perf_analyzer reads them."""
    client = server.client()

    config = client.get_model_config("adder_by_id", as_json=True)["config"]
    metadata = client.get_model_metadata("adder_by_id", as_json=True)

    assert config["backend"] == "python"
    assert len(config["sequence_batching"]["control_input"]) == 4
    assert [each["name"] for each in metadata["inputs"]] == ["INPUT"]
    assert metadata["inputs"][0]["shape"] == ["-1", "1"]
