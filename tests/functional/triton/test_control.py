"""Models loaded, replaced and taken away under live sequences."""

from __future__ import annotations

import json
import os
import signal
import threading
import urllib.request

import pytest
from tests.functional.triton.conftest import step, told, until
from tests.models import tiny
from tests.models import triton_models as models
from tritonclient.utils import InferenceServerException

EXPLICIT = "--model-control-mode=explicit"
NOT_ALLOWED = "explicit model load / unload is not allowed if polling is enabled"


def index(client) -> list[tuple[str, str, str, str]]:
    """What the repository holds."""
    found = client.get_model_repository_index(as_json=True).get("models", [])
    return [
        tuple(line.get(key, "") for key in ("name", "version", "state", "reason")) for line in found
    ]


@pytest.fixture
def repository(tmp_path):
    """Two models."""
    models.write_accumulator(tmp_path / "models", name="one")
    models.write_accumulator(tmp_path / "models", name="two")
    return tmp_path / "models"


def test_nothing_is_served_before_it_is_asked_for(start, repository) -> None:
    """Explicit mode: the index tells what there is; a model goes and comes back."""
    server = start(repository, EXPLICIT)
    client = server.client()
    before = index(client)
    client.load_model("one")
    loaded = index(client)
    client.unload_model("one")
    until(lambda: index(client)[0][2] == "UNAVAILABLE", "it is unloaded")

    assert before == [("one", "", "", ""), ("two", "", "", "")]
    assert loaded == [("one", "1", "READY", ""), ("two", "", "", "")]
    assert index(client)[0] == ("one", "1", "UNAVAILABLE", "unloaded")
    assert client.is_server_ready()
    assert not client.is_model_ready("one")


def test_models_named_at_the_start_are_served(start, repository) -> None:
    """``--load-model`` is repeatable, and ``*`` means all."""
    named = start(repository, EXPLICIT, "--load-model=two").client()
    every = start(repository, EXPLICIT, "--load-model", "*").client()

    assert [line[2] for line in index(named)] == ["", "READY"]
    assert [line[2] for line in index(every)] == ["READY", "READY"]


def test_loading_is_for_explicit_mode(start, repository) -> None:
    """In the other modes it is refused in Triton's words."""
    server = start(repository)

    with pytest.raises(InferenceServerException, match=NOT_ALLOWED) as refused:
        server.client().load_model("one")
    over_http = server.rest("POST", "/v2/repository/models/one/unload")

    assert "UNAVAILABLE" in refused.value.status()
    assert over_http == (503, {"error": NOT_ALLOWED})


def test_a_model_that_is_not_there_cannot_be_loaded(start, repository) -> None:
    """The error names it."""
    client = start(repository, EXPLICIT).client()

    with pytest.raises(InferenceServerException, match="failed to load 'three'"):
        client.load_model("three")


def test_sequences_go_on_through_a_reload(start, repository) -> None:
    """Nothing changed, other settings, another count of instances: the next step is the next."""
    client = start(repository, EXPLICIT, "--load-model=one").client()
    step(client, "one", 1, 7, sequence_start=True)
    answers = []

    client.load_model("one")
    answers.append(told(step(client, "one", 2, 7)))
    path = repository / "one" / "config.pbtxt"
    path.write_text(path.read_text().replace("direct { }", "oldest { }"))
    client.load_model("one")
    answers.append(told(step(client, "one", 3, 7)))
    config = client.get_model_config("one", as_json=True)["config"]
    path.write_text(path.read_text().replace("count: 1", "count: 2"))
    client.load_model("one")
    answers.append(told(step(client, "one", 4, 7, sequence_end=True)))

    assert answers == [3, 6, 10]
    assert "oldest" in config["sequence_batching"]


def test_sequences_end_on_the_content_that_they_began_on(start, tmp_path) -> None:
    """A new model file serves new sequences; one whose state it cannot read stays on the old."""
    models.write(tmp_path, "m", models.crossed(), models.CROSSED)
    client = start(tmp_path, EXPLICIT, "--load-model=m").client()
    step(client, "m", 1, 7, sequence_start=True)
    config = models.ACCUMULATOR.replace("STRATEGY", "").replace('"accumulator"', '"m"')
    models.write(tmp_path, "m", models.accumulator(), config)

    client.load_model("m")
    old = step(client, "m", 2, 7, sequence_end=True)
    new = told(step(client, "m", 5, 8, sequence_start=True))

    assert (told(old, "Z_OUT"), told(old, "Y_OUT")) == (3, 30)
    assert new == 5


