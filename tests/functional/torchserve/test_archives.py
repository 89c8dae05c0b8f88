"""Handlers as TorchServe's users have them, packed by torch-model-archiver, over every wire."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from tests.functional.torchserve.conftest import ask

HANDLERS = Path(__file__).parents[2] / "models" / "torchserve"
ID = "ts_request_sequence_id"
SHIPPED = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
sequenceMaxIdleMSec: 10
maxNumSequence: 4
maxSequenceJobQueueSize: 10
sequenceBatching: true
handler:
  cache:
    capacity: 4
"""
LONGER = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
sequenceMaxIdleMSec: 60000
maxNumSequence: 64
maxSequenceJobQueueSize: 10
sequenceBatching: true
handler:
  cache:
    capacity: 64
"""
CONTINUOUS = """
minWorkers: 1
maxWorkers: 1
batchSize: 2
sequenceMaxIdleMSec: 30000
sequenceTimeoutMSec: 60000
maxNumSequence: 2
maxSequenceJobQueueSize: 10
sequenceBatching: true
continuousBatching: true
"""
PLAIN = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 4\nresponseTimeout: 2\n"
ODD = """
minWorkers: 2
maxWorkers: 2
batchSize: 4
sequenceMaxIdleMSec: 60000
maxNumSequence: 64
maxSequenceJobQueueSize: 10
responseTimeout: 2
sequenceBatching: true
"""


ENDLESS = """
import time

CALLS = [0]


def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row.get("data") or row.get("body") or b"") for row in data]
    context.stopping_criteria = [None if body == b"count" else lambda _: False for body in bodies]
    if b"count" not in bodies or len(bodies) > 1:
        CALLS[0] += 1
        time.sleep(0.01)
    return [str(CALLS[0]) for _ in bodies]
"""


def pack(
    store: Path, name: str, handler: str | Path, config: str, form: str = "default", more=()
) -> None:
    """Run torch-model-archiver as its users do."""
    store.mkdir(exist_ok=True)
    (store.parent / f"{name}.yaml").write_text(config)
    arguments = [
        "--model-name", name, "--version", "1.0", "--handler", str(HANDLERS / handler),
        "--config-file", str(store.parent / f"{name}.yaml"), "--export-path", str(store),
        "--archive-format", form, "--force", *more,
    ]  # fmt: skip
    tool = Path(sys.executable).with_name("torch-model-archiver")
    subprocess.run([str(tool), *arguments], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    """All archives in one server, which keeps its sequences."""
    folder = tmp_path_factory.mktemp("archives")
    store = folder / "store"
    pack(store, "shipped", "stateful_handler.py", SHIPPED)
    pack(store, "adder", "stateful_handler.py", LONGER, "tgz")
    pack(store, "sessions", "continuous_handler.py", CONTINUOUS)
    pack(store, "odd", "odd_handler.py", ODD)
    pack(store, "plain", "odd_handler.py", PLAIN, "no-archive")
    (folder / "endless.py").write_text(ENDLESS)
    pack(store, "endless", folder / "endless.py", CONTINUOUS)
    words = ("--ncs", "--disable-token-auth", "--models", "all", "--data", "kept")
    return torchserve(*words, folder=folder)


@pytest.fixture
def client(served):
    made = served.client()
    yield made
    made.close()


@pytest.fixture
def name(request) -> str:
    return request.node.name


# -- running sums --------------------------------------------------


def test_the_shipped_example_gives_1_3_6(client, name) -> None:
    """With its own 10 ms idle limit: what is on its way is not idle."""
    assert client.infer_stream2("shipped", name, b"1\n", b"2\n", b"3\n") == ["1", "3", "6"]


def test_interleaved_sequences_have_their_own_sums(served, client) -> None:
    """TorchServe's own check, over gRPC and REST: more live sequences than ``batchSize``."""
    rows = {f"i{at}": range(at, at + 10, 2) for at in range(12)}
    requests = [
        client.message("adder", b"%d" % values[step], one)
        for step in range(5)
        for one, values in rows.items()
    ]

    totals: dict[str, list[int]] = {}
    for answer in client.stream(iter(requests)):
        totals.setdefault(answer.sequence_id, []).append(int(answer.prediction))

    for one, values in rows.items():
        assert totals[one] == [sum(values[: step + 1]) for step in range(5)]
        assert served.step(one, 1).text == str(sum(values) + 1)


