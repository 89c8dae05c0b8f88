"""The sequence API on a real server: over REST, over gRPC, in the terminal, across a kill."""

from __future__ import annotations

import json
import os
import signal
import threading

import grpc
import numpy as np
import pytest
import safetensors.numpy
import tiny

from legato.protocols.sequences.gen import sequences_pb2 as pb

BASE = "/legato/v1/models/acc/sequences"


def test_a_fork_goes_its_own_way_over_both_wires(client) -> None:
    """Made over REST, seen over gRPC, stepped over KServe."""
    client.step(1, 1, sequence_start=True)
    client.step(1, 2)

    status, made = client.rest("POST", f"{BASE}/1/fork", {"target": "s:one"})
    ours, theirs = client.step(1, 10), client.step("one", 20)

    assert (status, made["sequence"]["step"]) == (201, 2)
    assert (ours, theirs) == (13, 23)
    assert client.describe("s:one").sequence.step == 3


def test_a_rollback_is_as_if_nothing_had_been(client) -> None:
    """A numbered client is told where the sequence is."""
    client.step(2, 1, sequence_start=True)
    request = pb.SnapshotRequest(model="acc", id="2", name="a")
    client.rpc("Snapshot", request, pb.SnapshotResponse)
    client.step(2, 100)
    client.step(2, 100)

    back = client.rpc(
        "Rollback", pb.RollbackRequest(model="acc", id="2", snapshot="a"), pb.RollbackResponse
    )

    assert back.sequence.step == 1
    assert "step 2 is expected" in client.step(2, 5, sequence_step=4)
    assert client.step(2, 5, sequence_step=2) == 6


def test_an_end_is_told_over_every_wire(client) -> None:
    """GRPC ends it; REST, the terminal and a late step say what happened."""
    client.step(3, 1, sequence_start=True)

    ended = client.rpc("End", pb.EndRequest(model="acc", id="3", reason="evicted"), pb.EndResponse)
    with pytest.raises(grpc.RpcError) as refused:
        client.rpc("End", pb.EndRequest(model="acc", id="3"), pb.EndResponse)

    assert (ended.status, ended.step) == ("evicted", 1)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert dict(refused.value.trailing_metadata())["legato-reason"] == "evicted"
    assert "START" in client.step(3, 1)
    assert client.rest("GET", f"{BASE}/3")[1]["sequence"]["status"] == "evicted"
    assert "evicted" in client.run("show", "acc", "3")
    assert "no live sequence has the id 33" in client.run("show", "acc", "33", code=1)


def test_everything_outlives_a_kill(client, server) -> None:
    """Snapshots, forks, the name of an end, and the place in a listing."""
    for cid in (40, 41, 42):
        client.step(cid, cid, sequence_start=True)
    client.rest("POST", f"{BASE}/40/snapshots", {"name": "a"})
    client.step(40, 1)
    client.rest("POST", f"{BASE}/40/fork", {"target": "44"})
    client.rest("DELETE", f"{BASE}/41?reason=cancelled")
    query = f"{BASE}?id_prefix=4&limit=1"
    _, first = client.rest("GET", query)

    os.kill(server.pid, signal.SIGKILL)
    server.await_ready(times=2)

    _, rest = client.rest("GET", f"{BASE}?id_prefix=4&limit=9&cursor={first['cursor']}")
    rows = (*first["sequences"], *rest["sequences"])
    assert [row["id"] for row in rows] == ["i:40", "i:42", "i:44"]
    assert client.rest("GET", f"{BASE}/41")[1]["sequence"]["status"] == "cancelled"
    assert client.rest("POST", f"{BASE}/40/rollback", {"snapshot": "a"})[0] == 200
    assert (client.step(40, 5), client.step(44, 5)) == (45, 46)


def test_a_sequence_moves_by_file_through_the_terminal(client, tmp_path) -> None:
    """Other tools see its state; a damaged copy is refused."""
    client.step("ann/1", 1, sequence_start=True)
    client.step("ann/1", 2)
    file = tmp_path / "ann.safetensors"

    client.run("export", "acc", "ann/1", "-o", file)
    seen = client.run("import", "acc", file, "--id", "copy")
    loaded = safetensors.numpy.load_file(file)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    refused = client.run("import", "acc", file, "--id", "copy2", code=1)

    assert "acc / copy is at step 2; step 3 is next" in seen
    assert [value.tolist() for value in loaded.values()] == [[[3.0] * 4]]
    assert "changed or damaged" in refused
    assert client.step("copy", 4) == 7


