"""The signature of a planned model, once its batch axes are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ConfigError
from legato.core.text import split_texts
from legato.core.types import (
    ControlKind,
    InputKind,
    Signature,
    StateSpec,
    TensorSpec,
    UpdateRule,
)
from legato.repository.config import OutputConfig
from legato.runtimes.discovery.graph import is_freed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from legato.repository.config import StateConfig
    from legato.runtimes.discovery.pairing import Dim, GraphTensor
    from legato.runtimes.discovery.plan import Carried, Plan

Axes = dict[str, int | None]
"""Batch axis by tensor name, inputs and outputs; ``None`` = has none."""

_SAMPLE_RATES = frozenset(("sr", "fs", "sample_rate", "samplerate", "sampling_rate"))
_USUAL_RATE = 16000


def make_signature(
    plan: Plan, axes: Mapping[str, int | None], *, batching: bool, why: str
) -> Signature:
    """Write down what the model takes, gives and carries, given its batch axes.

    Raises:
        ConfigError: A shape or value of the config contradicts the graph.
    """
    sent_once = [
        c.config.input
        for c in plan.carried
        if c.config.rule == "write_once" and not c.config.output
    ]
    inputs = [_input_spec(plan, name, axes, kind) for name, kind in plan.kinds.items()]
    inputs += [_input_spec(plan, name, axes, InputKind.DATA, sent_once=True) for name in sent_once]
    order = [t.name for t in (*plan.graph.inputs, *plan.graph.optional)]
    inputs.sort(key=lambda spec: order.index(spec.name))
    fed = {c.config.output for c in plan.carried}
    outputs = [
        _output_spec(plan, tensor, axes)
        for tensor in plan.graph.outputs
        if tensor.name in plan.config.outputs
        or (tensor.name not in fed and not plan.config.only_named_outputs)
    ]
    if plan.config.only_named_outputs:
        outputs.sort(key=lambda spec: list(plan.config.outputs).index(spec.name))
    states = [_state_spec(plan, carried, axes) for carried in plan.carried]
    return Signature(
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        states=tuple(states),
        batching=batching,
        why=why,
    )


def row_shape(dims: Sequence[Dim], axis: int | None) -> tuple[int, ...]:
    """Shape of a row: the batch axis and what was freed from 1 as 1, open dimensions as -1."""
    return tuple(
        1 if at == axis or is_freed(dim) else dim if isinstance(dim, int) else -1
        for at, dim in enumerate(dims)
    )


def _input_spec(
    plan: Plan,
    name: str,
    axes: Mapping[str, int | None],
    kind: InputKind,
    *,
    sent_once: bool = False,
) -> TensorSpec:
    tensor, override = plan.input(name), plan.override(name)
    key = f"inputs.{name}"
    _check_dtype(plan, key, tensor.dtype, override.dtype)
    axis = None if kind is InputKind.SCALAR else axes.get(name)
    shape = row_shape(tensor.dims, axis)
    window = plan.windows.get(name)
    if window is not None and shape[window.axis] != -1:
        size = shape[window.axis] - window.size
        if size < 1:
            raise ConfigError(
                f"a window of {window.size} leaves no room for new samples: '{name}' takes "
                f"{shape[window.axis]} on axis {window.axis}",
                file=plan.file,
                key=f"states.{name}",
                fix="lower its size, or correct its axis",
            )
        shape = (*shape[: window.axis], size, *shape[window.axis + 1 :])
    given = override.shape if override.reshape is None else override.reshape
    if given is not None:
        shape = _checked_shape(plan, key, tuple(given), shape)
    control, default = override.control, override.default
    values = tuple(override.control_values)
    if control is None and kind is InputKind.CONTROL:
        control, values = "not_start", (False, True)
    if default is None and kind is InputKind.SCALAR and _is_rate(tensor):
        default = _USUAL_RATE
    return TensorSpec(
        name=name,
        dtype=tensor.dtype,
        shape=shape,
        batch_axis=axis,
        kind=kind,
        default=_default(plan, key, default, tensor.dtype),
        optional=override.optional or sent_once or tensor in plan.graph.optional,
        control=ControlKind(control) if control is not None else None,
        control_values=(values[0], values[1]),
    )


def _is_rate(tensor: GraphTensor) -> bool:
    return tensor.name.lower() in _SAMPLE_RATES and tensor.dtype in ("int64", "int32")


def _default(plan: Plan, key: str, value: Any, dtype: str) -> Any:
    if value is None:
        return None
    try:
        np.asarray(value, dtype)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(
            f"{value!r} is no {dtype}", file=plan.file, key=f"{key}.default"
        ) from None
    return value


def _output_spec(plan: Plan, tensor: GraphTensor, axes: Mapping[str, int | None]) -> TensorSpec:
    override = plan.config.outputs.get(tensor.name) or OutputConfig()
    key = f"outputs.{tensor.name}"
    _check_dtype(plan, key, tensor.dtype, override.dtype)
    axis = axes.get(tensor.name) if override.batch_axis is None else override.batch_axis
    given = override.shape if override.reshape is None else override.reshape
    if given is not None and axis is not None and given[axis : axis + 1] != [1]:
        axis = None  # the config has whole shapes: what looks like the batch is not
    shape = row_shape(tensor.dims, axis)
    if given is not None:
        shape = _checked_shape(plan, key, tuple(given), shape)
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape, batch_axis=axis)


def _state_spec(plan: Plan, carried: Carried, axes: Mapping[str, int | None]) -> StateSpec:
    state, key = carried.config, f"states.{carried.name}"
    tensor = plan.input(state.input)
    _check_dtype(plan, key, tensor.dtype, state.dtype)
    axis = axes.get(state.input)
    if state.rule == "window":
        shape = _window_shape(plan, carried, axis)
    else:
        shape = row_shape(_known_dims(plan, state), axis)
        if state.rule == "append":
            shape = (*shape[: state.axis], -1, *shape[state.axis + 1 :])
    if state.shape is not None:
        given = _checked_shape(plan, key, tuple(state.shape), shape)
        # What the file fixes does not vary, though the config would let it.
        shape = tuple(own if want == -1 else want for want, own in zip(given, shape, strict=True))
    if axis is None:  # rows carry a batch axis even where the file has none
        shape = (1, *shape)
    return StateSpec(
        name=carried.name,
        input=state.input,
        output=state.output,
        dtype=tensor.dtype,
        shape=shape,
        batch_axis=axis or 0,
        rule=UpdateRule(state.rule),
        axis=state.axis,
        size=state.size,
        append_new_only=state.append_new_only,
        max_length=state.max_length,
        initial=_initial(plan, state, key, tensor.dtype, shape),
    )


def _known_dims(plan: Plan, state: StateConfig) -> tuple[Dim, ...]:
    """Sizes of a state: those of its input, and where these are open, of its output."""
    dims = plan.input(state.input).dims
    if state.output is None or state.rule in ("append", "write_once", "keep_if_empty"):
        return dims
    other = plan.output(state.output).dims
    return tuple(
        b if isinstance(b, int) and not isinstance(a, int) else a
        for a, b in zip(dims, other, strict=True)
    )


def _window_shape(plan: Plan, carried: Carried, axis: int | None) -> tuple[int, ...]:
    state = carried.config
    given = plan.override(state.input).shape
    shape = list(given or row_shape(plan.input(state.input).dims, axis))
    shape[state.axis] = state.size
    if -1 in shape or axis is None or state.axis == axis:
        raise ConfigError(
            f"the window before '{state.input}' has no certain shape: {shape}",
            file=plan.file,
            key=f"states.{carried.name}",
            fix=f"add the shape of a step's data: 'inputs: {{{state.input}: {{shape: [1, ...]}}}}'",
        )
    return tuple(shape)


def _initial(plan: Plan, state: StateConfig, key: str, dtype: str, shape: tuple[int, ...]) -> Any:
    """Make the first value: a number or list as given, or the contents of a .npy file."""
    value = state.initial
    target = tuple(max(dim, 0) for dim in shape)
    if state.first_shape is not None:
        extra = (1,) * (len(shape) - len(state.first_shape))
        target = _checked_shape(plan, f"{key}.first_shape", (*extra, *state.first_shape), shape)
        if value is None and -1 in shape:
            value = b"" if dtype == "object" else 0
    if value is None:
        return None
    try:
        if isinstance(value, str) and not value.endswith(".npy"):
            value = _raw(plan.config.folder / value, dtype, target)
        elif isinstance(value, str):
            value = np.load(plan.config.folder / value, allow_pickle=False)
        first = np.asarray(value, dtype)
        return np.broadcast_to(first, target).copy()
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot be a first value of shape {list(shape)}: {error}",
            file=plan.file,
            key=f"{key}.initial",
            fix="give a number, a nested list, or a file that is there and has that shape",
        ) from None


def _raw(path: Path, dtype: str, shape: tuple[int, ...]) -> Any:
    """Read the values of a file: row-major, little-endian, texts each after its length.

    Raises:
        OSError, ValueError: It cannot be read, or is too short.
    """
    raw, count = path.read_bytes(), math.prod(shape)
    if dtype == "object":
        texts = split_texts(raw)
        if len(texts) != count:
            raise ValueError(f"{path} has {len(texts)} texts, {count} are needed")
        return np.array(texts, object).reshape(shape)
    element = np.dtype(dtype).newbyteorder("<")
    if len(raw) < count * element.itemsize:
        raise ValueError(f"{path} has {len(raw)} bytes, {count * element.itemsize} are needed")
    return np.frombuffer(raw, element, count).astype(dtype).reshape(shape)


def _check_dtype(plan: Plan, key: str, graph: str, config: str | None) -> None:
    if config is not None and config != graph:
        raise ConfigError(
            f"is {config} in the config but {graph} in the model",
            file=plan.file,
            key=f"{key}.dtype",
            fix=f"make it {graph}, or leave it out: the model file says it",
        )


def _checked_shape(
    plan: Plan, key: str, config: tuple[int, ...], graph: tuple[int, ...]
) -> tuple[int, ...]:
    fits = len(config) == len(graph) and all(
        g in (-1, c) or c == -1 for c, g in zip(config, graph, strict=True)
    )
    if not fits:
        raise ConfigError(
            f"is {list(config)} in the config, the model has {list(graph)}",
            file=plan.file,
            key=f"{key}.shape",
            fix="write a row's shape, -1 for any size: model.yaml has the batch axis, as 1; "
            "the dims of a config.pbtxt have none where max_batch_size is 1 or more",
        )
    return config
