"""What a Python model of Triton takes and gives: its configuration says so, not its code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from legato.core.errors import ConfigError
from legato.core.types import ControlKind, InputKind, Signature, StateSpec, TensorSpec
from legato.runtimes.triton_python.lookups import using_decoupled_model_transaction_policy
from legato.runtimes.triton_python.tensors import TRITON_STRING_TO_NUMPY

if TYPE_CHECKING:
    from legato.repository.config import InputConfig, ModelConfig, OutputConfig

STATE: Final = "model"
"""Name of the state: what a model keeps for a sequence in its own variables, encoded."""


def signature_of(config: ModelConfig, model_config: dict[str, Any]) -> Signature:
    """Make the signature from the declared tensors and those that the model added.

    Args:
        config: As it was read.
        model_config: Triton's configuration, completed by the model itself.

    Raises:
        ConfigError: There is no output, or a tensor has no dtype or shape.
    """
    batched = int(model_config.get("max_batch_size", 0)) > 0
    where = str(config.folder)
    inputs = [
        _input(name, spec, batched=batched, where=where) for name, spec in config.inputs.items()
    ]
    outputs = [
        _tensor(name, spec, batched=batched, where=where) for name, spec in config.outputs.items()
    ]
    known = {spec.name for spec in (*inputs, *outputs)}
    for what, found in (("input", inputs), ("output", outputs)):
        found += [
            _completed(entry, batched=batched, where=where)
            for entry in model_config.get(what, ())
            if entry["name"] not in known
        ]
    if not outputs:
        raise ConfigError(
            "the model has no output", file=where, key="output",
            fix="list its tensors in config.pbtxt, or add them in auto_complete_config",
        )  # fmt: skip
    states = (StateSpec(STATE, STATE, STATE, "uint8", (1, -1), ragged=True),)
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=states if "sequence_batching" in model_config else (),
        batching=batched,
        why="Python models take requests one by one, as many as there are"
        if batched
        else "max_batch_size is 0",
        platform="python",
        asks=True,
        most_rows=int(model_config.get("max_batch_size", 0)),
        decoupled=using_decoupled_model_transaction_policy(model_config),
    )


def _input(name: str, spec: InputConfig, *, batched: bool, where: str) -> TensorSpec:
    plain = _tensor(name, spec, batched=batched, where=where)
    control = None if spec.control is None else ControlKind(spec.control)
    kind = InputKind.DATA if control is None else InputKind.CONTROL
    return TensorSpec(
        plain.name, plain.dtype, plain.shape, plain.batch_axis, kind, spec.default, spec.optional,
        control, (spec.control_values[0], spec.control_values[1]),
    )  # fmt: skip


def _tensor(
    name: str, spec: InputConfig | OutputConfig, *, batched: bool, where: str
) -> TensorSpec:
    if spec.dtype is None or spec.shape is None:
        raise ConfigError(
            f"tensor '{name}' has no dtype or no shape", file=where, key="config.pbtxt",
            fix="declare data_type and dims",
        )  # fmt: skip
    axis = 0 if batched else None
    return TensorSpec(name, spec.dtype, tuple(spec.shape), axis)


def _completed(entry: dict[str, Any], *, batched: bool, where: str) -> TensorSpec:
    """Make the spec of a tensor that ``auto_complete_config`` added."""
    kind = TRITON_STRING_TO_NUMPY.get(str(entry["data_type"]))
    if kind is None:
        raise ConfigError(
            f"tensor '{entry['name']}' has data_type {entry['data_type']}", file=where,
            key="auto_complete_config", fix="use one of " + ", ".join(TRITON_STRING_TO_NUMPY),
        )  # fmt: skip
    dtype = "object" if kind is np.object_ else np.dtype(kind).name
    dims = tuple(int(size) for size in entry["dims"])
    return TensorSpec(
        entry["name"], dtype, (1, *dims) if batched else dims, 0 if batched else None,
        optional=bool(entry.get("optional", False)),
    )  # fmt: skip
