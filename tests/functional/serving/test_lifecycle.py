"""Draining, dying and being started again."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from pathlib import Path

import grpc
import pytest
from tests.functional.conftest import start
from tests.functional.serving.models import caller, count, infer, request, write_counter

TIMEOUT_S = 20
HEALTH = "/grpc.health.v1.Health/Check"


@pytest.fixture
def served(tmp_path):
    """A counter of one's own."""
    served = start(write_counter(tmp_path))
    served.await_ready()
    yield served
    served.close()


def await_gone(pid: int) -> None:
    """Wait until a process is no more (or is only waiting to be reaped)."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if text.rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.02)
    pytest.fail(f"process {pid} is still there")


def await_true(check) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def running(served) -> int:
    """Count the sequences with a step in a model call."""
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=TIMEOUT_S) as page:  # noqa: S310
        lines = page.read().decode().splitlines()
    gauges = [line for line in lines if line.startswith("legato_sequences_running{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in gauges)


def serving(channel) -> bool:
    return channel.unary_unary(HEALTH)(b"", timeout=TIMEOUT_S) == b"\x08\x01"


def test_a_step_in_flight_is_answered_before_the_server_stops(served) -> None:
    """While it drains it is not ready, and new steps are refused with a reason."""
    with grpc.insecure_channel(served.address) as channel:
        infer(channel, request(1, start=True))
        slow = caller(channel).future(request(1, sleep_ms=1500), timeout=TIMEOUT_S)
        await_true(lambda: running(served) == 1)

        served.process.send_signal(signal.SIGTERM)
        await_true(lambda: not serving(channel))
        with pytest.raises(grpc.RpcError) as refused:
            infer(channel, request(2, start=True))

        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert count(slow.result(TIMEOUT_S)) == 2
    assert served.wait() == 0
    await_gone(served.pid)


def test_a_second_signal_stops_at_once(served) -> None:
    """Whoever insists does not wait for a slow step."""
    with grpc.insecure_channel(served.address) as channel:
        slow = caller(channel).future(request(1, sleep_ms=8000, start=True), timeout=TIMEOUT_S)
        await_true(lambda: running(served) == 1)
        began = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        await_true(lambda: not serving(channel))
        code = served.stop(signal.SIGINT)

        assert time.monotonic() - began < 4
        assert code == 1
        assert slow.exception(TIMEOUT_S) is not None
    await_gone(served.pid)


def test_an_idle_server_stops_quickly(served) -> None:
    """There is nothing to wait for, though a stream is open."""
    with grpc.insecure_channel(served.address) as channel:
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=TIMEOUT_S)
        next(watch)
        began = time.monotonic()

        assert served.stop() == 0
        assert time.monotonic() - began < 4


def test_a_process_that_dies_is_started_again_on_its_port(served) -> None:
    """It is said, counted, and clients find the new one where the old one was."""
    ports, pid = served.ports, served.pid

    os.kill(pid, signal.SIGKILL)
    ready = served.await_ready(times=2)

    assert ready["ports"] == ports
    assert ready["pid"] != pid
    assert ready["restarts"] == 1
    assert "was killed by SIGKILL; start 2" in served.errors
    with grpc.insecure_channel(served.address) as channel:
        assert infer(channel, request(1, start=True)) == 1
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=TIMEOUT_S) as page:  # noqa: S310
        assert b"legato_restarts_total 1.0" in page.read()


def test_a_model_that_breaks_later_does_not_end_the_supervisor(served, tmp_path) -> None:
    """A restart that fails is tried again, until the cause is gone."""
    config = tmp_path / "counter" / "model.yaml"
    good = config.read_text()

    config.write_text("runtime: nonsense\n")
    os.kill(served.pid, signal.SIGKILL)
    await_true(lambda: "start 3" in served.errors)
    config.write_text(good)

    assert served.await_ready(times=2)["restarts"] >= 2
    assert "model.yaml" in served.errors


def test_the_server_dies_with_its_supervisor(served) -> None:
    """Nothing is left that holds the port."""
    served.process.send_signal(signal.SIGKILL)

    await_gone(served.pid)
    await_true(lambda: can_listen(served.port))
