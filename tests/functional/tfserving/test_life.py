"""Time, restarts, changes of the repository, load: sequences live through all of it."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

WAIT_S = 20


def summator(**more):
    return {"name": "summator", "base_path": "summator", "stateful": True, **more}


# -- C: idle sequences ---------------------------------------------------------------------------


def test_idle_sequences_end_and_busy_ones_stay(start, kit, tmp_path, client) -> None:
    """17, 20, 21: 3 of 10 are left alone and end; a model that takes no part keeps its own."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(
        tmp_path / "config.json",
        summator(sequence_timeout_seconds=2),
        {**summator(idle_sequence_cleanup=False), "name": "keeps"},
    )
    server = start("--config_path", path, "--sequence_cleaner_poll_wait_minutes", 1)
    mine, kept = client(server), client(server, model="keeps")
    for name in range(1, 11):
        mine.start(name)
    kept.start(1)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        for name in range(1, 8):
            mine.step(1, name)
        # A request that fails does not keep its sequence alive.
        mine.refused(1, 8, 3)
        time.sleep(0.2)

    kit.until(lambda: mine.refused(1, 8)[0] == 5, "the idle ones end")
    assert [mine.refused(1, name)[0] for name in (9, 10)] == [5, 5]
    assert [mine.step(1, name)[1] for name in range(1, 8)] == list(range(1, 8))
    assert kept.step(1, 1) == (2, 1)


# -- D: configuration ----------------------------------------------------------------------------


def test_a_wrong_entry_leaves_the_others(start, kit, tmp_path, client) -> None:
    """22: each sub-option without stateful costs its own model."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    wrong = [
        {"name": f"wrong{at}", "base_path": "summator", **option}
        for at, option in enumerate(
            ({"max_sequence_number": 1}, {"idle_sequence_cleanup": True},
             {"low_latency_transformation": True},
             {"stateful": True, "max_sequence_number": 5294967295},
             {"stateful": True, "batch_size": "auto"}, {"stateful": True, "shape": "auto"})
        )
    ]  # fmt: skip
    path = kit.write_config(tmp_path / "config.json", summator(max_sequence_number=1), *wrong)

    server = start("--config_path", path)

    status, config = server.rest("GET", "/v1/config")
    reloaded = server.rest("POST", "/v1/config/reload")
    assert (status, sorted(config)) == (200, ["summator"])
    assert client(server).start(1) == (1, 1)
    assert reloaded == (
        500,
        {"error": "Reloading config file failed. Check server logs for more info."},
    )


@pytest.mark.parametrize(
    "text", ['{"model_config_list": [{"config": {"name": "m", "max_sequence_number": -1}}]}', "no"]
)
def test_a_broken_file_starts_nothing(kit, tmp_path, text) -> None:
    """22: a schema error is an error of the whole file."""
    path = tmp_path / "config.json"
    path.write_text(text)
    server = kit.begin("--config_path", path)

    code = server.served.wait()
    server.served.close()

    assert code == 1
    assert "config.json" in server.served.errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--model_name", "m", "--model_path", "/m", "--max_sequence_number", "3"],
            "require setting stateful flag for the model.",
        ),
        (["--model_name", "m"], "Use config_path or model_path with model_name"),
        (["--config_path", "/c", "--nonsense"], "unmatched arguments: --nonsense"),
    ],
)
def test_a_wrong_command_line_exits_with_64(kit, arguments, text) -> None:
    """As Model Server."""
    server = kit.begin(*arguments)

    code = server.served.wait()
    server.served.close()

    assert code == 64
    assert text in server.served.errors


def test_one_model_that_cannot_be_served_is_an_error(kit, tmp_path) -> None:
    """There would be nothing to serve."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    server = kit.begin("--model_name", "m", "--model_path", tmp_path / "m")

    code = server.served.wait()
    server.served.close()

    assert code == 1
    assert "holds no model" in server.served.errors


