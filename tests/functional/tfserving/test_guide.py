"""What docs/migrating-from-ovms.md promises is what happens."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from legato.cli.ovms import FLAGS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "migrating-from-ovms.md"


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def flags_of(command):
    """Take the flags of a ``legato ovms`` line, without its ports."""
    words = shlex.split(command)
    assert words[:2] == ["legato", "ovms"]
    at = words.index("--port")
    return words[2:at]


@pytest.fixture(scope="module", params=["flags", "config"])
def server(request, ovms, kit, tmp_path_factory):
    """A server started by each of the two command lines of the page, in a folder of models."""
    folder = tmp_path_factory.mktemp("guide")
    kit.save(folder / "models", "summator", kit.models.accumulator(1))
    (folder / "config.json").write_text(blocks("json")[0])
    by_flags, by_config = (flags_of(text) for text in blocks("sh")[:2])
    flags = by_flags if request.param == "flags" else by_config
    paths = ("models/summator", "config.json")
    return ovms(*(folder / word if word in paths else word for word in flags))


def here(text, server):
    """Lead a command of the page to the server of the test."""
    return text.replace("localhost:8000", f"127.0.0.1:{server.rest_port}").replace(
        "localhost:9000", f"127.0.0.1:{server.grpc_port}"
    )


def run(text, server):
    return subprocess.run(
        ["bash", "-ec", here(text, server)], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_curl_prints_what_the_page_says(server) -> None:
    """Byte for byte, a line an answer."""
    commands, expected = blocks("sh")[2], blocks("text")[1]

    printed = [run(f"curl {part}", server) for part in commands.split("curl ")[1:]]

    assert "".join(f"{line}\n" for line in printed) == expected


def test_python_blocks_run(server) -> None:
    """As a reader would paste them."""
    pages = blocks("py")

    for page in pages:
        exec(here(page, server), {})  # noqa: S102 - our own page

    assert len(pages) == 2


def test_reload_answers_with_the_status_of_all_models(server) -> None:
    """The last command of the page."""
    answer = json.loads(run(blocks("sh")[3], server))

    assert list(answer) == ["summator"]


def test_every_flag_is_on_the_page() -> None:
    """Used, accepted, refused, or ours."""
    text = PAGE.read_text()

    missing = [name for name in FLAGS if f"`{name}`" not in text]

    assert not missing
