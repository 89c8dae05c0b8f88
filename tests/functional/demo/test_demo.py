"""``legato demo`` from its command line, on the real server."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from tests.assets import asset
from typer.testing import CliRunner

from legato.cli.demo import command
from legato.demo import run as demo

MATPLOTLIB_WARNINGS = "ignore:.*:DeprecationWarning:matplotlib"


@pytest.fixture
def assets() -> Path:
    asset("silero", "test.wav")
    return asset("silero", "silero_vad.onnx").parent


def test_whole_minute_on_32_streams_with_a_killed_server(tmp_path, assets):
    """The main job: the published segments, every stream exact, and the crash in between."""
    done = subprocess.run(
        [sys.executable, "-m", "legato", "demo", "--output", tmp_path, "--assets", assets],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    out = re.sub(r"\s+", " ", done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "19 segments, 48.63 19 segments, 48.63 none" in out
    assert "60,000 answers, every one equal" in out or re.search(r"at most \d\.\de-0[6-9]", out)
    assert "kill -9 after" in out
    assert "32 steps were sent again" in out or re.search(r"\d+ steps were sent again", out)
    assert "none lost, none applied twice" in out
    assert re.search(r"\d of 60,000 steps +[\d,]+ steps/s", done.stdout)  # plain lines on a pipe
    assert (tmp_path / "timelines.png").read_bytes().startswith(b"\x89PNG")


def invoke(tmp_path, assets, *more):
    arguments = ["--frames", "40", "--streams", "3", "--output", str(tmp_path)]
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*arguments, "--assets", str(assets), *more])


@pytest.mark.filterwarnings(MATPLOTLIB_WARNINGS)
def test_wrong_answers_give_exit_code_1(tmp_path, assets, monkeypatch):
    """One probability of one stream off by a hair, and the demo fails."""
    right = demo.bare_answers

    def off(model, streams):
        answers = right(model, streams)
        answers[2, 39] += np.float32(2e-5)
        return answers

    monkeypatch.setattr(demo, "bare_answers", off)

    result = invoke(tmp_path, assets, "--store", "memory", "--no-kill")

    assert result.exit_code == 1
    assert "THE ANSWERS DIFFER" in result.stdout


@pytest.mark.filterwarnings(MATPLOTLIB_WARNINGS)
def test_short_run_is_compared_with_the_bare_model(tmp_path, assets):
    """A part of the recording has no published answer."""
    result = invoke(tmp_path, assets, "--store", "memory", "--no-kill")

    assert result.exit_code == 0, result.stdout
    assert "the bare model" in result.stdout
    assert "kill" not in result.stdout


def test_memory_and_kill_do_not_go_together(tmp_path, assets):
    """A server that keeps nothing cannot go on after its death, and says so at once."""
    result = invoke(tmp_path, assets, "--store", "memory")

    assert result.exit_code == 2
    assert "--no-kill" in result.output


def test_server_that_does_not_start_is_quoted(tmp_path, assets, monkeypatch):
    """The demo fails with the server's own last words."""
    monkeypatch.setattr(demo, "MANIFEST", demo.MANIFEST.replace("stateN", "stateM"))

    result = invoke(tmp_path, assets, "--store", "memory", "--no-kill")

    assert result.exit_code == 1
    assert "demo failed: the server is not ready" in result.stdout
    assert "stateM" in result.stdout