def test_the_terminal_shows_what_the_api_says(client) -> None:
    """Tables for people, JSON for programs, over many pages."""
    for cid in range(5000, 5012):
        client.step(cid, 1, sequence_start=True)

    table = client.run("list", "acc", "--id-prefix", "50", "--limit", 3)
    rows = json.loads(client.run("list", "acc", "--id-prefix", "50", "--json"))
    parked = json.loads(client.run("list", "--parked", "--id-prefix", "50", "--json"))
    client.run("snapshot", "acc", 5000, "--name", "x y")
    state = client.run("state", "acc", 5000, "--snapshot", "x y")
    back = client.run("rollback", "acc", 5000, "x y")
    listed = client.run("snapshots", "acc", 5000)
    client.run("snapshot", "acc", 5000, "--name", "x y", "--delete")

    assert "... and more" in table
    assert [row["id"] for row in rows] == [f"i:{cid}" for cid in range(5000, 5012)]
    assert 0 < len(parked) < 12  # 5,000 bytes have room for four
    assert all(row["resident"] is False for row in parked)
    assert "float32" in state
    assert "1 1 1 1" in state
    assert "step 2 is next" in back
    assert "x y" in listed
    assert "no snapshots" in client.run("snapshots", "acc", 5000)
    assert "ended at step 1" in client.run("end", "acc", 5000)


def test_a_recording_replays_and_shows_where_another_model_differs(client, data, tmp_path) -> None:
    """From mid-life, through the real server; exit code 1 on the first difference."""
    client.step(60, 1, sequence_start=True)
    client.run("record", "acc", 60)
    for x in (2, 3, 4):
        client.step(60, x)
    client.run("record", "acc", 60, "--off")
    (file,) = data.glob("recordings/acc/i-60-*.rec")
    other = tiny.save(tiny.fixed(), tmp_path, "acc")
    doubled = tiny.build(
        [tiny.node("Add", ["x", "state"], ["a"]), tiny.node("Relu", ["a"], ["next_state"]),
         tiny.node("Sub", ["next_state", "tiny"], ["y"])],
        [("x", tiny.FLOAT, ["batch", 4]), ("state", tiny.FLOAT, ["batch", 4])],
        [("y", tiny.FLOAT, ["batch", 4]), ("next_state", tiny.FLOAT, ["batch", 4])],
        {"tiny": np.array([0, 0, 1, 0], np.float32)},
    )  # fmt: skip
    changed = tiny.save(doubled, tmp_path, "changed")

    equal = client.run("replay", file)
    different = client.run("replay", file, "--model", changed, code=1)
    facts = json.loads(client.run("replay", file, "--model", changed, "--json", code=1))
    misfit = client.run("replay", file, "--model", other, code=1)

    assert "3 steps equal" in equal
    assert "step 2 differs: output 'y' at [0, 2] was 3.0, is 2.0; 1 of 4 values differ" in different
    assert "the model is another one" in different
    assert facts["difference"]["tensor"] == "y"
    assert (facts["equal"], facts["steps"]) == (False, 0)
    assert misfit


def test_forks_during_a_stream_are_of_one_step(client) -> None:
    """Every copy is the state after some step, whole; the stream never notices."""
    client.step(70, 1, sequence_start=True)
    done = threading.Event()
    answers = []

    def stream() -> None:
        while not done.is_set():
            answers.append(client.step(70, 1))

    thread = threading.Thread(target=stream)
    thread.start()
    forks = [client.rest("POST", f"{BASE}/70/fork", {"target": str(7000 + n)}) for n in range(20)]
    done.set()
    thread.join()

    assert answers == list(range(2, 2 + len(answers)))
    for number, (status, made) in enumerate(forks):
        step = made["sequence"]["step"]
        assert (status, client.step(7000 + number, 0)) == (201, step)


def test_no_server_is_said_so(client) -> None:
    """With what to do."""
    said = client.run("list", "--server", "127.0.0.1:9", code=1)

    assert "no server answers at 127.0.0.1:9" in said
    assert "--server or LEGATO_SERVER" in said
