"""``legato torchserve`` as a command: start, stop, keys, files, snapshots, errors."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import time
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.functional.torchserve.conftest import (
    ask,
    command,
    environment,
    launch,
    write_adder,
    write_properties,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TIMEOUT_S = 60
SEQUENCES = 200
EXPIRY_REQUESTS = int(os.environ.get("LEGATO_TEST_EXPIRY_REQUESTS", "20000"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A working directory with a model store."""
    write_adder(tmp_path / "store")
    return tmp_path


def run(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run ``legato torchserve`` to its end."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        env={**environment(folder), **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def wait_for(true: Callable[[], object], what: str) -> None:
    """Wait for something outside of this process."""
    until = time.monotonic() + TIMEOUT_S
    while not true():
        assert time.monotonic() < until, f"{what} in {TIMEOUT_S} s"
        time.sleep(0.05)


def healthy(port: int) -> bool:
    try:
        return ask("GET", f"http://127.0.0.1:{port}/ping").status == 200
    except OSError:
        return False


def key(folder: Path, kind: str) -> str:
    return json.loads((folder / "key_file.json").read_text())[kind]["key"]


# -- start and stop --------------------------------------------------


def test_a_server_is_started_in_the_background_and_stopped(folder) -> None:
    """By the words of TorchServe's README, ``--model`` included; a second start is refused."""
    named = write_properties(folder)
    words = (
        "--start", "--ncs", "--disable-token-auth", "--model-store", "store", "--model", "adder",
        "--ts-config", "config.properties", "--store", "memory",
    )  # fmt: skip

    started = run(folder, *words)
    try:
        wait_for(lambda: healthy(named["inference"]), "healthy")
        again = run(folder, *words)
        kept = list((folder / "logs").iterdir())
    finally:
        stopped = run(folder, "--stop")
    after = run(folder, "--stop")

    assert started.returncode == 0, started.stderr
    assert again.returncode == 1
    assert "TorchServe has already started" in again.stdout
    assert [path.name for path in kept] == ["ts_log.log"]
    assert (stopped.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
    assert after.stdout == "TorchServe is not currently running.\n"
    assert not healthy(named["inference"])


def test_a_pid_of_somebody_else_is_no_server(folder) -> None:
    """A stop never ends another process."""
    (folder / ".model_server.pid").write_text(str(os.getppid()))

    stopped = run(folder, "--stop")

    assert stopped.stdout == "TorchServe already stopped.\n"


def test_the_version_is_told(folder) -> None:
    """As scripts look for it."""
    assert "TorchServe Version is 0.12.0" in run(folder, "--version").stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "Missing mandatory parameter --model-store"),
        (("--model-store", "gone"), "--model-store directory not found"),
        (("--ts-config", "gone"), "--ts-config file not found"),
        (("--model-store", "store", "--models", "gone.mar"), "Model not found at: gone.mar"),
    ],
)
def test_a_start_that_cannot_be_is_refused(folder, words, text: str) -> None:
    """In one clear message, with exit code 1."""
    found = run(folder, "--foreground", "--ncs", "--store", "memory", *words)

    assert found.returncode == 1
    assert text in found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def test_a_flag_that_is_not_known_is_refused(folder) -> None:
    """As argparse does, with exit code 2."""
    assert run(folder, "--nope").returncode == 2


# -- keys --------------------------------------------------


def test_keys_are_on_unless_they_are_turned_off(torchserve, folder) -> None:
    """Each opens its own API; the file is its owner's, and goes with the server."""
    served = torchserve("--ncs", "--models", "adder", folder=folder)
    file = folder / "key_file.json"
    inference, management = key(folder, "inference"), key(folder, "management")

    refused = served.get("inference", "/ping")
    crossed = served.get("inference", "/ping", Authorization=f"Bearer {management}")
    taken = served.get("inference", "/ping", Authorization=f"Bearer {inference}")
    listed = served.get("management", "/models", Authorization=f"Bearer {management}")
    unlisted = served.get("management", "/models", Authorization=f"Bearer {inference}")

    assert [a.status for a in (refused, crossed, unlisted)] == [400, 400, 400]
    assert refused.json["type"] == "InvalidKeyException"
    assert [a.status for a in (taken, listed)] == [200, 200]
    assert served.get("metrics", "/metrics").status == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(grpc.RpcError) as caught:
        served.client().predict("adder", b"1")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details().startswith("Token Authorization failed.")
    with pytest.raises(grpc.RpcError) as caught:
        list(served.client().stream(iter([])))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert served.client(inference).predict("adder", b"1").prediction == b"1"
    assert served.stop() == 0
    assert not file.exists()


def test_a_key_is_renewed_with_the_third_one(torchserve, folder) -> None:
    """The old one is worth nothing then."""
    served = torchserve("--ncs", "--models", "adder", folder=folder)
    old, api = key(folder, "inference"), key(folder, "API")

    refused = served.get("management", "/token?type=inference", Authorization=f"Bearer {old}")
    renewed = served.get("management", "/token?type=inference", Authorization=f"Bearer {api}")

    assert (refused.status, renewed.status) == (400, 200)
    new = key(folder, "inference")
    tried = [served.get("inference", "/ping", Authorization=f"Bearer {k}") for k in (old, new)]
    assert [a.status for a in tried] == [400, 200]


