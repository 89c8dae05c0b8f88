"""Triton's own clients run sequences, over every transport they have."""

from __future__ import annotations

import asyncio

import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from tritonclient.utils import InferenceServerException


@pytest.fixture
def grpc_client(server):
    client = triton_grpc.InferenceServerClient(server)
    yield client
    client.close()


@pytest.fixture
def http_client(server):
    client = triton_http.InferenceServerClient(server)
    yield client
    client.close()


def number(result) -> float:
    return float(result.as_numpy("OUTPUT")[0, 0])


@pytest.mark.parametrize("kind", ["int", "text"])
def test_sequence_over_grpc(grpc_client, tools, fresh_id, kind) -> None:
    """Ids may be numbers or text; the reply has id, version and step number."""
    sequence = fresh_id if kind == "int" else f"text-{fresh_id}"

    results = [
        grpc_client.infer(
            "accumulator",
            tools.grpc_input(value),
            request_id=f"r{value}",
            sequence_id=sequence,
            sequence_start=value == 1,
            sequence_end=value == 3,
        )
        for value in (1, 2, 3)
    ]

    assert [number(result) for result in results] == [1, 3, 6]
    response = results[2].get_response()
    assert (response.id, response.model_version) == ("r3", "1")
    assert response.parameters["sequence_step"].int64_param == 3


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
def test_sequence_over_http(http_client, tools, fresh_id, binary, packing) -> None:
    """Binary tensors and JSON, compressed and not, both ways."""
    outputs = [triton_http.InferRequestedOutput("OUTPUT", binary_data=binary)]

    results = [
        http_client.infer(
            "accumulator",
            tools.http_input(value, binary=binary),
            outputs=outputs,
            request_id="r",
            sequence_id=fresh_id,
            sequence_start=value == 1,
            request_compression_algorithm=packing,
            response_compression_algorithm=packing,
        )
        for value in (1, 2)
    ]

    assert [number(result) for result in results] == [1, 3]
    assert results[1].get_response()["id"] == "r"


def test_sequence_goes_on_over_another_transport(grpc_client, http_client, tools, fresh_id) -> None:
    """Begun unary, continued over REST and a stream, ended unary: one state."""
    options = {"sequence_id": fresh_id}
    first = grpc_client.infer("accumulator", tools.grpc_input(1), sequence_start=True, **options)
    second = http_client.infer("accumulator", tools.http_input(2), **options)
    stream = tools.Stream(grpc_client)
    stream.send(4, fresh_id)
    third, _ = stream.next()
    grpc_client.stop_stream()
    last = http_client.infer("accumulator", tools.http_input(8), sequence_end=True, **options)

    assert [number(result) for result in (first, second, third, last)] == [1, 3, 7, 15]


def test_numbers_and_text_are_different_ids(grpc_client, tools, fresh_id) -> None:
    """7 is not "7"."""
    for sequence, value in ((fresh_id, 1), (str(fresh_id), 10)):
        grpc_client.infer(
            "accumulator", tools.grpc_input(value), sequence_id=sequence, sequence_start=True
        )

    results = [
        grpc_client.infer("accumulator", tools.grpc_input(1), sequence_id=sequence)
        for sequence in (fresh_id, str(fresh_id))
    ]

    assert [number(result) for result in results] == [2, 11]


def test_many_sequences_interleaved_on_one_stream(grpc_client, tools, fresh_id) -> None:
    """Steps are sent ahead; every sequence has its own sum and its own order."""
    stream = tools.Stream(grpc_client)
    sequences, steps = 20, 15
    for step in range(steps):
        for sequence in range(sequences):
            stream.send(
                sequence + 1,
                fresh_id + sequence,
                request_id=f"{sequence}",
                sequence_start=step == 0,
            )

    sums: dict[str, list[float]] = {}
    for _ in range(sequences * steps):
        result, error = stream.next()
        assert error is None
        sums.setdefault(result.get_response().id, []).append(number(result))
    grpc_client.stop_stream()

    for sequence in range(sequences):
        assert sums[str(sequence)] == [(sequence + 1) * n for n in range(1, steps + 1)]


def test_failed_request_leaves_the_stream_open(grpc_client, tools, fresh_id) -> None:
    """A step without START fails with Triton's text; the next request works."""
    stream = tools.Stream(grpc_client)
    stream.send(1, fresh_id)
    _, error = stream.next()
    stream.send(5, fresh_id, sequence_start=True)
    result, no_error = stream.next()
    grpc_client.stop_stream()

    assert (
        f"inference request for sequence {fresh_id} to model 'accumulator' must specify the START "
        "flag on the first request of the sequence" in str(error)
    )
    assert no_error is None
    assert number(result) == 5


def test_half_closed_stream_keeps_its_sequences(grpc_client, tools, fresh_id) -> None:
    """Stopping a stream ends no sequence."""
    stream = tools.Stream(grpc_client)
    for value in (1, 2):
        stream.send(value, fresh_id, sequence_start=value == 1)
    grpc_client.stop_stream()
    answers = [stream.next()[0] for _ in range(2)]

    result = grpc_client.infer("accumulator", tools.grpc_input(3), sequence_id=fresh_id)

    assert [number(answer) for answer in answers] == [1, 3]
    assert number(result) == 6


async def test_async_grpc_client(server, tools, fresh_id) -> None:
    """Unary and streaming over grpc.aio."""

    async def requests():
        for value in (2, 3):
            yield {
                "model_name": "accumulator",
                "inputs": tools.grpc_input(value),
                "sequence_id": fresh_id,
            }

    async with triton_grpc_aio.InferenceServerClient(server) as client:
        first = await client.infer(
            "accumulator", tools.grpc_input(1), sequence_id=fresh_id, sequence_start=True
        )
        streamed = [number(result) async for result, _ in client.stream_infer(requests())]

    assert [number(first), *streamed] == [1, 3, 6]


async def test_async_http_client(server, tools, fresh_id) -> None:
    """Many sequences at once over HTTP."""
    async with triton_http_aio.InferenceServerClient(server) as client:

        async def sequence(at: int) -> list[float]:
            return [
                number(
                    await client.infer(
                        "accumulator",
                        tools.http_input(value),
                        sequence_id=fresh_id + at,
                        sequence_start=value == 1,
                    )
                )
                for value in (1, 2, 3)
            ]

        sums = await asyncio.gather(*[sequence(at) for at in range(8)])

    assert sums == [[1, 3, 6]] * 8


def test_questions_over_both_transports_agree(grpc_client, http_client) -> None:
    """Health, metadata, config and statistics."""
    for client in (grpc_client, http_client):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("accumulator")
        assert not client.is_model_ready("other")
    metadata = grpc_client.get_model_metadata("accumulator", as_json=True)
    assert metadata["inputs"][0]["shape"] == ["-1", "1"]
    config = http_client.get_model_config("accumulator")
    assert "sequence_batching" in config
    stats = grpc_client.get_inference_statistics("accumulator", as_json=True)["model_stats"][0]
    assert (stats["name"], int(stats["version"])) == ("accumulator", 1)
    index = http_client.get_model_repository_index()
    assert index[0]["state"] == "READY"


def test_what_is_not_offered_is_refused(grpc_client, http_client) -> None:
    """A clear text instead of a hang."""
    with pytest.raises(InferenceServerException, match="shared memory"):
        grpc_client.get_system_shared_memory_status()
    with pytest.raises(InferenceServerException, match="explicit model load"):
        grpc_client.load_model("accumulator")
    with pytest.raises(InferenceServerException, match="explicit model load"):
        http_client.unload_model("accumulator")