def test_a_lone_client_does_not_wait_for_company(client, name) -> None:
    """Without ``maxBatchDelay`` a lock-step client gets far more than nine steps a second."""
    requests: queue.Queue = queue.Queue()
    answers = client.stream(iter(requests.get, None))
    began = time.perf_counter()

    for _ in range(200):
        requests.put(client.message("adder", b"1", name))
        last = next(answers)
    seconds = time.perf_counter() - began
    requests.put(None)

    assert last.prediction == b"200"
    assert seconds < 200 / 9 / 2  # a generous bound: this is no benchmark


def test_killed_workers_come_back_and_sums_go_on(served, client, name) -> None:
    """All of a model's workers at once, mid-stream; TorchServe never starts them again."""
    requests: queue.Queue = queue.Queue()
    answers = client.stream(iter(requests.get, None), timeout=60)

    totals = []
    for at in range(1, 21):
        if at in (5, 12):
            for pid in pids(served, "adder"):
                os.kill(pid, signal.SIGKILL)
        requests.put(client.message("adder", b"1", name))
        answer = next(answers)
        totals.append(answer.prediction or answer.status.message)
    requests.put(None)

    assert totals == [b"%d" % at for at in range(1, 21)]


def test_a_killed_server_comes_back_and_sums_go_on(served, name) -> None:
    """``kill -9`` of the serving process; the same archive, no line changed."""
    for _ in range(3):
        served.step(name, 1)

    os.kill(served.pid, signal.SIGKILL)
    served.await_ready(times=len(served.lines) + 1)

    assert served.step(name, 1).text == "4"


def pids(served, model: str) -> list[int]:
    (found,) = served.get("management", f"/models/{model}").json
    return [worker["pid"] for worker in found["workers"] if worker["pid"] > 1]  # 0 = is dead


# -- failures --------------------------------------------------


def test_a_handler_error_fails_one_row_over_every_wire(served, client, name) -> None:
    """Its text and code; other sequences, the worker and the stream go on."""
    rows = [(name, b"a"), (name, b"raise"), (f"{name}2", b"a"), (name, b"predict"), (name, b"a")]

    answers = list(client.stream(iter([client.message("odd", row, one) for one, row in rows])))
    rest = served.post("/predictions/odd", b"predict", **{ID: name})
    with pytest.raises(grpc.RpcError) as caught:
        client.predict("odd", b"memory", name)

    mine = [a.status.message for a in answers if a.sequence_id == name]
    assert mine == ["", "Prediction failed", "teapot", ""]
    assert [a.status.message for a in answers if a.sequence_id != name] == [""]
    assert (rest.status, rest.json["message"]) == (418, "teapot")
    assert caught.value.details().startswith("Out of resources\n")


def test_what_a_handler_sets_reaches_the_client(served, client) -> None:
    """Status, content type and headers."""
    found = served.post("/predictions/plain", b"meta")

    assert (found.status, found.headers["content-type"]) == (201, "text/x")
    assert found.headers["x-rows"] == "1"
    body = json.loads(client.predict("plain", b"meta").prediction)
    assert body["rows"] == 1


def test_a_handler_that_takes_too_long_is_told_and_replaced(served) -> None:
    """500 after ``responseTimeout``; the next request is answered."""
    slow = served.post("/predictions/plain", b"sleep 30")
    after = served.post("/predictions/plain", b"a")

    assert (slow.status, slow.json["message"]) == (500, "Worker died.")
    assert after.status == 200


@pytest.mark.parametrize(("word", "status"), [(b"die", 507), (b"exit 3", 500)])
def test_a_request_that_ends_its_worker_is_told(served, name, word: bytes, status: int) -> None:
    """507 where it was killed, else 500; the sequence goes on in another one."""
    served.post("/predictions/odd", b"a", **{ID: name})

    killed = served.post("/predictions/odd", word, **{ID: name})

    assert (killed.status, killed.json["message"]) == (status, "Worker died.")
    assert served.post("/predictions/odd", b"a", **{ID: name}).status == 200