def test_reload_by_api(start, kit, tmp_path, client) -> None:
    """23, 24, 26: 200, then 201 after a change; limits change, sequences stay; kinds do not."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(tmp_path / "config.json", summator(max_sequence_number=5))
    server = start("--config_path", path, "--file_system_poll_wait_seconds", 0)
    mine = client(server)
    mine.start(1)
    mine.start(2)

    def reload():
        return server.rest("POST", "/v1/config/reload")[0]

    unchanged = reload()
    kit.write_config(path, summator(max_sequence_number=2))
    changed = reload()
    full = mine.refused(1, 3, 1)[0]
    kit.write_config(path, {"name": "summator", "base_path": "summator"})
    other_kind = reload()
    path.write_text("{broken")
    broken = server.rest("POST", "/v1/config/reload")
    path.unlink()
    missing = server.rest("POST", "/v1/config/reload")

    assert (unchanged, changed, full, other_kind) == (200, 201, 14, 500)
    assert broken == (
        412,
        {"error": "Reloading config file failed. Check server logs for more info."},
    )
    assert missing == (500, {"error": "Config file not found or cannot open."})
    assert mine.step(1, 1) == (2, 1)


def test_a_served_model_does_not_become_stateful(start, kit, tmp_path) -> None:
    """24: the other way round; it goes on without sequences."""
    kit.save(tmp_path, "dummy", kit.models.dummy())
    path = kit.write_config(tmp_path / "config.json", {"name": "dummy", "base_path": "dummy"})
    server = start("--config_path", path, "--file_system_poll_wait_seconds", 0)
    body = {"inputs": {"b": [[1.0] * 10]}}

    kit.write_config(path, {"name": "dummy", "base_path": "dummy", "stateful": True})
    told = server.rest("POST", "/v1/config/reload")[0]

    assert told == 500
    assert server.rest("POST", "/v1/models/dummy:predict", body) == (
        200,
        {"outputs": [[2.0] * 10]},
    )


def test_a_version_that_cannot_be_loaded_is_told_by_reload(start, kit, tmp_path, client) -> None:
    """26: with the text for versions; what was served goes on."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(tmp_path / "config.json", summator())
    server = start("--config_path", path, "--file_system_poll_wait_seconds", 0)
    mine = client(server)
    mine.start(1)
    (tmp_path / "summator" / "2").mkdir()
    (tmp_path / "summator" / "2" / "model.onnx").write_bytes(b"no model")

    told = server.rest("POST", "/v1/config/reload")

    assert told == (
        500,
        {"error": "Reloading models versions failed. Check server logs for more info."},
    )
    assert mine.step(1, 1) == (2, 1)
    assert client(server, "rest").start(2) == (1, 2)


def test_files_are_followed(start, kit, tmp_path, client) -> None:
    """A new model and a model taken away, without a call; its sequences go on to their end."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    path = kit.write_config(tmp_path / "config.json", summator())
    server = start("--config_path", path)
    mine = client(server)
    mine.start(1)

    kit.write_config(path, {**summator(), "name": "other"})
    kit.until(lambda: "other" in server.rest("GET", "/v1/config")[1], "the new model")
    other = client(server, model="other").start(1)
    kit.until(lambda: mine.refused(1, 2, 1)[0] == 5, "the old one is retired")
    refused = mine.refused(1, 2, 1)
    by_rest = client(server, "rest").refused(1, 2, 1)
    metadata = server.rest("GET", "/v1/models/summator/metadata")
    went_on = [mine.step(1, 1), mine.end(1)]

    assert other == (1, 1)
    retired = "Model with requested version is retired"
    assert (refused, by_rest) == ((5, retired), (404, retired))
    assert metadata == (404, {"error": retired})
    assert went_on == [(2, 1), (3, 1)]


def test_a_new_version_leaves_live_sequences_alone(start, kit, tmp_path, client) -> None:
    """Model Server answered "does not exist" to all of them."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    server = start("--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful")
    mine = client(server)
    mine.start(1)

    kit.save(tmp_path, "summator", kit.models.accumulator(2), 2)
    kit.until(
        lambda: (
            len(server.rest("GET", "/v1/models/summator")[1]["model_version_status"]) == 2
            and server.rest("GET", "/v1/models/summator")[1]["model_version_status"][0]["state"]
            == "END"
        ),
        "the new version",
    )
    old = [mine.step(1, 1), mine.step(1, 1)]
    wide = mine.plain.predict(
        "summator", {"x": kit.content(np.float32([[1, 2]])), kit.CONTROL: kit.uint32(1)}
    )
    narrow = mine.refused(1, 9, 1)
    ended = mine.end(1)

    assert old == [(2, 1), (3, 1)]
    assert wide["y"].tolist() == [[1, 2]]
    assert "Expected: (1,2); Actual: (1,1)" in narrow[1]
    assert ended == (4, 1)


