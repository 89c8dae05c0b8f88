"""``useJobTicket`` and ``clientTimeoutInMills``, with sequences, over every wire."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from tests.functional.torchserve.test_archives import ID, LONGER, ODD, pack

ONE = ODD.replace("Workers: 2", "Workers: 1").replace("responseTimeout: 2", "responseTimeout: 20")


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    pack(folder / "store", "ticket", "odd_handler.py", ONE + "useJobTicket: true\n")
    pack(folder / "store", "hasty", "odd_handler.py", ONE + "clientTimeoutInMills: 400\n")
    slow = LONGER.replace("Workers: 2", "Workers: 1") + "maxBatchDelay: 3000\n"
    pack(folder / "store", "patient", "stateful_handler.py", slow)
    return torchserve("--ncs", "--disable-token-auth", "--models", "all", folder=folder)


@pytest.fixture
def client(served):
    made = served.client()
    yield made
    made.close()


def test_a_job_ticket_is_given_while_a_worker_is_idle(served, client) -> None:
    """TorchServe refuses everything with sequences; here only what would have to wait."""

    def ask(word: str, name: str):
        return served.post("/predictions/ticket", word.encode(), **{ID: name})

    with ThreadPoolExecutor(1) as pool:
        idle = ask("a", "one")
        slow = pool.submit(ask, "sleep 2", "one")
        time.sleep(0.5)
        began = time.monotonic()
        refused = ask("a", "two")
        (on_stream,) = client.stream(iter([client.message("ticket", b"a", "two")]))
        waited_s = time.monotonic() - began
        slow_status = slow.result().status

    assert (idle.status, slow_status, ask("a", "two").status) == (200, 200, 200)
    assert refused.status == 503
    assert "every worker is busy" in refused.json["message"]
    assert "every worker is busy" in on_stream.status.message
    assert waited_s < 1.4


def test_a_client_is_told_that_its_time_is_over(served, client) -> None:
    """Where TorchServe lets it hang; the late answer is dropped, the sequence goes on."""
    began = time.monotonic()
    rest = served.post("/predictions/hasty", b"sleep 2", **{ID: "rest"})
    rest_s = time.monotonic() - began
    with pytest.raises(grpc.RpcError) as caught:
        client.predict("hasty", b"sleep 1", "unary")
    (on_stream,) = client.stream(iter([client.message("hasty", b"sleep 1", "stream")]))
    time.sleep(2)  # the worker is busy with what nobody waits for any more
    after = served.post("/predictions/hasty", b"a", **{ID: "rest"})

    assert (rest.status, rest.json["message"]) == (
        504, "the answer did not come within clientTimeoutInMills",
    )  # fmt: skip
    assert 0.3 < rest_s < 1.8
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert on_stream.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert (after.status, after.json["count"]) == (200, 2)


def test_a_batch_waits_for_sequences_that_live_and_for_no_others(served) -> None:
    """``maxBatchDelay`` is the longest wait: nobody waits alone, nor when all have come."""

    def step(name: str) -> str:
        return served.step(name, 1, model="patient").text

    began = time.monotonic()
    alone = [step("one") for _ in range(3)]
    lone_s = time.monotonic() - began
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(step, ("one", "two")))
        began = time.monotonic()
        together = list(pool.map(step, ("one", "two")))
        together_s = time.monotonic() - began
    began = time.monotonic()
    step("one")  # 'two' lives, and says nothing
    waited_s = time.monotonic() - began

    assert (alone, together) == (["1", "2", "3"], ["5", "2"])
    assert lone_s < 2.9
    assert together_s < 2.9
    assert 2.5 < waited_s < 20