def test_a_reload_that_fails_costs_nothing(start, repository) -> None:
    """What was served goes on; the error says what is wrong, and so does nothing else."""
    client = start(repository, EXPLICIT, "--load-model=one").client()
    step(client, "one", 1, 7, sequence_start=True)
    path = repository / "one" / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size", "max_batch"))

    with pytest.raises(InferenceServerException, match="max_batch"):
        client.load_model("one")

    assert told(step(client, "one", 2, 7)) == 3
    assert index(client)[0] == ("one", "1", "READY", "")


def test_a_config_may_be_given_with_the_load(start, repository) -> None:
    """JSON in place of config.pbtxt, until the next load; sequences go on."""
    client = start(repository, EXPLICIT, "--load-model=one").client()
    step(client, "one", 1, 7, sequence_start=True)
    config = client.get_model_config("one", as_json=True)["config"]
    config["sequence_batching"]["max_sequence_idle_microseconds"] = 7_000_000

    client.load_model("one", config=json.dumps(config))
    answer = told(step(client, "one", 2, 7))
    given = client.get_model_config("one", as_json=True)["config"]
    client.load_model("one")
    stored = client.get_model_config("one", as_json=True)["config"]

    assert answer == 3
    assert int(given["sequence_batching"]["max_sequence_idle_microseconds"]) == 7_000_000
    assert int(stored["sequence_batching"]["max_sequence_idle_microseconds"]) == 60_000_000


def test_files_may_be_given_with_the_load(start, repository) -> None:
    """A model that is nowhere in the repository."""
    client = start(repository, EXPLICIT).client()
    config = json.dumps(
        {
            "backend": "onnxruntime",
            "max_batch_size": 8,
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}],
            "output": [{"name": "x_out", "data_type": "TYPE_FP32", "dims": [3]}],
        }
    )

    client.load_model(
        "given", config=config, files={"file:1/model.onnx": tiny.echo().SerializeToString()}
    )
    ready = client.is_model_ready("given")
    with pytest.raises(InferenceServerException, match="config"):
        client.load_model("given", files={"file:1/model.onnx": b""})

    assert ready


def test_unloading_waits_for_no_sequence(start, repository) -> None:
    """New steps are refused at once, in Triton's words; loaded again, a stored one goes on."""
    client = start(repository, EXPLICIT, "--load-model=one").client()
    step(client, "one", 1, 7, sequence_start=True)

    client.unload_model("one")
    with pytest.raises(
        InferenceServerException, match="Request for unknown model: 'one' has no available versions"
    ):
        step(client, "one", 2, 7)
    client.load_model("one")

    assert told(step(client, "one", 2, 7)) == 3


def test_polling_follows_the_files(start, repository) -> None:
    """A new model, a new version, and one that goes away; sequences stay on their version."""
    client = start(repository, "--model-control-mode=poll", "--repository-poll-secs=1").client()
    step(client, "one", 1, 7, sequence_start=True)

    models.write_accumulator(repository, name="three")
    changed = models.accumulator()
    changed.doc_string = "other content"
    models.write(repository, "one", changed, version=2)
    until(lambda: client.is_model_ready("three"), "the new model is served")
    until(lambda: client.is_model_ready("one", "2"), "the new version is served")
    old = step(client, "one", 2, 7)
    new = step(client, "one", 1, 8, sequence_start=True)

    assert (told(old), old.get_response().model_version) == (3, "1")
    assert (told(new), new.get_response().model_version) == (1, "2")


def test_sequences_survive_kill_9(start, repository, tmp_path) -> None:
    """Text and number ids, several states: all go on in the process that follows."""
    models.write(repository, "crossed", models.crossed(), models.CROSSED)
    server = start(repository, f"--data={tmp_path / 'data'}")
    client = server.client()
    for sequence in (7, "call-7"):
        step(client, "crossed", 1, sequence, sequence_start=True)

    os.kill(server.served.pid, signal.SIGKILL)
    server.served.await_ready(2)
    client = server.client()
    answers = [
        (told(r, "Z_OUT"), told(r, "Y_OUT"))
        for r in (step(client, "crossed", 2, sequence) for sequence in (7, "call-7"))
    ]

    assert answers == [(3, 30), (3, 30)]


