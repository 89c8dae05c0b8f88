"""Tiny OpenVINO models built by code: each shows one way to keep a state, or to keep it badly.

All but the explicit ones keep their state in variables (ReadValue and Assign), as
OpenVINO's own tools write them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op.util import Variable, VariableInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

f32 = np.float32


class Remembered:
    """A variable under construction: read it, then write its next value."""

    def __init__(self, name: str, shape: Sequence[int], dtype: Any = f32, first: Any = None):
        info = VariableInfo()
        info.variable_id = name
        info.data_type = ov.Type(np.dtype(dtype))
        info.data_shape = ov.PartialShape(list(shape))
        self._variable = Variable(info)
        if first is None:
            self.value = ops.read_value(self._variable)
        else:
            self.value = ops.read_value(first, self._variable)

    def becomes(self, value: Any) -> Any:
        if not isinstance(value, ov.Node):  # one output of several: a conversion to its own type
            value = ops.convert(value, value.get_element_type().get_type_name())
        return ops.assign(value, self._variable)


def zeros(*shape: int, dtype: Any = f32) -> Any:
    return ops.constant(np.zeros(shape, dtype))


def parameter(name: str, shape: Sequence[int], dtype: Any = f32) -> Any:
    made = ops.parameter(list(shape), dtype, name=name)
    made.output(0).set_names({name})
    return made


def result(name: str, value: Any) -> Any:
    """Make an output under a name of its own, whatever else shows the same tensor."""
    own = ops.add(value, ops.constant(np.zeros((), value.get_element_type().to_dtype())))
    own.output(0).set_names({name})
    return ops.result(own)


def model(results: Sequence[Any], sinks: Sequence[Any], inputs: Sequence[Any]) -> Any:
    return ov.Model(list(results), list(sinks), list(inputs), "tiny")


def save(made: Any, folder: Path, name: str = "model") -> Path:
    """Write ``.xml`` and ``.bin``; weights are kept as they are."""
    path = folder / f"{name}.xml"
    ov.save_model(made, str(path), compress_to_fp16=False)
    return path


# -- models that can share calls -----------------------------------------------------------


def accumulator(width: int = 4) -> Any:
    """``sum += x``; the answer and the next state are one tensor."""
    x = parameter("x", [1, width])
    state = Remembered("sum", [1, width], first=zeros(1, width))
    total = ops.add(x, state.value)
    total.output(0).set_names({"y"})
    return model([ops.result(total)], [state.becomes(total)], [x])


def starts_at(first: float) -> Any:
    """An accumulator whose first value is a constant of the file, behind a Convert."""
    x = parameter("x", [1, 2])
    constant = ops.convert(ops.constant(np.full((1, 2), first, np.float16)), "f32")
    state = Remembered("sum", [1, 2], first=constant)
    total = ops.add(x, state.value)
    return model([result("y", total)], [state.becomes(total)], [x])


def starts_from_data() -> Any:
    """An accumulator that begins with twice ``seed`` of its first step."""
    x, seed = parameter("x", [1, 3]), parameter("seed", [1, 3])
    first = ops.multiply(seed, ops.constant(f32(2)))
    state = Remembered("sum", [1, 3], first=first)
    total = ops.add(x, state.value)
    return model([result("y", total)], [state.becomes(total)], [x, seed])


def open_without_first() -> Any:
    """An accumulator of any batch that no first value describes: natively it cannot step."""
    x = parameter("x", [-1, 4])
    state = Remembered("sum", [-1, 4])
    total = ops.add(x, state.value)
    return model([result("y", total)], [state.becomes(total)], [x])


def shaped_first() -> Any:
    """An accumulator of any batch whose zeros take their shape from the input."""
    x = parameter("x", [-1, 4])
    batch = ops.gather(ops.shape_of(x), ops.constant([0]), ops.constant(0))
    shape = ops.concat([batch, ops.constant(np.array([4], np.int64))], 0)
    first = ops.broadcast(ops.constant(f32(0)), shape)
    state = Remembered("sum", [-1, 4], first=first)
    total = ops.add(x, state.value)
    return model([result("y", total)], [state.becomes(total)], [x])


def typed(dtype: Any) -> Any:
    """An accumulator in any dtype."""
    x = parameter("x", [1, 2], dtype)
    state = Remembered("sum", [1, 2], dtype, first=zeros(1, 2, dtype=dtype))
    total = ops.logical_or(x, state.value) if np.dtype(dtype) == bool else ops.add(x, state.value)
    total.output(0).set_names({"y"})
    return model([ops.result(total)], [state.becomes(total)], [x])


def crossed() -> Any:
    """Two variables whose ids sort one way and whose writes come the other way round."""
    x = parameter("x", [1, 2])
    slow = Remembered("a_slow", [1, 2], first=zeros(1, 2))
    fast = Remembered("b_fast", [1, 2], first=zeros(1, 2))
    quick = ops.add(fast.value, ops.multiply(x, ops.constant(f32(10))))
    calm = ops.add(slow.value, x)
    both = [result("fast", quick), result("slow", calm)]
    return model(both, [fast.becomes(quick), slow.becomes(calm)], [x])


def kaldi_like(width: int = 6, context: int = 3) -> Any:
    """A splice of the last frames and a small counter of steps, all in two dimensions."""
    x = parameter("Parameter", [1, width])
    frames = Remembered("frames", [1, width * context], first=zeros(1, width * context))
    counter = Remembered("counter", [1, 1], first=zeros(1, 1))
    joined = ops.concat([frames.value, x], 1)
    whole = range(width, width * (context + 1))
    kept = ops.gather(joined, ops.constant(np.array(whole, np.int64)), ops.constant(1))
    count = ops.add(counter.value, ops.constant(np.ones((1, 1), f32)))
    weights = np.random.default_rng(0).standard_normal((width * context, 5)).astype(f32) * 0.1
    scores = ops.matmul(kept, ops.constant(weights), False, False)
    scored = ops.divide(scores, count)
    return model([result("scores", scored)], [frames.becomes(kept), counter.becomes(count)], [x])


def _weights(rng: np.random.Generator, size: int, hidden: int) -> list[np.ndarray]:
    shapes = ((4 * hidden, size), (4 * hidden, hidden), (4 * hidden,))
    return [(rng.standard_normal(shape) * 0.08).astype(f32) for shape in shapes]


def lstm(size: int = 40, hidden: int = 512, out: int = 100) -> Any:
    """Two layers of LSTM cells and a projection; four variables ``[1, hidden]``."""
    rng = np.random.default_rng(1)
    x = parameter("x", [1, size])
    value, sinks = x, []
    for layer in (0, 1):
        h, c = (Remembered(f"{kind}{layer}", [1, hidden], first=zeros(1, hidden)) for kind in "hc")
        weights = _weights(rng, size if layer == 0 else hidden, hidden)
        cell = ops.lstm_cell(value, h.value, c.value, *map(ops.constant, weights), hidden)
        sinks += [h.becomes(cell.output(0)), c.becomes(cell.output(1))]
        value = cell.output(0)
    projection = (rng.standard_normal((hidden, out)) * 0.05).astype(f32)
    y = ops.matmul(value, ops.constant(projection), False, False)
    return model([result("y", y)], sinks, [x])


def lstm_sequence(
    size: int = 40, hidden: int = 512, out: int = 100, *, frames: int = 1, kept: bool = True
) -> Any:
    """The same network as sequence operators, states ``[2, batch, hidden]`` in one tensor each.

    Without ``kept`` the file has no variables: LowLatency2 is to make them.
    """
    rng = np.random.default_rng(1)
    x = parameter("x", [1, frames, size])
    h, c = (Remembered(kind, [2, 1, hidden], first=zeros(2, 1, hidden)) for kind in "hc")
    lengths = ops.constant(np.full((1,), frames, np.int32))
    if kept:
        batch = ops.gather(ops.shape_of(x), ops.constant([0]), ops.constant(0))
        lengths = ops.broadcast(ops.constant(np.int32(frames)), batch)
    value, hs, cs = x, [], []
    for layer in (0, 1):
        weights = [w[None] for w in _weights(rng, size if layer == 0 else hidden, hidden)]
        if kept:
            firsts = [_layer(state.value, layer) for state in (h, c)]
        else:
            firsts = [zeros(1, 1, hidden), zeros(1, 1, hidden)]
        cell = ops.lstm_sequence(
            value, *firsts, lengths, *map(ops.constant, weights), hidden, "FORWARD"
        )
        cell.set_friendly_name(f"lstm{layer}")
        value = ops.squeeze(cell.output(0), ops.constant([1]))
        hs.append(ops.transpose(cell.output(1), ops.constant([1, 0, 2])))
        cs.append(ops.transpose(cell.output(2), ops.constant([1, 0, 2])))
    projection = (rng.standard_normal((hidden, out)) * 0.05).astype(f32)
    y = result("y", ops.matmul(value, ops.constant(projection), False, False))
    if not kept:
        return model([y], [], [x])
    return model([y], [h.becomes(ops.concat(hs, 0)), c.becomes(ops.concat(cs, 0))], [x])


def lstm_given_first(size: int = 3, hidden: int = 4) -> Any:
    """A sequence operator that takes its first state from inputs; LowLatency2 can keep that."""
    rng = np.random.default_rng(2)
    x = parameter("x", [1, 1, size])
    firsts = [parameter(name, [1, 1, hidden]) for name in ("h0", "c0")]
    weights = [w[None] for w in _weights(rng, size, hidden)]
    lengths = ops.constant(np.ones(1, np.int32))
    cell = ops.lstm_sequence(x, *firsts, lengths, *map(ops.constant, weights), hidden, "FORWARD")
    return model([result("y", cell.output(0))], [], [x, *firsts])


def _layer(state: Any, layer: int) -> Any:
    """Cut one layer from ``[2, batch, hidden]`` as ``[batch, 1, hidden]``."""
    one = ops.gather(state, ops.constant([layer]), ops.constant(0))
    return ops.transpose(one, ops.constant([1, 0, 2]))


def growing(width: int = 4) -> Any:
    """A cache that grows by a row a step; the answer is its sum."""
    x = parameter("x", [-1, 1, width])
    batch = ops.gather(ops.shape_of(x), ops.constant([0]), ops.constant(0))
    shape = ops.concat([batch, ops.constant(np.array([0, width], np.int64))], 0)
    first = ops.broadcast(ops.constant(f32(0)), shape)
    state = Remembered("cache", [-1, -1, width], first=first)
    longer = ops.concat([state.value, x], 1)
    y = ops.reduce_sum(longer, ops.constant([1]), keep_dims=False)
    return model([result("y", y)], [state.becomes(longer)], [x])


def laborious() -> Any:
    """An accumulator that works as long as it is told: about 20 microseconds for each of ``x``."""
    x = parameter("x", [1, 1])
    state = Remembered("sum", [1, 1], first=zeros(1, 1))
    total = ops.add(x, state.value)
    largest = ops.reduce_max(x, ops.constant([0, 1]), keep_dims=False)
    turns = ops.convert(ops.maximum(largest, ops.constant(f32(0))), "i64")
    given = ops.parameter([64, 64], f32)
    turned = ops.matmul(given, ops.constant(np.eye(64, dtype=f32)), False, False)
    body = ov.Model([ops.result(turned), ops.result(ops.constant(np.array(True)))], [given], "turn")
    loop = ops.loop(turns, ops.constant(np.array(True)))
    loop.set_function(body)
    loop.set_special_body_ports([-1, 1])
    loop.set_merged_input(given, ops.constant(np.ones((64, 64), f32)).output(0), turned.output(0))
    last = loop.get_iter_value(turned.output(0), -1)
    # What the work came to must be wanted, or it would not be done; it is next to nothing.
    worked = ops.reduce_max(last, ops.constant([0, 1]), keep_dims=False)
    y = ops.add(total, ops.multiply(worked, ops.constant(f32(1e-45))))
    return model([result("y", y)], [state.becomes(total)], [x])


def picky() -> Any:
    """Says that it takes any number of values, and fails while it runs on any but one or four."""
    x = parameter("x", [1, -1])
    state = Remembered("sum", [1, 4], first=zeros(1, 4))
    total = ops.add(x, state.value)
    y = ops.reduce_sum(total, ops.constant([1]), keep_dims=True)
    return model([result("y", y)], [state.becomes(total)], [x])


# -- models that cannot ----------------------------------------------------------------------


def baked_batch() -> Any:
    """An accumulator with a reshape to a literal batch of 1."""
    x = parameter("x", [1, 4])
    state = Remembered("sum", [1, 4], first=zeros(1, 4))
    flat = ops.reshape(ops.add(x, state.value), ops.constant([4]), special_zero=False)
    total = ops.reshape(flat, ops.constant([1, 4]), special_zero=False)
    return model([result("y", total)], [state.becomes(total)], [x])


def mixes_rows() -> Any:
    """An accumulator that also takes the mean of all rows into each."""
    x = parameter("x", [1, 4])
    state = Remembered("sum", [1, 4], first=zeros(1, 4))
    total = ops.add(x, state.value)
    mean = ops.reduce_mean(total, ops.constant([0]), keep_dims=True)
    mixed = ops.add(total, mean)
    return model([result("y", mixed)], [state.becomes(mixed)], [x])


# -- models without variables ------------------------------------------------------------------


def explicit() -> Any:
    """An accumulator whose state is an input and an output."""
    x, state = parameter("x", [-1, 4]), parameter("state", [-1, 4])
    total = ops.add(x, state)
    return model([result("y", total), result("next_state", total)], [], [x, state])


def dummy() -> Any:
    """No state at all: adds one."""
    x = parameter("b", [1, 10])
    return model([result("a", ops.add(x, ops.constant(f32(1))))], [], [x])


class Native:
    """A model as OpenVINO itself runs it: one infer request a sequence."""

    def __init__(self, made: Any, **properties: Any) -> None:
        chosen = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1} | properties
        self.compiled = ov.Core().compile_model(made, "CPU", chosen)
        self._requests: dict[int, Any] = {}

    def step(self, sequence: int, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        request = self._requests.get(sequence)
        if request is None:
            request = self._requests[sequence] = self.compiled.create_infer_request()
        found = request.infer(inputs)
        return {
            name: np.array(found[port])
            for port in self.compiled.outputs
            for name in port.get_names()
        }
