"""Model repositories written as Triton's documentation writes them, round tiny ONNX models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper
from tests.models.tiny import FLOAT, build, node

if TYPE_CHECKING:
    from pathlib import Path

STRING = TensorProto.STRING
ELEMENTS = {
    "INT32": TensorProto.INT32,
    "FP32": TensorProto.FLOAT,
    "BOOL": TensorProto.BOOL,
    "UINT64": TensorProto.UINT64,
    "INT64": TensorProto.INT64,
    "UINT32": TensorProto.UINT32,
    "STRING": TensorProto.STRING,
}


def write(
    repository: Path, name: str, model: onnx.ModelProto | None, config: str = "", version: int = 1
) -> Path:
    """Write a version of a model and its config.pbtxt; return the model's folder."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    if model is not None:
        onnx.save(model, str(folder / "model.onnx"))
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def tensors(kind: str, *named: tuple[str, str, str]) -> str:
    """Write ``input`` or ``output``: name, type and dims of each."""
    entries = ", ".join(
        f'{{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] }}'
        for name, dtype, dims in named
    )
    return f"{kind} [ {entries} ]\n"


# -- accumulator ------------------------------------------------------------------------------

ACCUMULATOR = """
name: "accumulator"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] } ]
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  STRATEGY
  control_input [
    { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] }
  ]
  state [
    {
      input_name: "INPUT_STATE"
      output_name: "OUTPUT_STATE"
      data_type: TYPE_FP32
      dims: [ 1 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true name: "initial state" }
    }
  ]
}
instance_group [ { count: 1 kind: KIND_CPU } ]
"""


def accumulator() -> onnx.ModelProto:
    """``state = READY * (input + (1 - START) * state)``, as models for ``direct`` do."""
    row = ["batch", 1]
    return build(
        [
            node("Sub", ["one", "START"], ["keep"]),
            node("Mul", ["keep", "INPUT_STATE"], ["kept"]),
            node("Add", ["kept", "INPUT"], ["sum"]),
            node("Mul", ["READY", "sum"], ["OUTPUT_STATE"]),
            node("Identity", ["OUTPUT_STATE"], ["OUTPUT"]),
        ],
        [(name, FLOAT, row) for name in ("INPUT", "START", "READY", "INPUT_STATE")],
        [("OUTPUT", FLOAT, row), ("OUTPUT_STATE", FLOAT, row)],
        {"one": np.array(1, np.float32)},
    )


def write_accumulator(
    repository: Path, strategy: str = "direct { }", name: str = "accumulator"
) -> Path:
    """Write the accumulator under a strategy."""
    config = ACCUMULATOR.replace("STRATEGY", strategy).replace('"accumulator"', f'"{name}"')
    return write(repository, name, accumulator(), config)


# -- control inputs ---------------------------------------------------------------------------


def controls(boolean: str, corrid: str) -> onnx.ModelProto:
    """Answer with what the control inputs said."""
    kinds = {"START": boolean, "READY": boolean, "END": boolean, "CORRID": corrid}
    row = ["batch", 1]
    inputs = [("INPUT", FLOAT, row), *((k, ELEMENTS[d], row) for k, d in kinds.items())]
    outputs = [(f"{k}_OUT", ELEMENTS[d], row) for k, d in kinds.items()]
    nodes = [node("Identity", [kind], [f"{kind}_OUT"]) for kind in kinds]
    nodes.append(node("Identity", ["INPUT"], ["OUTPUT"]))
    return build(nodes, inputs, [("OUTPUT", FLOAT, row), *outputs])


def controls_config(boolean: str, corrid: str, values: str = "0, 1") -> str:
    """Write the config of :func:`controls`."""
    field = {"INT32": "int32_false_true", "FP32": "fp32_false_true", "BOOL": "bool_false_true"}
    outputs = [(f"{k}_OUT", boolean, "1") for k in ("START", "READY", "END")]
    entries = "\n".join(
        f'{{ name: "{kind}" control [ {{ kind: CONTROL_SEQUENCE_{kind} '
        f"{field[boolean]}: [ {values} ] }} ] }},"
        for kind in ("START", "READY", "END")
    )
    return (
        'backend: "onnxruntime"\nmax_batch_size: 4\n'
        + tensors("input", ("INPUT", "FP32", "1"))
        + tensors("output", ("OUTPUT", "FP32", "1"), *outputs, ("CORRID_OUT", corrid, "1"))
        + f"""
        sequence_batching {{
          max_sequence_idle_microseconds: 60000000
          control_input [
            {entries}
            {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID
               data_type: TYPE_{corrid} }} ] }}
          ]
        }}"""
    )


