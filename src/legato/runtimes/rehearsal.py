"""Run any runtime on made-up rows for a few steps, to learn how it behaves.

The gate, the probe and ``legato inspect`` all need this: plausible inputs, states
moved on by their update rules, and rows joined and split on their batch axes. It is
the smallest form of what the engine does for real clients.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.types import ControlKind, InputKind, UpdateRule
from legato.runtimes.base import RowInfo, StepBatch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array, Signature, StateSpec, TensorSpec
    from legato.runtimes.base import Runtime, StepResult

SIZES = (
    1, 2, 4, 8, 16, 32, 64, 80, 128, 160, 256, 257, 320, 400, 480, 512, 576, 640, 800, 960, 1024,
    1280, 1600, 2048, 4096, 8000, 16000,
)  # fmt: skip
"""Sizes tried for dimensions that a model leaves open: usual frame and window lengths."""


class RehearsalError(Exception):
    """The model cannot be run on made-up rows; the message says what it answered."""


class Rehearsal:
    """A few steps of a few made-up sequences on one runtime.

    Args:
        runtime: What to run.
        rng: Source of the rows.
        size: Size of every open dimension.

    Rows are finite and unlikely to be out of any range: floats near zero, integers 0 and 1.
    """

    def __init__(self, runtime: Runtime, rng: np.random.Generator, *, size: int = 1) -> None:
        self.runtime = runtime
        self.signature: Signature = runtime.signature
        self.size = size
        self._rng = rng
        self._sent_once = {
            state.input: state
            for state in self.signature.states
            if state.rule is UpdateRule.WRITE_ONCE and state.output is None
        }

    def row(self) -> dict[str, Array]:
        """Make the data and scalar inputs of one row."""
        return {
            spec.name: self._value(spec)
            for spec in self.signature.inputs
            if spec.kind is not InputKind.CONTROL and spec.name not in self._sent_once
        }

    def first_state(self) -> dict[str, Array]:
        """Make the states of a new sequence, windows included."""
        return {spec.name: self._first(spec) for spec in self.signature.states}

    def step(
        self,
        rows: Sequence[Mapping[str, Array]],
        states: Sequence[Mapping[str, Array]],
        number: int,
        first_id: int = 1,
    ) -> tuple[StepResult, list[dict[str, Array]]]:
        """Run one model call and move the states on.

        Args:
            rows: Inputs of each row.
            states: States of each row.
            number: Step number, the same for all rows; the first is 1.
            first_id: Correlation id of row 0; the others follow it.

        Returns:
            The result, which is the caller's to keep, and the next states of each row.
        """
        batch, windowed = self.batch(rows, states, number, first_id)
        result = _kept(self.runtime.step(batch))
        following = [dict(state) for state in states]
        for spec in self.signature.states:
            if spec.rule is UpdateRule.WINDOW:
                whole = windowed[spec.input]
                start = whole.shape[spec.axis] - spec.size
                new = np.take(whole, range(start, start + spec.size), axis=spec.axis)
            elif spec.output is None or (spec.rule is UpdateRule.WRITE_ONCE and number > 1):
                continue
            else:
                new = result.state[spec.name]
            if spec.rule is UpdateRule.KEEP_IF_EMPTY and new.size == 0:
                continue
            for at, piece in enumerate(split(new, spec.batch_axis, len(rows))):
                grows = spec.rule is UpdateRule.APPEND and spec.append_new_only
                value = (
                    np.concatenate((states[at][spec.name], piece), spec.axis) if grows else piece
                )
                following[at][spec.name] = value
        return result, following

    def batch(
        self,
        rows: Sequence[Mapping[str, Array]],
        states: Sequence[Mapping[str, Array]],
        number: int,
        first_id: int = 1,
    ) -> tuple[StepBatch, dict[str, Array]]:
        """Lay rows side by side; also returns the inputs with their windows in front."""
        inputs: dict[str, Array] = {}
        for spec in self.signature.inputs:
            if spec.kind is InputKind.CONTROL:
                inputs[spec.name] = _control(spec, len(rows), number, first_id)
            elif spec.name not in self._sent_once:
                inputs[spec.name] = join([row[spec.name] for row in rows], spec.batch_axis)
        state: dict[str, Array] = {}
        windowed: dict[str, Array] = {}
        for kept in self.signature.states:
            value = join([each[kept.name] for each in states], kept.batch_axis)
            if kept.rule is UpdateRule.WINDOW:
                whole = np.concatenate((value, inputs[kept.input]), kept.axis)
                inputs[kept.input] = windowed[kept.input] = whole
            else:
                state[kept.name] = value
        infos = tuple(
            RowInfo(first_id + at, number, number == 1, end=False, parameters={})
            for at in range(len(rows))
        )
        return StepBatch(inputs, state, infos), windowed

    def _value(self, spec: TensorSpec) -> Array:
        shape = tuple(self.size if dim == -1 else dim for dim in spec.shape)
        if spec.default is not None:
            return np.broadcast_to(np.asarray(spec.default, spec.dtype), shape).copy()
        return self._random(spec.dtype, shape)

    def _random(self, dtype: str, shape: tuple[int, ...]) -> Array:
        if dtype == "object":
            return np.full(shape, b"a", object)
        if dtype == "bool":
            return self._rng.integers(0, 2, shape).astype(bool)
        if np.dtype(dtype).kind in "iu":
            return self._rng.integers(0, 2, shape).astype(dtype)
        return (self._rng.standard_normal(shape) * 0.25).astype(dtype)

    def _first(self, spec: StateSpec) -> Array:
        if spec.rule is UpdateRule.WRITE_ONCE and spec.output is None:
            shape = tuple(self.size if dim == -1 else dim for dim in spec.shape)
            return self._random(spec.dtype, shape)
        if spec.initial is None:
            nothing: Any = b"" if spec.dtype == "object" else 0
            return np.full(spec.first_shape, nothing, spec.dtype)
        return np.broadcast_to(np.asarray(spec.initial, spec.dtype), spec.first_shape).copy()


def _kept(result: StepResult) -> StepResult:
    """Copy what a runtime gave: it may be views that its next call writes over."""
    return replace(
        result,
        outputs={name: np.array(value) for name, value in result.outputs.items()},
        state={name: np.array(value) for name, value in result.state.items()},
    )


def find_size(runtime: Runtime, seed: int = 0) -> int:
    """Find a size for the open dimensions at which a model runs one row, two steps.

    Raises:
        RehearsalError: It runs at none; with what it answered at the first.
    """
    specs = [spec for spec in runtime.signature.inputs if spec.kind is not InputKind.CONTROL]
    sizes = SIZES if any(-1 in spec.shape for spec in specs) else (1,)
    problem: Exception | None = None
    for size in sizes:
        rehearsal = Rehearsal(runtime, np.random.default_rng(seed), size=size)
        try:
            states = [rehearsal.first_state()]
            for number in (1, 2):
                _, states = rehearsal.step([rehearsal.row()], states, number)
        except Exception as error:  # noqa: BLE001 - the model's own refusal of this size
            problem = problem or error
        else:
            return size
    raise RehearsalError(str(problem)) from problem


def join(rows: Sequence[Array], axis: int | None) -> Array:
    """Lay rows side by side; without a batch axis they agree, and the first stands for all."""
    if axis is None or len(rows) == 1:
        return rows[0]
    return np.concatenate(rows, axis)


def split(value: Array, axis: int | None, rows: int) -> list[Array]:
    """Cut a batch into rows; without a batch axis every row gets the whole.

    Raises:
        RehearsalError: The axis does not hold ``rows`` rows.
    """
    if axis is None:
        return [value] * rows
    if axis >= value.ndim or value.shape[axis] != rows:
        msg = f"shape {list(value.shape)} does not hold {rows} rows on axis {axis}"
        raise RehearsalError(msg)
    return [np.take(value, [at], axis) for at in range(rows)]


def _control(spec: TensorSpec, rows: int, number: int, first_id: int) -> Array:
    if spec.control is ControlKind.CORRELATION_ID:
        values: list[Any] = [first_id + at for at in range(rows)]
        if spec.dtype == "object":
            values = [str(value).encode() for value in values]
    else:
        told = {
            ControlKind.START: number == 1,
            ControlKind.NOT_START: number != 1,
            ControlKind.END: False,
        }
        on = told.get(spec.control, True) if spec.control is not None else True
        values = [spec.control_values[int(on)]] * rows
    if spec.batch_axis is None:
        return np.asarray(values[0], spec.dtype).reshape(spec.shape)
    shape = [1] * len(spec.shape)
    shape[spec.batch_axis] = rows
    return np.asarray(values, spec.dtype).reshape(shape)
