"""Every example, run to its end against a real server; its output is compared."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.assets import asset, moonshine

from legato.demo.process import ServerProcess
from legato.repository.loader import load_paths
from legato.runtimes.python import load

EXAMPLES = Path(__file__).parents[3] / "examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
NEEDS = {"07_pytorch_module": "torch"}


@pytest.fixture(autouse=True)
def _files():
    """What the examples read."""
    for name, file in (
        ("silero", "silero_vad.onnx"),
        ("silero", "test.wav"),
        ("dtln", "model_1.onnx"),
        ("moonshine", "beckett.wav"),
        ("librivox", "transcription"),
    ):
        asset(name, file)
    moonshine()


@pytest.mark.parametrize("name", NAMES)
async def test_example_prints_what_it_promises(name, tmp_path):
    """The client of each example prints the text of its expected.txt."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="needs an extra of Legato: make test-torch")
    server = ServerProcess([str(EXAMPLES / name)], tmp_path / "log")
    try:
        ready = await server.start()
        done = subprocess.run(  # noqa: ASYNC221  # nothing else is to happen meanwhile
            [sys.executable, EXAMPLES / name / "client.py", ready.address],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    finally:
        await server.stop()

    assert done.stdout == (EXAMPLES / name / "expected.txt").read_text(), done.stderr


def test_examples_are_numbered_without_a_gap():
    """They are read in the order of their numbers."""
    assert [name[:2] for name in NAMES] == [f"{i + 1:02}" for i in range(len(NAMES))]


@pytest.mark.parametrize("name", NAMES)
def test_example_has_a_short_readme(name):
    """A README is read in a minute, and names the commands to run."""
    text = (EXAMPLES / name / "README.md").read_text()

    assert len(text.splitlines()) <= 26
    assert f"legato serve examples/{name}" in text
    assert f"python examples/{name}/client.py" in text


def test_denoiser_is_proven_to_batch():
    """Its networks were exported for one row; loosened, rows still keep apart."""
    (config,) = load_paths([EXAMPLES / "04_denoiser"])

    signature = load(config).signature

    assert signature.batching
    assert "3 rows together gave what they give one by one" in signature.why
