"""``legato serve`` as a person meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request

import grpc
import httpx
import pytest
from tests.functional.conftest import SOURCE, start
from tests.functional.serving.models import infer, request, write_counter
from tests.models.tiny import echo, save

TIMEOUT_S = 60


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """Run ``legato`` to its end, with nothing kept unless the environment says so."""
    return subprocess.run(
        [sys.executable, "-m", "legato", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(SOURCE),
            "LEGATO_STORE": "memory",
            **environment,
        },
        check=False,
    )


def get(url: str) -> tuple[int, str, str]:
    """Return status, content type and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory):
    """A counter on two ports."""
    return serve(write_counter(tmp_path_factory.mktemp("models")), extra_port=0)


def test_a_sequence_goes_on_on_another_port(served) -> None:
    """All ports lead to one engine."""
    counts = []
    for port in (*served.ports, served.ports[0]):
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            counts.append(infer(channel, request(1, start=not counts)))

    assert len(set(served.ports)) == 2
    assert counts == [1, 2, 3]


def test_the_front_page_shows_what_is_served(served) -> None:
    """One small page for people."""
    status, kind, text = get(f"{served.url}/")

    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "counter" in text
    assert "8 B" in text


def test_metrics_are_served(served) -> None:
    """Prometheus finds its page."""
    status, kind, text = get(f"{served.url}/metrics")

    assert status == 200
    assert kind.startswith("text/plain")
    assert "legato_server_ready 1.0" in text
    assert "legato_restarts_total 0.0" in text


@pytest.mark.parametrize("path", ["/nope", "/v2/nope", "/metrics/more"])
def test_unknown_paths_are_not_found(served, path: str) -> None:
    """The answer is JSON, whatever dialect the path was meant for."""
    status, kind, text = get(served.url + path)

    assert (status, kind) == (404, "application/json")
    assert json.loads(text) == {"error": "Not Found"}


@pytest.mark.parametrize("path", ["/%ff", "/v2/models/%c3/infer", "/%ed%a0%80", "/v2?x=%ff/%ff"])
def test_a_path_that_is_no_text_is_refused(served, path: str) -> None:
    """It cannot be decoded; a query can hold what it wants."""
    answer = httpx.get(served.url + path, timeout=TIMEOUT_S)

    if "?" in path:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()) == (400, {"error": "the path is not UTF-8"})


def test_a_page_that_is_only_read_says_so(served) -> None:
    """Also in JSON, with the methods that it has."""
    answer = httpx.post(f"{served.url}/metrics", timeout=TIMEOUT_S)

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert answer.json() == {"error": "Method Not Allowed"}


def test_health_is_served(served) -> None:
    """The standard service, for load balancers."""
    with grpc.insecure_channel(served.address) as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5) == b"\x08\x01"


def test_the_ready_line_says_what_where_and_how_fast(tmp_path) -> None:
    """One line for people."""
    served = start(write_counter(tmp_path), announce="text")
    with served.news:
        served.news.wait_for(lambda: served.lines or served.process.poll() is not None, TIMEOUT_S)
    served.stop()
    served.close()

    (line,) = served.lines
    assert re.fullmatch(
        r"legato \S+ is ready: serves counter \(python, 1 state, batched\) "
        r"on http\+grpc 127\.0\.0\.1:\d+ in \d+\.\d s; "
        r"keeps sequences in memory only\n",
        line,
    )


def test_a_model_that_may_have_state_is_named_at_start(tmp_path) -> None:
    """It is served without state, and nobody finds that out from wrong answers."""
    save(echo(), tmp_path, "doubtful")
    (tmp_path / "sure").mkdir()
    save(echo(), tmp_path / "sure")
    (tmp_path / "sure" / "model.yaml").write_text("discover: false\n")

    found = start(tmp_path / "doubtful.onnx", tmp_path / "sure")
    found.await_ready()
    found.stop()
    found.close()

    (line,) = [line for line in found.said if "model_may_have_state" in line]
    warning = json.loads(line)
    assert (warning["level"], warning["model"]) == ("warning", "doubtful")
    assert warning["pairs"] == "x <- x_out"
    assert "model.yaml" in warning["fix"]


# -- what cannot be served ----------------------------------------------------------------


def refused(found: subprocess.CompletedProcess) -> str:
    """Check that a start was refused in one clear message; return it."""
    assert found.returncode == 1
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    assert found.stderr.startswith("legato: ")
    return found.stderr


def test_a_taken_port_is_named(served) -> None:
    """Nothing is loaded before the port is known to be free."""
    text = refused(run("serve", SOURCE / "no-model", "--port", served.port))

    assert f"127.0.0.1:{served.port}" in text
    assert "--port" in text
    assert "fix:" in text


def test_an_address_of_another_machine_is_named() -> None:
    """It is the host that is wrong then, not the port."""
    text = refused(run("serve", SOURCE / "no-model", "--port", 0, "--host", "192.0.2.1"))

    assert "--host" in text
    assert "192.0.2.1" in text
    assert "--port" not in text


def test_a_missing_path_is_named(tmp_path) -> None:
    """The message names the path."""
    assert str(tmp_path / "gone") in refused(run("serve", tmp_path / "gone", "--port", 0))


def test_a_file_that_is_no_model_is_named(tmp_path) -> None:
    """Garbage in a model file is a start error of that file."""
    (tmp_path / "bad.onnx").write_bytes(b"garbage")

    text = refused(run("serve", tmp_path / "bad.onnx", "--port", 0))

    assert str(tmp_path / "bad.onnx") in text
    assert len(text.splitlines()) <= 4


def test_a_wrong_key_is_named_with_its_file(tmp_path) -> None:
    """File, key and fix."""
    home = write_counter(tmp_path)
    (home / "model.yaml").write_text("runtime: python\nentry: counter.py:Counter\nbatchng: off\n")

    text = refused(run("serve", home, "--port", 0))

    assert "model.yaml" in text
    assert "batchng" in text


def test_a_wrong_variable_is_named() -> None:
    """The environment is checked like the options."""
    assert "LEGATO_PORT" in refused(run("serve", "x.onnx", LEGATO_PORT="http"))


def test_the_envoy_configuration_can_be_seen() -> None:
    """For people who run Envoy themselves."""
    found = run("serve", "--print-envoy-config", "--port", 1234, "--extra-port", 1235)

    assert found.returncode == 0
    (listener,) = json.loads(found.stdout)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 1234}
    assert len(listener["additional_addresses"]) == 1


def test_the_version_and_the_commands_can_be_seen() -> None:
    """Without importing any of the commands."""
    assert re.fullmatch(r"legato \d+\.\d+\S*\n", run("--version").stdout)
    assert {"serve", "inspect", "bench", "demo"} <= set(run("--help").stdout.split())
