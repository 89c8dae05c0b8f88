"""Model Server's cases of its sequence cleaner, as black boxes: 17 to 20, with limits of seconds.

What the cleaner does is told by the metric of live sequences: a request would keep its
sequence alive.
"""

from __future__ import annotations

import itertools
import json
import socket
import time

import numpy as np
import pytest

WAIT_S = 60


@pytest.fixture(scope="module")
def turns(kit):
    """How much work keeps the laborious model busy for eight seconds, if nobody else works."""
    native, some = kit.models.Native(kit.models.laborious()), 20_000
    native.step(1, x=np.float32([[1]]))
    began = time.perf_counter()
    native.step(1, x=np.float32([[some]]))
    return int(8 / (time.perf_counter() - began) * some)


def stateful(name, folder, **more):
    return {"name": name, "base_path": folder, "stateful": True, **more}


def answer(pending, kit):
    return float(kit.read_answer(pending.result())["y"][0, 0])


def test_a_scan_passes_over_running_and_waiting_requests(
    start, kit, tmp_path, client, turns
) -> None:
    """18, 19: what was inside before the scan succeeds, and its sequence lives on."""
    kit.save(tmp_path, "laborious", kit.models.laborious())
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(
        tmp_path / "config.json",
        stateful("laborious", "laborious", sequence_timeout_seconds=2),
        stateful("summator", "summator", sequence_timeout_seconds=2),
    )
    server = start("--config_path", path)
    slow, idle = client(server, model="laborious"), client(server)
    slow.start(1, 5000)
    slow.start(2, 1)
    idle.start(1)

    running = slow.send(turns, 1)
    kit.until(lambda: server.metrics_of("legato_sequences_running", "laborious"), "it runs")
    waiting = slow.send(1, 2)
    kit.until(lambda: server.live("summator") == 0, "a scan", WAIT_S)
    still_running = not (running.done() or waiting.done())
    sums = [answer(running, kit), answer(waiting, kit)]

    assert still_running, "the scan must come while the step runs"
    assert sums == [5000 + turns, 2]
    assert [slow.step(1, 1), slow.step(1, 2)] == [(5001 + turns, 1), (3, 2)]


def test_a_request_that_gets_in_after_the_scan_is_too_late(start, kit, tmp_path, client) -> None:
    """19: it had begun to arrive, and had not been looked up yet."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(
        tmp_path / "config.json", stateful("summator", "summator", sequence_timeout_seconds=1)
    )
    server = start("--config_path", path)
    client(server).start(7)
    body = json.dumps({"inputs": {"x": [[1]], kit.ID: [7]}}).encode()
    head = "POST /v1/models/summator:predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"

    with socket.create_connection(("127.0.0.1", server.rest_port), WAIT_S) as waiting:
        waiting.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
        kit.until(lambda: server.live("summator") == 0, "a scan", WAIT_S)
        waiting.sendall(body[10:])
        with waiting.makefile("rb") as stream:
            told = stream.read()

    assert told.startswith(b"HTTP/1.1 404 ")
    assert b"Sequence with provided ID does not exist" in told


def test_a_scan_clears_all_models_that_take_part(start, kit, tmp_path, client) -> None:
    """20: ten do, one does not; whatever their sequences came over."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    ten = [f"model{number}" for number in range(10)]
    path = kit.write_config(
        tmp_path / "config.json",
        *(stateful(name, "summator", sequence_timeout_seconds=1) for name in ten),
        stateful("keeps", "summator", idle_sequence_cleanup=False),
    )
    server = start("--config_path", path)

    wires = dict(zip([*ten, "keeps"], itertools.cycle(("grpc", "rest"))))
    clients = {name: client(server, wire, name) for name, wire in wires.items()}
    for one in clients.values():
        one.start(1)
    kit.until(lambda: not any(server.live(name) for name in ten), "a scan", WAIT_S)

    assert server.live("keeps") == 1
    assert clients["keeps"].step(1, 1) == (2, 1)
    assert [clients[name].refused(1, 1)[0] for name in ten] == [5, 404] * 5


def kept_for(server):
    """Return the idle limit of sequence 7, in seconds."""
    status, told = server.rest("GET", "/legato/v1/models/summator/sequences/7")
    assert status == 200
    return told["sequence"]["ttl_s"]


@pytest.mark.parametrize(("minutes", "limit_s"), [(0, 0), (1, 120)])
def test_two_intervals_of_the_cleaner_are_the_limit(
    start, kit, tmp_path, client, minutes, limit_s
) -> None:
    """20: with 0 no sequence is ever removed."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    server = start(
        "--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful",
        "--sequence_cleaner_poll_wait_minutes", minutes,
    )  # fmt: skip
    mine = client(server)
    mine.start(7)

    limit = kept_for(server)
    if not minutes:
        time.sleep(2.5)  # two looks of the sweeper: no limit is not one that is over

    assert limit == limit_s
    assert mine.step(1, 7) == (2, 7)
