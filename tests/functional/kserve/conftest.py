"""A real server with an accumulator, and clients of several makes."""

from __future__ import annotations

import queue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    return write_accumulator(tmp_path_factory.mktemp("kserve") / "accumulator")


@pytest.fixture(scope="module")
def server(serve, model) -> str:
    """Address of a server that the tests of a module share; each takes ids of its own."""
    return serve(model).address


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