def test_scaling_down_and_up_loses_no_sequence(served, name) -> None:
    """Under load; TorchServe's removed workers swallow later sequences."""
    stop = threading.Event()
    problems: list[str] = []

    def load(one: str) -> None:
        total = 0
        while not stop.is_set():
            total += 1
            answer = served.step(one, 1)
            if answer.text != str(total):
                problems.append(f"{one}: {answer.text} is not {total}")
                return

    threads = [threading.Thread(target=load, args=(f"{name}{at}",)) for at in range(6)]
    for thread in threads:
        thread.start()
    texts = []
    for count in (1, 3, 2):
        url = served.url("management", f"/models/adder?min_worker={count}&synchronous=true")
        texts.append(ask("PUT", url).json["status"])
        time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(60)

    assert problems == []
    assert texts == [f"Workers scaled to {count} for model: adder" for count in (1, 3, 2)]
    assert len(pids(served, "adder")) == 2


# -- sessions --------------------------------------------------


def test_a_session_opens_streams_and_ends(served) -> None:
    """Plain answers, a chunked one, the end header; then the id begins anew."""
    opened = served.post("/predictions/sessions", b"2")
    one = opened.headers[ID]
    plain = [served.step(one, n, model="sessions").text for n in (4, 6)]
    streamed = served.step(one, 3, model="sessions")
    ended = served.step(one, 0, model="sessions")

    assert (opened.text, plain) == ("2", ["6", "12"])
    assert streamed.text == "15" * 5
    assert streamed.headers["ts_stream_next"] == "true"
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert (ended.text, ended.headers["ts_request_sequence_end"]) == ("15", one)


def test_all_chunks_come_over_grpc(client, name) -> None:
    """Where TorchServe stops after the first one."""
    found = [a.prediction for a in client.infer_stream("sessions", b"3", name)]
    requests = iter([client.message("sessions", b"5", name)])
    on_stream = [a.prediction for a in client.stream(requests)]
    client.predict("sessions", b"0", name)

    assert found == [b"3"] * 5
    assert on_stream == [b"8"] * 5


def test_sessions_come_and_go_beyond_their_number(served) -> None:
    """``maxNumSequence`` is 2: each end makes room."""
    for _ in range(4):
        one = served.post("/predictions/sessions", b"2").headers[ID]
        assert served.step(one, 0, model="sessions").text == "2"


def test_a_client_that_leaves_a_stream_costs_nothing(served, name) -> None:
    """The next request of the session is answered."""
    url = served.url("inference", "/predictions/sessions")
    request = urllib.request.Request(url, b"3", {ID: name, "content-type": "x/y"})  # noqa: S310
    answer = urllib.request.urlopen(request, timeout=30)  # noqa: S310
    answer.read(1)
    answer.close()

    found = served.step(name, 2, model="sessions")
    served.step(name, 0, model="sessions")

    assert re.fullmatch(r"5+", found.text)


@pytest.mark.parametrize("wire", ["gRPC", "REST"])
def test_a_stream_whose_client_left_stops(served, client, wire: str) -> None:
    """An endless one, too: the handler is not called for it any more."""
    if wire == "gRPC":
        answers = client.infer_stream("endless", b"go", "left")
        for _ in range(3):
            next(answers)
        answers.cancel()
    else:
        url = served.url("inference", "/predictions/endless")
        request = urllib.request.Request(url, b"go", {ID: "left", "content-type": "x/y"})  # noqa: S310
        answer = urllib.request.urlopen(request, timeout=30)  # noqa: S310
        answer.read(3)
        answer.close()

    def count() -> int:
        end = {"ts_request_sequence_end": "true"}
        kind = {ID: "asks", "content-type": "x/y", **end}
        return int(
            ask("POST", served.url("inference", "/predictions/endless"), b"count", **kind).text
        )

    until = time.monotonic() + 20
    before, now = -1, count()
    while before != now:
        assert time.monotonic() < until, "the handler is still called"
        time.sleep(0.3)
        before, now = now, count()
    assert now >= 1
