"""Handlers and envelopes that an archive names without having them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.functional.torchserve.conftest import write_properties
from tests.functional.torchserve.test_archives import PLAIN, pack
from tests.functional.torchserve.test_command import run

if TYPE_CHECKING:
    from pathlib import Path

DOUBLES = """
def handle(data, context):
    if data is None:
        return None
    return [number * 2 for number in data]
"""


NET = """
class Net:
    def to(self, device):
        return self

    def eval(self):
        return self
"""


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    """A server whose archives all sit in KServe's envelope."""
    folder = tmp_path_factory.mktemp("enveloped")
    (folder / "doubles.py").write_text(DOUBLES)
    pack(folder / "store", "doubles", folder / "doubles.py", PLAIN)
    return torchserve(
        *("--ncs", "--disable-token-auth", "--models", "all"),
        folder=folder,
        properties={"service_envelope": "kserve"},
    )


def test_an_envelope_stands_between_json_and_handler(served) -> None:
    """On KServe's path and on TorchServe's, to be predicted or explained."""
    body = json.dumps({"instances": [1, 2, 3]}).encode()
    kind = {"content-type": "application/json"}

    assert served.post("/v1/models/doubles:predict", body, **kind).json == {
        "predictions": [2, 4, 6]
    }
    assert served.post("/predictions/doubles", body, **kind).json == {"predictions": [2, 4, 6]}
    assert served.post("/explanations/doubles", body, **kind).json == {"explanations": [2, 4, 6]}


def test_a_body_without_instances_fails_alone(served) -> None:
    """And says that it failed."""
    assert served.post("/predictions/doubles", b"[1]").status == 503


def write_folder(store: Path, handler: str) -> None:
    """Write a model without a handler of its own; torch-model-archiver packs no other names."""
    folder = store / "m"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "net.py").write_text(NET)
    model = {"modelName": "m", "modelVersion": "1.0", "handler": handler, "modelFile": "net.py"}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        ("nonesuch", "name one of base_handler, image_classifier"),
        ("vllm_handler", "vLLM's own server"),
    ],
)
def test_a_handler_that_is_nowhere_is_told_at_the_start(tmp_path, handler: str, text: str) -> None:
    """With the names that there are, or where to go."""
    write_folder(tmp_path / "store", handler)
    write_properties(tmp_path)

    started = run(
        tmp_path, *("--start", "--foreground", "--ncs", "--disable-token-auth"),
        *("--model-store", "store", "--models", "m", "--ts-config", "config.properties"),
    )  # fmt: skip

    assert started.returncode != 0
    assert text in started.stderr


def test_the_base_handler_is_built_in(torchserve, tmp_path) -> None:
    """It loads the model that the archive names, and is asked what is special about it."""
    write_folder(tmp_path / "store", "base_handler")
    served = torchserve("--ncs", "--disable-token-auth", "--models", "m", folder=tmp_path)

    (described,) = served.get("management", "/models/m?customized=true").json

    assert described["customizedMetadata"] == {}
    assert served.get("inference", "/ping").status == 200