# -- several states, and odd ones -------------------------------------------------------------

CROSSED = (
    'backend: "onnxruntime"\nmax_batch_size: 8\n'
    + tensors("input", ("INPUT", "FP32", "1"))
    + tensors("output", ("Z_OUT", "FP32", "1"), ("Y_OUT", "FP32", "1"))
    + """
    sequence_batching {
      max_sequence_idle_microseconds: 60000000
      oldest { }
      state [
        { input_name: "A_IN" output_name: "Z_OUT" data_type: TYPE_FP32 dims: [ 1 ] },
        { input_name: "B_IN" output_name: "Y_OUT" data_type: TYPE_FP32 dims: [ 1 ] }
      ]
    }"""
)

CROSSED_JSON = {
    "backend": "onnxruntime",
    "max_batch_size": 8,
    "input": [{"name": "INPUT", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [
        {"name": "Z_OUT", "data_type": "TYPE_FP32", "dims": ["1"]},
        {"name": "Y_OUT", "data_type": "TYPE_FP32", "dims": ["1"]},
    ],
    "sequence_batching": {
        "max_sequence_idle_microseconds": "60000000",
        "state": [
            {"input_name": first, "output_name": second, "data_type": "TYPE_FP32", "dims": [1]}
            for first, second in (("A_IN", "Z_OUT"), ("B_IN", "Y_OUT"))
        ],
    },
}


def crossed() -> onnx.ModelProto:
    """``Z_OUT = A_IN + x`` and ``Y_OUT = B_IN + 10 x``: sorted by name, the pairs would cross."""
    row = ["batch", 1]
    return build(
        [
            node("Add", ["A_IN", "INPUT"], ["Z_OUT"]),
            node("Mul", ["INPUT", "ten"], ["tenfold"]),
            node("Add", ["B_IN", "tenfold"], ["Y_OUT"]),
        ],
        [(name, FLOAT, row) for name in ("INPUT", "A_IN", "B_IN")],
        [("Z_OUT", FLOAT, row), ("Y_OUT", FLOAT, row)],
        {"ten": np.array(10, np.float32)},
    )


RAGGED = (
    'backend: "onnxruntime"\nmax_batch_size: 8\n'
    + tensors("input", ("INPUT", "FP32", "1"))
    + tensors("output", ("OUTPUT", "FP32", "1"), ("PAST_OUT", "FP32", "-1"))
    + """
    sequence_batching {
      max_sequence_idle_microseconds: 60000000
      oldest { max_queue_delay_microseconds: 1000 }
      state [ { input_name: "PAST_IN" output_name: "PAST_OUT" data_type: TYPE_FP32 dims: [ -1 ]
        INITIAL } ]
    }"""
)


def ragged() -> onnx.ModelProto:
    """The state is all that came, so it is longer at every step; the answer is its sum."""
    return build(
        [
            node("Concat", ["PAST_IN", "INPUT"], ["PAST_OUT"], axis=1),
            node("ReduceSum", ["PAST_OUT", "last"], ["OUTPUT"], keepdims=1),
        ],
        [("INPUT", FLOAT, ["batch", 1]), ("PAST_IN", FLOAT, ["batch", "past"])],
        [("OUTPUT", FLOAT, ["batch", 1]), ("PAST_OUT", FLOAT, ["batch", "now"])],
        {"last": np.array([1], np.int64)},
    )


NO_STATE = (
    'backend: "onnxruntime"\nmax_batch_size: 4\n'
    + tensors("input", ("INPUT", "FP32", "1"))
    + tensors("output", ("OUTPUT", "FP32", "1"))
    + """
    sequence_batching {
      max_sequence_idle_microseconds: 60000000
      control_input [ { name: "START"
        control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 100 ] } ] } ]
    }"""
)


def no_state() -> onnx.ModelProto:
    """Carries nothing, but is told where a sequence begins."""
    row = ["batch", 1]
    return build(
        [node("Add", ["INPUT", "START"], ["OUTPUT"])],
        [("INPUT", FLOAT, row), ("START", FLOAT, row)],
        [("OUTPUT", FLOAT, row)],
    )


RESHAPED = """
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]
output [ { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } } ]
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  state [ { input_name: "STATE" output_name: "NEXT" data_type: TYPE_FP32 dims: [ ] } ]
}
model_warmup [
  {
    name: "two rows of zeros"
    batch_size: 2
    count: 2
    inputs { key: "INPUT" value { data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } }
  }
]
"""


def flat() -> onnx.ModelProto:
    """Sums up numbers that have no shape but the batch."""
    return build(
        [node("Add", ["INPUT", "STATE"], ["NEXT"]), node("Identity", ["NEXT"], ["OUTPUT"])],
        [("INPUT", FLOAT, ["batch"]), ("STATE", FLOAT, ["batch"])],
        [("OUTPUT", FLOAT, ["batch"]), ("NEXT", FLOAT, ["batch"])],
    )


WHOLE = (
    'backend: "onnxruntime"\n'
    + tensors("input", ("x", "FP32", "1, 1, 3"))
    + tensors("output", ("y", "FP32", "1, 1, 5"))
    + """
    sequence_batching {
      max_sequence_idle_microseconds: 60000000
      state [
        { input_name: "h0" output_name: "hN" data_type: TYPE_FP32 dims: [ 1, 1, 5 ] },
        { input_name: "c0" output_name: "cN" data_type: TYPE_FP32 dims: [ 1, 1, 5 ] }
      ]
    }"""
)

LEGATO_MODEL = '''
"""A Legato model in a Triton repository."""

from legato.model import Input, Model, Output, Result, State


class Sum(Model):
    """Sums up."""

    inputs = (Input("INPUT", "float32", (1, 1)),)
    outputs = (Output("OUTPUT", "float32", (1, 1)),)
    states = (State("total", "float32", (1, 1)),)

    def step(self, batch):
        total = batch.state["total"] + batch.inputs["INPUT"] * float(self.scale)
        return Result({"OUTPUT": total}, {"total": total})

    def load(self, options):
        self.scale = options["scale"]
'''
LEGATO_CONFIG = (
    'backend: "python"\nmax_batch_size: 4\n'
    + tensors("input", ("INPUT", "FP32", "1"))
    + tensors("output", ("OUTPUT", "FP32", "1"))
    + """
    sequence_batching { max_sequence_idle_microseconds: 60000000 }
    parameters { key: "scale" value { string_value: "2" } }
    """
)

DYNAMIC = (
    'backend: "onnxruntime"\nmax_batch_size: 4\n'
    + tensors("input", ("x", "FP32", "3"))
    + tensors("output", ("x_out", "FP32", "3"))
    + """
    dynamic_batching {
      max_queue_delay_microseconds: 100
      preserve_ordering: true
      priority_levels: 2
      default_priority_level: 2
      default_queue_policy { default_timeout_microseconds: 10000000 max_queue_size: 100 }
    }"""
)

TEXT = (
    'backend: "onnxruntime"\nmax_batch_size: 4\n'
    + tensors("input", ("INPUT", "STRING", "2"))
    + tensors("output", ("TEXT_OUT", "STRING", "2"), ("BEFORE", "STRING", "2"))
    + """
    sequence_batching {
      max_sequence_idle_microseconds: 60000000
      state [ { input_name: "TEXT_IN" output_name: "TEXT_OUT" data_type: TYPE_STRING dims: [ 2 ]
        initial_state { name: "words" data_type: TYPE_STRING dims: [ 2 ] data_file: "words" } } ]
    }"""
)


def text() -> onnx.ModelProto:
    """The state is the words of the step before, which the answer tells."""
    row = ["batch", 2]
    graph = helper.make_graph(
        [node("Identity", ["INPUT"], ["TEXT_OUT"]), node("Identity", ["TEXT_IN"], ["BEFORE"])],
        "text",
        [helper.make_tensor_value_info(name, STRING, row) for name in ("INPUT", "TEXT_IN")],
        [helper.make_tensor_value_info(name, STRING, row) for name in ("TEXT_OUT", "BEFORE")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