def test_a_slow_load_makes_nobody_idle(start, tmp_path) -> None:
    """A second of idle time is the default; a restart that takes longer does not use it up."""
    models.write(tmp_path / "models", "own", None, models.LEGATO_CONFIG.replace("60000000", "0"))
    source = models.LEGATO_MODEL.replace(
        "        self.scale", "        import time\n\n        time.sleep(1.5)\n        self.scale"
    )
    (tmp_path / "models" / "own" / "1" / "model.py").write_text(source)
    server = start(tmp_path / "models", f"--data={tmp_path / 'data'}")
    step(server.client(), "own", 1, 7, sequence_start=True)

    os.kill(server.served.pid, signal.SIGKILL)
    server.served.await_ready(2)

    assert told(step(server.client(), "own", 2, 7)) == 6


def test_models_that_clients_loaded_come_back_after_kill_9(start, repository, tmp_path) -> None:
    """With the config and files that they were given, and their sequences."""
    server = start(repository, EXPLICIT, f"--data={tmp_path / 'data'}")
    client = server.client()
    client.load_model("one")
    client.load_model("two")
    client.unload_model("two")
    config = models.CROSSED_JSON
    client.load_model(
        "given",
        config=json.dumps(config),
        files={"file:1/model.onnx": models.crossed().SerializeToString()},
    )
    step(client, "one", 1, 7, sequence_start=True)
    step(client, "given", 1, 7, sequence_start=True)

    os.kill(server.served.pid, signal.SIGKILL)
    server.served.await_ready(2)
    client = server.client()
    answers = [told(step(client, "one", 2, 7)), told(step(client, "given", 2, 7), "Z_OUT")]

    assert answers == [3, 3]
    assert [line[2] for line in index(client)] == ["READY", "READY", ""]
    server.served.stop()
    begun = start(repository, EXPLICIT, f"--data={tmp_path / 'data'}")
    assert [line[2] for line in index(begun.client())] == ["", ""]


def test_a_backlog_is_bounded(start, tmp_path) -> None:
    """``max_candidate_sequences`` live, a bounded number waits, further ones are refused."""
    models.write_accumulator(tmp_path, "oldest { max_candidate_sequences: 1 }", "one")
    path = tmp_path / "one" / "config.pbtxt"
    path.write_text(
        path.read_text()
        + 'parameters { key: "legato.sequences.max_backlog" value { string_value: "1" } }'
    )
    server = start(tmp_path)
    client = server.client()
    step(client, "one", 1, 7, sequence_start=True)
    waiting: list[float] = []
    thread = threading.Thread(
        target=lambda: waiting.append(told(step(server.client(), "one", 5, 8, sequence_start=True)))
    )
    thread.start()
    until(lambda: 'legato_sequences_backlog{model="one",version="1"} 1.0' in page(server), "wait")

    with pytest.raises(InferenceServerException, match="limit") as refused:
        step(client, "one", 1, 9, sequence_start=True)
    running = told(step(client, "one", 1, 7, timeout=1))
    step(client, "one", 1, 7, sequence_end=True)
    thread.join(20)

    assert "RESOURCE_EXHAUSTED" in refused.value.status()
    assert running == 2  # a timeout only counts in the backlog
    assert waiting == [5]


def test_a_sequence_waits_in_the_backlog_only_so_long(start, tmp_path) -> None:
    """``timeout`` is microseconds; the text is Triton's."""
    models.write_accumulator(tmp_path, "oldest { max_candidate_sequences: 1 }", "one")
    client = start(tmp_path).client()
    step(client, "one", 1, 7, sequence_start=True)

    with pytest.raises(InferenceServerException) as refused:
        step(client, "one", 5, 8, sequence_start=True, timeout=50_000)

    assert refused.value.message() == "timeout of the corresponding sequence has been expired"
    assert "UNAVAILABLE" in refused.value.status()


def page(server) -> str:
    """The metrics."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as answer:
        return answer.read().decode()