def test_keys_survive_the_death_of_the_serving_process(torchserve, folder) -> None:
    """Clients keep them; the sequence goes on, for its state was committed."""
    served = torchserve("--ncs", "--models", "adder", "--data", "kept", folder=folder)
    inference = f"Bearer {key(folder, 'inference')}"
    served.step("a", 5, Authorization=inference)

    os.kill(served.pid, signal.SIGKILL)
    served.await_ready(times=2)

    assert served.step("a", 5, Authorization=inference).text == "10"


def test_clients_may_not_register_models_unless_they_are_let(torchserve, folder) -> None:
    """405 over REST, PERMISSION_DENIED over gRPC; other calls work."""
    served = torchserve("--ncs", "--dt", "--models", "adder", folder=folder)
    client = served.client()

    assert ask("POST", served.url("management", "/models?url=adder")).status == 405
    assert ask("DELETE", served.url("management", "/models/adder")).status == 405
    with pytest.raises(grpc.RpcError) as caught:
        client.manage("UnregisterModel", "UnregisterModelRequest", model_name="adder")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert "Model API disabled" in caught.value.details()
    assert served.get("management", "/models").status == 200


# -- files --------------------------------------------------


def test_variables_win_where_the_file_lets_them(torchserve, folder, monkeypatch) -> None:
    """``TS_DISABLE_TOKEN_AUTHORIZATION`` counts only with ``enable_envvars_config``."""
    monkeypatch.setenv("TS_DISABLE_TOKEN_AUTHORIZATION", "true")
    monkeypatch.setenv("TS_LOAD_MODELS", "all")
    served = torchserve(
        "--ncs", folder=folder, properties={"enable_envvars_config": "true", "load_models": "none"}
    )

    assert served.get("inference", "/ping").status == 200
    assert served.get("management", "/models").json["models"][0]["modelName"] == "adder"


def test_a_snapshot_brings_back_what_was_registered(folder) -> None:
    """Without a config file the newest one is taken: ports, models, workers."""
    served = launch(folder, "--dt", "--enable-model-api", "--store", "memory")
    served.await_ready()
    registered = ask(
        "POST", served.url("management", "/models?url=adder&model_name=mine&initial_workers=1")
    )
    served.stop()
    served.close()
    names = [path.name for path in sorted((folder / "logs" / "config").iterdir())]
    (folder / "config.properties").unlink()

    started = run(folder, "--start", "--dt", "--store", "memory")
    try:
        wait_for(lambda: healthy(served.named["inference"]), "healthy")
        answered = served.step("a", 5, model="mine")
    finally:
        run(folder, "--stop")

    assert registered.status == 200
    assert [name.rpartition("-")[2] for name in names] == [
        "startup.cfg",
        "snapshot.cfg",
        "shutdown.cfg",
    ]
    assert started.returncode == 0
    assert answered.text == "5"


# -- limits --------------------------------------------------


def test_expired_sequences_make_room_at_once_and_begin_anew(torchserve, tmp_path) -> None:
    """No request is refused or lost for a place that is free by the model's own limit."""
    write_adder(tmp_path / "store", live=1, idle_s=0.02)
    served = torchserve("--ncs", "--dt", "--models", "adder", folder=tmp_path)

    answers = []
    for at in range(10):
        answers.append(served.step(f"s{at}", 1))
        time.sleep(0.04)

    assert [a.status for a in answers] == [200] * 10
    assert [a.text for a in answers] == ["1"] * 10


def test_a_full_model_refuses_and_recovers(torchserve, tmp_path) -> None:
    """With the phrase that users match on; a place is free when a sequence ends."""
    write_adder(tmp_path / "store", live=1)
    served = torchserve("--ncs", "--dt", "--models", "adder", folder=tmp_path)
    served.step("a", 1)

    refused = served.step("b", 1)
    served.step("a", 1, ts_request_sequence_end="true")
    taken = served.step("b", 1)

    assert refused.status == 503
    assert refused.json["type"] == "ServiceUnavailableException"
    assert "exceeds maxSequenceJobQueueSize" in refused.json["message"]
    assert taken.text == "1"


def test_no_request_is_lost_at_expiry(torchserve, tmp_path) -> None:
    """Idle limit = think time, for many sequences at once: every request is answered, once.

    An answer is the next total, or the first one where the sequence had expired. Both occur:
    of two requests at once the second hardly ever finds its sequence expired.
    """
    write_adder(tmp_path / "store", live=1000, idle_s=0.02)
    served = torchserve("--ncs", "--dt", "--models", "adder", folder=tmp_path)
    client = served.client()
    think = random.Random(5)
    totals = dict.fromkeys((f"s{at}" for at in range(SEQUENCES)), 0)
    kept = begun = 0

    for _round in range(EXPIRY_REQUESTS // SEQUENCES // 2):
        waiting = [name for name in totals for _ in "ab"]
        requests = [client.message("adder", b"1", name) for name in waiting]
        for answer in client.stream(iter(requests)):
            name, total = answer.sequence_id, int(answer.prediction or b"0")
            waiting.remove(name)
            assert total in (totals[name] + 1, 1), str(answer)
            kept, begun = kept + (total > 1), begun + (total == 1)
            totals[name] = total
        assert not waiting
        time.sleep(think.uniform(0, 0.03))
    client.close()

    assert min(kept, begun) > SEQUENCES, "there was no race"
