"""A client that knows nothing of Legato: grpcio, method names, and field numbers of the wire.

Its messages are made of bytes here, so that a wrong number in our own messages would show.
"""

from __future__ import annotations

import queue
import threading

import grpc
import pytest
from tests.functional.torchserve.test_archives import LONGER, pack

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
METADATA = (("protocol", "gRPC"), ("session_id", "12345"))


def number(value: int) -> bytes:
    """A varint."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def field(at: int, value: bytes | str) -> bytes:
    """A field of bytes, text or a message."""
    data = value.encode() if isinstance(value, str) else value
    return number(at << 3 | 2) + number(len(data)) + data


def request(model: str, data: bytes, sequence: str = "", **more: bytes) -> bytes:
    """PredictionsRequest: model_name = 1, input = 3 (key = 1, value = 2), sequence_id = 4."""
    parts = [field(1, model)]
    parts += [
        field(3, field(1, key) + field(2, value)) for key, value in {"data": data, **more}.items()
    ]
    return b"".join(parts) + (field(4, sequence) if sequence else b"")


def fields(data: bytes) -> dict[int, bytes | int]:
    """Take a message apart: the last value of each number."""
    found: dict[int, bytes | int] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            found[key >> 3] = varint()
        else:
            assert key & 7 == 2
            size = varint()
            found[key >> 3] = data[at : at + size]
            at += size
    return found


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    pack(folder / "store", "adder", "stateful_handler.py", LONGER)
    return torchserve("--ncs", "--disable-token-auth", "--models", "adder.mar", folder=folder)


@pytest.fixture(scope="module")
def channels(served):
    ports = (served.named["grpc_inference"], served.named["grpc_management"])
    inference, management = (grpc.insecure_channel(f"127.0.0.1:{port}") for port in ports)
    with inference, management:
        yield inference, management


def stream(channels, requests):
    """StreamPredictions2: an iterator of answers, taken apart."""
    call = channels[0].stream_stream(f"{INFERENCE}/StreamPredictions2")
    return call(requests, timeout=60, metadata=METADATA)


@pytest.mark.parametrize("count", [3, 30])
def test_a_finite_iterator_is_answered_to_its_end(channels, count: int) -> None:
    """Several sequences at once: prediction = 1, sequence_id = 2, no status = 3; then OK."""
    names = [f"finite-{count}-{at}" for at in range(count)]
    requests = [request("adder", b"%d\n" % step, name) for step in (1, 2, 3) for name in names]

    call = stream(channels, iter(requests))
    answers = [fields(data) for data in call]

    sums = {name: [a[1] for a in answers if a[2] == name.encode()] for name in names}
    assert sums == {name: [b"1", b"3", b"6"] for name in names}
    assert not any(3 in answer for answer in answers)
    assert call.code() is grpc.StatusCode.OK


def test_an_endless_iterator_is_answered_as_it_goes(channels) -> None:
    """As the example client has it: all at once, its side open until it has as many answers."""
    done = threading.Event()

    def requests():
        for row in (b"1\n", b"2\n", b"3\n"):
            yield request("adder", row, "endless")
        done.wait(60)

    call = stream(channels, requests())
    sums = [fields(next(call))[1] for _ in range(3)]
    done.set()

    assert sums == [b"1", b"3", b"6"]
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_an_endless_iterator_in_lock_step(channels) -> None:
    """Each request waits for the answer before it; a wrong one costs its message only."""
    requests: queue.Queue = queue.Queue()
    call = stream(channels, iter(requests.get, None))
    answers = []
    for row in (b"1", b"2", b"no number", b"4"):
        requests.put(request("adder", row, "lock-step"))
        answers.append(fields(next(call)))
    requests.put(None)

    status = fields(answers[2][3])
    assert [answer.get(1) for answer in answers] == [b"1", b"3", None, b"7"]
    assert (status[1] != 0, status[2]) == (True, b"Prediction failed")
    assert list(call) == []


def test_unary_calls_go_on_with_a_sequence(channels, served) -> None:
    """Predictions, StreamPredictions and REST share it; Ping is JSON in field 1."""
    inference, management = channels
    predictions = inference.unary_unary(f"{INFERENCE}/Predictions")
    streamed = inference.unary_stream(f"{INFERENCE}/StreamPredictions")
    ping = inference.unary_unary(f"{INFERENCE}/Ping")
    described = management.unary_unary(f"{MANAGEMENT}/DescribeModel")

    first = fields(predictions(request("adder", b"1", "unary"), timeout=60))
    second = [fields(one) for one in streamed(request("adder", b"2", "unary"), timeout=60)]
    third = served.step("unary", 3)
    health = fields(ping(b"", timeout=60))
    about = fields(described(field(1, "adder"), timeout=60))

    assert (first[1], [one[1] for one in second], third.text) == (b"1", [b"3"], "6")
    assert health[1] == b'{\n  "status": "Healthy"\n}\n'
    assert b'"modelName": "adder"' in about[1]


def test_flags_are_entries_of_the_input(channels) -> None:
    """A start without id gets one; an end lets the next request begin anew."""
    start = request("adder", b"5", ts_request_sequence_start=b"true")
    (begun,) = map(fields, stream(channels, iter([start])))
    name = begun[2].decode()

    last = request("adder", b"1", name, ts_request_sequence_end=b"true")
    answers = [fields(a)[1] for a in stream(channels, iter([last, request("adder", b"1", name)]))]

    assert name.startswith("ts-seq-")
    assert answers == [b"6", b"1"]
