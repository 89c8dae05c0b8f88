"""A real server with an accumulator, and clients of several makes."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
START_S = 60

CONFIG = "name: accumulator\nfile: model.onnx\nstates:\n  - {input: SUM, output: NEXT}\n"


def write_accumulator(folder: Path) -> Path:
    """Write a model whose output is the sum of its inputs so far."""
    from onnx import TensorProto, helper, save

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1])

    nodes = [
        helper.make_node("Add", ["INPUT", "SUM"], ["NEXT"]),
        helper.make_node("Identity", ["NEXT"], ["OUTPUT"]),
    ]
    graph = helper.make_graph(
        nodes, "accumulator", [value("INPUT"), value("SUM")], [value("OUTPUT"), value("NEXT")]
    )
    folder.mkdir()
    opset = helper.make_opsetid("", 17)
    save(helper.make_model(graph, opset_imports=[opset], ir_version=10), folder / "model.onnx")
    (folder / "model.yaml").write_text(CONFIG)
    return folder


@contextmanager
def running(model: Path, *options: str) -> Iterator[str]:
    """Run ``legato serve`` on any free port; yields ``host:port``."""
    command = [sys.executable, "-m", "legato", "serve", str(model), "--port", "0"]
    command += ["--announce", "json", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=_environment()
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith('{"ready"'):
                break
        else:
            pytest.fail(f"the server did not start: {''.join(said)}")
        yield f"127.0.0.1:{json.loads(said[-1])['ready']['ports'][0]}"
    finally:
        process.terminate()
        process.wait(START_S)
        process.stdout.close()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT / "src")}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_accumulator(tmp_path_factory.mktemp("kserve") / "accumulator")


@pytest.fixture(scope="session")
def server(model) -> Iterator[str]:
    """Address of a server that all tests share; each takes ids of its own."""
    with running(model) as address:
        yield address


@pytest.fixture
def serve(model) -> Any:
    """Run a server with options of one's own."""
    return lambda *options: running(model, *options)


@pytest.fixture
def fresh_id(request) -> int:
    """A correlation id that no other test uses."""
    return abs(hash(request.node.nodeid)) % 2**62 + 1


def grpc_input(value: float) -> list[Any]:
    import tritonclient.grpc as triton

    tensor = triton.InferInput("INPUT", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.float32([[value]]))
    return [tensor]


def http_input(value: float, *, binary: bool = True) -> list[Any]:
    import tritonclient.http as triton

    tensor = triton.InferInput("INPUT", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.float32([[value]]), binary_data=binary)
    return [tensor]


class Stream:
    """A tritonclient stream whose answers can be waited for."""

    def __init__(self, client: Any, **options: Any) -> None:
        self.client = client
        self.answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: self.answers.put((result, error)), **options)

    def send(self, value: float, sequence: int | str, **options: Any) -> None:
        self.client.async_stream_infer(
            "accumulator", grpc_input(value), sequence_id=sequence, **options
        )

    def next(self) -> Any:
        """Return (result, error) of the next answer."""
        return self.answers.get(timeout=20)


@pytest.fixture
def tools() -> Any:
    """The helpers above."""
    return SimpleNamespace(grpc_input=grpc_input, http_input=http_input, Stream=Stream)
