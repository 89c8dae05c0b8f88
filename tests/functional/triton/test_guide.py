"""What docs/migrating-from-triton.md promises is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tests.models import triton_models as models

from legato.cli.triton import FLAGS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "migrating-from-triton.md"
PORTS = ("http-port", "grpc-port", "metrics-port")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(triton, tmp_path_factory):
    """A server of the page's repository, started by its command line on other ports."""
    folder = tmp_path_factory.mktemp("guide")
    words = shlex.split(blocks("sh")[0])
    assert words[:3] == ["legato", "triton", "--model-repository=models"]
    assert [word[2:].partition("=")[0] for word in words[3:]] == list(PORTS)
    models.write(folder / "models", "accumulator", models.accumulator(), blocks("pbtxt")[0])
    return triton(folder / "models")


def here(text, server):
    """Lead a block of the page to the server of the test."""
    return text.replace("localhost:8000", server.http).replace("localhost:8001", server.grpc)


def test_curl_gets_the_sums_that_the_page_names(server) -> None:
    """A start and an end."""
    commands = ["curl " + part for part in blocks("sh")[1].split("curl ")[1:]]

    printed = [
        subprocess.run(
            ["bash", "-ec", here(command, server)],
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for command in commands
    ]  # fmt: skip

    sums = [json.loads(text)["outputs"][0]["data"] for text in printed]
    assert sums == [[5], [12]]
    assert "The answers are 5 and 12." in PAGE.read_text()


@pytest.mark.parametrize("number", [0, 1])
def test_python_blocks_run(server, number) -> None:
    """As a reader would paste them; they check their answers themselves."""
    pages = blocks("py")

    exec(here(pages[number], server), {})  # noqa: S102 - our own page

    assert len(pages) == 2


def test_every_flag_that_does_something_is_on_the_page() -> None:
    """Used, or ours; those accepted without effect and those refused are in the help."""
    text = PAGE.read_text()
    used = [name for name, flag in FLAGS.items() if "changes nothing" not in flag.help]

    missing = [name for name in used if f"`{name}`" not in text and FLAGS[name].kind != "refused"]

    assert not missing
