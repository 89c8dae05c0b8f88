"""``legato triton`` as a command: flags, ports, exit codes, readiness."""

from __future__ import annotations

import subprocess
import sys
import urllib.request

import pytest
from tests.functional.triton.conftest import step, told
from tests.models import triton_models as models


@pytest.fixture
def repository(tmp_path):
    """One model that is right."""
    models.write_accumulator(tmp_path / "models", name="good")
    return tmp_path / "models"


@pytest.fixture
def broken(repository):
    """And one that is not."""
    models.write(repository, "bad", None, 'backend: "onnxruntime"\nmax_batch_size: -1\n')
    return repository


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "legato", "triton", *arguments],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_three_ports_are_opened(start, repository) -> None:
    """HTTP, gRPC and metrics, in this order; the ready line names model and state."""
    server = start(repository)
    ready = server.served.await_ready()

    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as page:
        metrics = page.read().decode()

    assert server.rest("GET", "/v2/health/ready")[0] == 200
    assert server.client().is_server_live()
    assert 'legato_model_ready{model="good",version="1"} 1.0' in metrics
    assert [model["name"] for model in ready["models"]] == ["good"]
    assert len(ready["ports"]) == 3


def test_a_port_may_stay_closed(start, repository) -> None:
    """``--allow-http=false``: gRPC and metrics remain."""
    server = start(repository, "--allow-http=false")

    assert len(server.served.ports) == 2


def test_a_model_that_is_wrong_stops_the_start(start, broken) -> None:
    """Exit code 1; the error names the file, the problem and the model."""
    server = start(broken, wait=False)

    code = server.served.wait()

    assert code == 1
    assert "'max_batch_size' must be non-negative value in model configuration" in (
        server.served.errors
    )
    assert "bad/config.pbtxt" in server.served.errors


def test_it_may_be_left_out(start, broken) -> None:
    """``--exit-on-error=false``: others are served; readiness waits for all unless told not to."""
    strict = start(broken, "--exit-on-error=false")
    loose = start(broken, "--exit-on-error=false", "--strict-readiness=false")
    answer = told(step(strict.client(), "good", 4, 1, sequence_start=True))
    lines = strict.client().get_model_repository_index(as_json=True)["models"]

    assert answer == 4
    assert strict.rest("GET", "/v2/health/ready")[0] == 400
    assert loose.rest("GET", "/v2/health/ready")[0] == 200
    assert lines[0]["state"] == "UNAVAILABLE"
    assert "max_batch_size" in lines[0]["reason"]


def test_a_config_must_be_there_where_nothing_is_completed(start, repository) -> None:
    """``--disable-auto-complete-config``."""
    models.write(repository, "bare", models.accumulator())
    server = start(repository, "--disable-auto-complete-config", wait=False)

    assert server.served.wait() == 1
    assert "bare/config.pbtxt" in server.served.errors


def test_another_config_may_be_chosen(start, repository) -> None:
    """``--model-config-name`` reads ``configs/<name>.pbtxt`` where a model has it."""
    models.write_accumulator(repository, name="other")
    folder = repository / "other" / "configs"
    folder.mkdir()
    text = (repository / "other" / "config.pbtxt").read_text()
    (folder / "fast.pbtxt").write_text(text.replace("max_batch_size: 8", "max_batch_size: 3"))
    client = start(repository, "--model-config-name", "fast").client()

    sizes = {
        name: client.get_model_config(name, as_json=True)["config"]["max_batch_size"]
        for name in ("good", "other")
    }

    assert sizes == {"good": 8, "other": 3}


def test_a_model_in_two_repositories_is_refused(start, repository, tmp_path) -> None:
    """The error names both."""
    models.write_accumulator(tmp_path / "more", name="good")
    server = start(repository, f"--model-repository={tmp_path / 'more'}", wait=False)

    assert server.served.wait() == 1
    assert "model appears in multiple repositories" in server.served.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model-repository=/nowhere", "--no-such-flag"], "unrecognized option '--no-such-flag'"),
        ([], "--model-repository must be specified"),
        (["--model-repository"], "option '--model-repository' requires an argument"),
        (["--model-repository=x", "--grpc-use-ssl=true"], "'--grpc-use-ssl' is not offered here"),
        (["--model-repository=/nowhere", "--store=memory"], "/nowhere"),
    ],
)
def test_a_wrong_command_line_is_told(arguments, said) -> None:
    """Exit code 1, as tritonserver's."""
    ended = run(*arguments)

    assert ended.returncode == 1
    assert said in ended.stderr


def test_help_lists_every_flag() -> None:
    """Also those that do nothing here."""
    ended = run("--help")

    assert ended.returncode == 0
    for flag in ("--model-repository", "--strict-readiness", "--data", "--metrics-interval-ms"):
        assert flag in ended.stdout
