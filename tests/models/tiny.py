"""Tiny ONNX models built by code: each shows one thing a state can do, or do wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Value = tuple[str, int, list]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Make a checked model that every ONNX Runtime since 1.17 reads."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def save(model: onnx.ModelProto, folder: Path, name: str = "model") -> Path:
    """Write a model and return its path."""
    path = folder / f"{name}.onnx"
    onnx.save(model, str(path))
    return path


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def accumulator(width: int = 4) -> onnx.ModelProto:
    """``sum += x``; the answer is the sum so far."""
    return build(
        [node("Add", ["x", "state"], ["next_state"]), node("Identity", ["next_state"], ["y"])],
        [("x", FLOAT, ["batch", width]), ("state", FLOAT, ["batch", width])],
        [("y", FLOAT, ["batch", width]), ("next_state", FLOAT, ["batch", width])],
    )


def counter() -> onnx.ModelProto:
    """Count the steps whose ``tick`` is 1, as int64."""
    return build(
        [node("Add", ["tick", "count_state"], ["new_count_state"]),
         node("Identity", ["new_count_state"], ["count"])],
        [("tick", INT64, ["n", 1]), ("count_state", INT64, ["n", 1])],
        [("count", INT64, ["n", 1]), ("new_count_state", INT64, ["n", 1])],
    )  # fmt: skip


def echo() -> onnx.ModelProto:
    """Answer with the input. Stateless, though its names and shapes are a perfect pair."""
    return build(
        [node("Identity", ["x"], ["x_out"])],
        [("x", FLOAT, ["batch", 3])],
        [("x_out", FLOAT, ["batch", 3])],
    )


def lstm(hidden: int = 5, seed: int = 0) -> onnx.ModelProto:
    """A real recurrent cell with two states whose batch axis is 1."""
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.standard_normal((1, 4 * hidden, 3)).astype(np.float32),
        "r": rng.standard_normal((1, 4 * hidden, hidden)).astype(np.float32),
    }
    return build(
        [node("Transpose", ["x"], ["xt"], perm=[1, 0, 2]),
         node("LSTM", ["xt", "w", "r", "", "", "h0", "c0"], ["", "hN", "cN"], hidden_size=hidden),
         node("Transpose", ["hN"], ["y"], perm=[1, 0, 2])],
        [("x", FLOAT, ["N", 1, 3]), ("h0", FLOAT, [1, "N", hidden]),
         ("c0", FLOAT, [1, "N", hidden])],
        [("y", FLOAT, ["N", 1, hidden]), ("hN", FLOAT, [1, "N", hidden]),
         ("cN", FLOAT, [1, "N", hidden])],
        weights,
    )  # fmt: skip


def crossed(*, named: bool = True) -> onnx.ModelProto:
    """Two states of equal shape whose names sort one way going in and the other coming out.

    ``slow`` adds x, ``fast`` adds ten times x. Without ``named``, the names of the
    outputs say nothing, and only a config can pair them.
    """
    slow, fast = ("z_slow_state", "y_fast_state") if named else ("zulu", "alpha")
    next_slow, next_fast = (
        ("new_z_slow_state", "next_y_fast_state") if named else ("first", "second")
    )
    return build(
        [node("Add", ["x", slow], [next_slow]),
         node("Mul", ["x", "ten"], ["tenfold"]),
         node("Add", ["tenfold", fast], [next_fast]),
         node("Sub", [next_fast, next_slow], ["y"])],
        [("x", FLOAT, ["batch", 2]), (fast, FLOAT, ["batch", 2]), (slow, FLOAT, ["batch", 2])],
        [("y", FLOAT, ["batch", 2]), (next_slow, FLOAT, ["batch", 2]),
         (next_fast, FLOAT, ["batch", 2])],
        {"ten": np.array(10, np.float32)},
    )  # fmt: skip


def growing() -> onnx.ModelProto:
    """A cache that grows by a row a step; the answer is the sum of everything so far."""
    return build(
        [node("Concat", ["past", "x"], ["present"], axis=1),
         node("ReduceSum", ["present", "one"], ["y"], keepdims=0)],
        [("x", FLOAT, ["batch", 1, 2]), ("past", FLOAT, ["batch", "past_len", 2])],
        [("y", FLOAT, ["batch", 2]), ("present", FLOAT, ["batch", "total_len", 2])],
        {"one": np.array([1], np.int64)},
    )  # fmt: skip


def fails_on(value: int = 7) -> onnx.ModelProto:
    """Look ``index`` up in a table of ``value`` entries: a larger index fails the whole call."""
    return build(
        [node("Gather", ["table", "index"], ["found"]),
         node("Add", ["found", "state"], ["next_state"]),
         node("Identity", ["next_state"], ["y"])],
        [("index", INT64, ["batch", 1]), ("state", FLOAT, ["batch", 1])],
        [("y", FLOAT, ["batch", 1]), ("next_state", FLOAT, ["batch", 1])],
        {"table": np.arange(value, dtype=np.float32)},
    )  # fmt: skip


def mixing() -> onnx.ModelProto:
    """Subtract the mean over the batch: every row depends on who else is there."""
    return build(
        [node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
         node("Sub", ["x", "mean"], ["centred"]),
         node("Add", ["centred", "state"], ["next_state"]),
         node("Identity", ["next_state"], ["y"])],
        [("x", FLOAT, ["batch", 3]), ("state", FLOAT, ["batch", 3])],
        [("y", FLOAT, ["batch", 3]), ("next_state", FLOAT, ["batch", 3])],
    )  # fmt: skip


def fixed(*, patchable: bool = True) -> onnx.ModelProto:
    """An accumulator exported with a batch of 1, also in the target of a Reshape.

    Where it is not patchable, the Reshape puts the 1 in the middle, so that several
    rows cannot pass.
    """
    target = [1, 4] if patchable else [2, 1, 2]
    return build(
        [node("Reshape", ["x", "target"], ["folded"]),
         node("Reshape", ["folded", "back"], ["flat"]),
         node("Add", ["flat", "state"], ["next_state"]),
         node("Identity", ["next_state"], ["y"])],
        [("x", FLOAT, [1, 2, 2]), ("state", FLOAT, [1, 4])],
        [("y", FLOAT, [1, 4]), ("next_state", FLOAT, [1, 4])],
        {"target": np.array(target, np.int64), "back": np.array([1, 4], np.int64)},
    )  # fmt: skip


def over_time() -> onnx.ModelProto:
    """Dimension 0 is time: a running sum over it, and a state of one fixed row."""
    return build(
        [node("CumSum", ["x", "axis"], ["summed"]),
         node("Add", ["summed", "state"], ["y"]),
         node("Slice", ["y", "last", "end", "axes"], ["next_state"])],
        [("x", FLOAT, ["frames", 2]), ("state", FLOAT, [1, 2])],
        [("y", FLOAT, ["frames", 2]), ("next_state", FLOAT, [1, 2])],
        {"axis": np.array(0, np.int64), "last": np.array([-1], np.int64),
         "end": np.array([2**31], np.int64), "axes": np.array([0], np.int64)},
    )  # fmt: skip


def windowed(window: int = 2) -> onnx.ModelProto:
    """Needs the last ``window`` samples in front of two new ones; answers with their sum."""
    return build(
        [node("ReduceSum", ["x", "one"], ["y"], keepdims=1)],
        [("x", FLOAT, ["batch", window + 2])],
        [("y", FLOAT, ["batch", 1])],
        {"one": np.array([1], np.int64)},
    )


def scalar_rate() -> onnx.ModelProto:
    """Scale by a scalar setting that has no batch axis."""
    return build(
        [node("Cast", ["sr"], ["rate"], to=FLOAT),
         node("Mul", ["x", "rate"], ["scaled"]),
         node("Add", ["scaled", "state"], ["next_state"]),
         node("Identity", ["next_state"], ["y"])],
        [("x", FLOAT, ["batch", 2]), ("state", FLOAT, ["batch", 2]), ("sr", INT64, [])],
        [("y", FLOAT, ["batch", 2]), ("next_state", FLOAT, ["batch", 2])],
    )  # fmt: skip


def unbatched_state() -> onnx.ModelProto:
    """The state has no axis of size 1 at all: rows get one in front."""
    return build(
        [node("Add", ["x", "state"], ["next_state"]), node("Identity", ["next_state"], ["y"])],
        [("x", FLOAT, [3]), ("state", FLOAT, [3])],
        [("y", FLOAT, [3]), ("next_state", FLOAT, [3])],
    )


def grower() -> onnx.ModelProto:
    """Put ``x`` behind a cache that grows on axis 2; the answer is the sum of all entries."""
    return build(
        [node("Concat", ["cache", "x"], ["present"], axis=2),
         node("ReduceSum", ["present", "axes"], ["sum"], keepdims=0),
         node("Unsqueeze", ["sum", "last"], ["y"])],
        [("x", FLOAT, ["batch", 2, 1, 2]), ("cache", FLOAT, ["batch", 2, "past", 2])],
        [("y", FLOAT, ["batch", 1]), ("present", FLOAT, ["batch", 2, "past + 1", 2])],
        {"axes": np.array([1, 2, 3]), "last": np.array([1])},
    )  # fmt: skip
