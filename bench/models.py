"""The models that are measured: a tiny one built here, two real ones from their packages."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ASSETS = Path(__file__).resolve().parent.parent / ".cache" / "assets"


@dataclass(frozen=True)
class Model:
    """A model, how to serve it, and what one row of its inputs and states looks like.

    Attributes:
        file: Its ONNX file under the assets, "" = built by ``build``.
        manifest: ``model.yaml``.
        rows: Makes every input of the bare graph for a number of rows.
        about: For the report.
        left_out: Inputs that the load does not send.
        build: Writes the file where there is no asset.
    """

    file: str
    manifest: str
    rows: Callable[[int], Mapping[str, np.ndarray[Any, Any]]]
    about: str
    left_out: tuple[str, ...] = ()
    build: Callable[[Path], None] | None = field(default=None)

    def install(self, name: str, folder: Path) -> None:
        """Write a model folder that ``legato serve`` takes."""
        folder.mkdir(parents=True)
        target = folder / "model.onnx"
        if self.build is not None:
            self.build(target)
        else:
            shutil.copyfile(ASSETS / self.file, target)
        text = f"name: {name}\nfile: model.onnx\n{self.manifest}"
        (folder / "model.yaml").write_text(text, encoding="utf-8")


def build_accumulator(path: Path) -> None:
    """Write a graph whose output is the sum of all its inputs so far."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1])

    graph = helper.make_graph(
        [
            helper.make_node("Add", ["INPUT", "total_in"], ["total_out"]),
            helper.make_node("Identity", ["total_out"], ["OUTPUT"]),
        ],
        "accumulator",
        [value("INPUT"), value("total_in")],
        [value("OUTPUT"), value("total_out")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def build_wide(path: Path, floats: int) -> None:
    """Write an accumulator that keeps its sum ``floats`` times: state of a size to choose."""

    def value(name: str, width: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width])

    ends = {"from": [0], "to": [1], "axis": [1]}
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["INPUT", "total_in"], ["total_out"]),
            helper.make_node("Slice", ["total_out", *ends], ["OUTPUT"]),
        ],
        "wide accumulator",
        [value("INPUT", 1), value("total_in", floats)],
        [value("OUTPUT", 1), value("total_out", floats)],
        [helper.make_tensor(name, TensorProto.INT64, [1], at) for name, at in ends.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def wide(kilobytes: int) -> Model:
    """Return an accumulator with so much state a sequence."""
    floats = kilobytes * 256
    return Model(
        "",
        "states:\n  - {input: total_in, output: total_out}\n",
        lambda rows: {"INPUT": _noise(rows, 1), "total_in": _noise(rows, floats)},
        f"an accumulator with {kilobytes} KB of state",
        build=lambda path: build_wide(path, floats),
    )


def _noise(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).uniform(-1, 1, shape).astype(np.float32)


MODELS: dict[str, Model] = {
    "accumulator": Model(
        "",
        "states:\n  - {input: total_in, output: total_out}\n",
        lambda rows: {"INPUT": _noise(rows, 1), "total_in": _noise(rows, 1)},
        "adds its input to its state: what is left is the server's own cost",
        build=build_accumulator,
    ),
    "streamsad": Model(
        "streamsad/model_2025-06-10.onnx",
        "inputs:\n  input: {shape: [1, 257, 1]}\n"
        "states:\n  - {input: input_state, output: output_state, batch_axis: 1}\n",
        lambda rows: {"input": _noise(rows, 257, 1), "input_state": _noise(1, rows, 64)},
        "StreamSAD, speech activity, 32 ms a step: a small model that gains from batches",
    ),
    "silero": Model(
        "silero/silero_vad.onnx",
        "inputs:\n  input: {shape: [1, 512]}\n  sr: {scalar: true, default: 16000}\n"
        "states:\n  - {input: state, output: stateN, shape: [2, 1, 128], batch_axis: 1}\n"
        "  - {name: context, input: input, rule: window, axis: 1, size: 64}\n",
        lambda rows: {
            "input": _noise(rows, 576),
            "state": _noise(2, rows, 128),
            "sr": np.array(16000, np.int64),
        },
        "Silero VAD, 32 ms a step: a model that costs as much as the server's own work",
        left_out=("sr",),
    ),
    "accumulator-1k": wide(1),
    "accumulator-16k": wide(16),
}