def test_reload_under_load(start, kit, tmp_path, client) -> None:
    """Versions change while sequences step, start and end: no step is lost, none is refused."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    server = start("--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful")
    stop = threading.Event()
    wrong: list[object] = []
    done = [0] * 4

    def work(number):
        mine = client(server, "grpc" if number % 2 else "rest")
        try:
            while not stop.is_set():
                _sum, name = mine.start(None, 1)
                sums = [mine.step(1, name)[0] for _ in range(15)]
                sums.append(mine.end(name)[0])
                assert sums == list(range(2, 18)), sums
                done[number] += 1
        except Exception as error:  # noqa: BLE001 - told by the main thread
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    long = client(server)
    long.start(7_000_000)
    steps = 1

    for version in range(2, 5):
        # The same sums by another graph, so that no version can take over another's state.
        kit.save(tmp_path, "summator", another_accumulator(kit, version), version)
        end = time.monotonic() + WAIT_S
        while server.rest("GET", "/v1/models/summator/metadata")[1]["modelSpec"]["version"] != str(
            version
        ):
            assert time.monotonic() < end
            steps += 1
            assert long.step(1, 7_000_000) == (steps, 7_000_000)
        server.rest("POST", "/v1/config/reload")
    time.sleep(1)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)

    assert not wrong
    assert min(done) > 1
    assert long.end(7_000_000) == (steps + 1, 7_000_000)
    states = [v["state"] for v in server.rest("GET", "/v1/models/summator")[1][
        "model_version_status"]]  # fmt: skip
    assert states == ["END", "END", "END", "AVAILABLE"]


def another_accumulator(kit, version):
    """Build an accumulator with other content for each version."""
    from openvino import opset13 as ops

    m = kit.models
    x = m.parameter("x", [1, 1])
    state = m.Remembered("sum", [1, 1], first=m.zeros(1, 1))
    total = ops.add(x, state.value)
    noise = ops.multiply(total, ops.constant(np.float32(version)))
    same = ops.divide(noise, ops.constant(np.float32(version)))
    return m.model([m.result("y", same)], [state.becomes(total)], [x])


# -- E: load -------------------------------------------------------------------------------------


def test_a_thousand_sequences_begin_at_once(start, kit, tmp_path) -> None:
    """27: as many as there may be, and not one more."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    server = start(
        "--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful",
        "--max_sequence_number", 1000, "--nireq", 100,
    )  # fmt: skip
    plain = kit.Plain(server.address)
    ask = plain.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    inputs = {"x": kit.content(np.float32([[1]])), kit.CONTROL: kit.uint32(1)}

    pending = [ask.future(kit.predict_request("summator", inputs), timeout=60) for _ in range(1001)]
    codes = [call.code().value[0] for call in pending]
    plain.close()

    assert (codes.count(0), codes.count(14)) == (1000, 1)


def test_a_trajectory_is_followed_exactly(start, kit, tmp_path, wire) -> None:
    """28: an LSTM over 200 frames against OpenVINO's own stateful request."""
    made = kit.models.lstm(size=8, hidden=32, out=5)
    kit.save(tmp_path, "lstm", made)
    server = start("--model_name", "lstm", "--model_path", tmp_path / "lstm", "--stateful")
    native = kit.models.Native(kit.models.lstm(size=8, hidden=32, out=5))
    frames = np.random.default_rng(3).standard_normal((200, 1, 8)).astype(np.float32)
    plain = kit.Plain(server.address)
    squares = []

    for at, frame in enumerate(frames):
        control = 1 if at == 0 else 2 if at == 199 else 0
        if wire == "grpc":
            inputs = {"x": kit.content(frame), kit.ID: kit.uint64(3)}
            mine = plain.predict("lstm", inputs | {kit.CONTROL: kit.uint32(control)})["y"]
        else:
            body = {"inputs": {"x": frame.tolist(), kit.ID: [3], kit.CONTROL: [control]}}
            mine = np.array(server.rest("POST", "/v1/models/lstm:predict", body)[1]["outputs"]["y"])
        squares.append(float(np.mean((mine - native.step(1, x=frame)["y"]) ** 2)))
    plain.close()

    assert np.sqrt(np.mean(squares)) < 1e-6


# -- restarts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_sequences_survive_a_restart(start, kit, tmp_path, client, how) -> None:
    """By default, without a flag; also where their version is no longer the newest."""
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    flags = ["--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful"]
    home = {"XDG_DATA_HOME": str(tmp_path / "data")}
    first = start(*flags, "--store=log", **home)
    mine = client(first)
    mine.start(7)
    mine.step(1, 7)
    if how is signal.SIGKILL:
        os.kill(first.served.pid, how)
    else:
        assert first.served.stop(how) == 0
        kit.save(tmp_path, "summator", another_accumulator(kit, 2), 2)
    first.served.close()

    second = start(*flags, "--store=log", **home)
    again = client(second)

    assert again.refused(1, 7, 1) == (6, "Sequence with provided ID already exists")
    assert again.step(1, 7) == (3, 7)
    assert again.start(8) == (1, 8)
    assert again.end(7) == (4, 7)
    assert (tmp_path / "data" / "legato" / "sequences-log").is_dir()
