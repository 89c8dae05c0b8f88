"""One model call: feed rows, run, check, split; a row that fails, fails alone.

Runs inline on the event loop or in an instance's thread; touches nothing but its
arguments, so it may be repeated.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from legato.core.errors import (
    InstanceGoneError,
    ModelError,
    PoisonError,
    ServerError,
)
from legato.core.types import ControlKind, InputKind, UpdateRule
from legato.engine.arena import OutputLayout
from legato.engine.growth import GrowingLayout, layout_of
from legato.runtimes.base import StepBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.core.types import Array, OutputHeader, Signature, StateRow, TensorSpec
    from legato.runtimes.base import RowInfo, Runtime


class BatchRow(NamedTuple):
    """What one row brings to a model call."""

    inputs: Mapping[str, Array]
    state: StateRow
    info: RowInfo


class RowResult(NamedTuple):
    """What a row got: outputs and next state.

    Attributes:
        again: An answer that is not the last one: the request is run again.
        over: The model says that the sequence ends here.
        bound: Part of the state is in the memory of the instance alone.
    """

    headers: tuple[OutputHeader, ...]
    data: tuple[bytes, ...]
    state: StateRow
    again: tuple[bytes, dict[str, Any]] | None = None
    over: bool = False
    bound: bool = False


class Unfinished:
    """Stands for a row that is answered after its call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcome: RowResult | ServerError | None = None
        self._listener: Callable[[RowResult | ServerError], None] | None = None

    def __repr__(self) -> str:
        return f"<Unfinished {'done' if self._outcome is not None else 'open'}>"

    def finish(self, outcome: RowResult | ServerError) -> None:
        """Say what became of it, once; from any thread."""
        with self._lock:
            self._outcome = outcome
            listener = self._listener
        if listener is not None:
            listener(outcome)

    def attach(self, listener: Callable[[RowResult | ServerError], None]) -> None:
        """Call this with what becomes of it, or became of it already; from any thread."""
        with self._lock:
            self._listener = listener
            outcome = self._outcome
        if outcome is not None:
            listener(outcome)


Row = RowResult | ServerError | Unfinished


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Results in row order.

    Attributes:
        rows: A result, the row's own error, or what stands for it until it is answered.
        compute_s: Seconds in the model, all calls together.
        retried: Rows that were run again alone.
    """

    rows: list[Row]
    compute_s: float
    retried: int = 0


class Batcher:
    """Turns rows into model calls of one model and back."""

    def __init__(self, signature: Signature, *, reject_non_finite: bool = True) -> None:
        self.states = layout_of(signature)
        self._growing = self.states if isinstance(self.states, GrowingLayout) else None
        self.outputs = OutputLayout(signature)
        self._reject_non_finite = reject_non_finite
        self._replaced = self.states.fixed and all(
            spec.rule is UpdateRule.REPLACE for spec in signature.states
        )
        self._stacked = tuple(
            (spec.name, spec.batch_axis, spec.optional or spec.default is not None)
            for spec in signature.inputs
            if spec.kind is InputKind.DATA and not self._is_state(signature, spec)
        )
        self._scalars = tuple(s for s in signature.inputs if s.kind is InputKind.SCALAR)
        self._defaults = {
            spec.name: _default_row(spec)
            for spec in signature.inputs
            if spec.default is not None and spec.kind is not InputKind.CONTROL
        }
        self._controls = tuple(s for s in signature.inputs if s.kind is InputKind.CONTROL)

    @staticmethod
    def _is_state(signature: Signature, spec: TensorSpec) -> bool:
        """Inputs that a client sends once are fed from the state (WRITE_ONCE)."""
        return any(
            s.input == spec.name and s.rule is UpdateRule.WRITE_ONCE and s.output is None
            for s in signature.states
        )

    def run(self, runtime: Runtime, rows: Sequence[BatchRow]) -> BatchOutcome:
        """Run rows in one call; if it fails as a whole, each row alone (D6)."""
        started = time.perf_counter()
        try:
            results = self._call(runtime, rows)
        except InstanceGoneError as error:  # no row is at fault yet, and none can run here
            gone: list[Row] = [error] * len(rows)
            return BatchOutcome(gone, time.perf_counter() - started)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model's own code
            if len(rows) == 1:
                failed: list[Row] = [as_model_error(error)]
                return BatchOutcome(failed, time.perf_counter() - started)
            reason = as_model_error(error)
        else:
            return BatchOutcome(results, time.perf_counter() - started)
        alone: list[Row] = [
            # What has answered in part must not answer twice.
            reason if _has_begun(row.info) else self.run(runtime, (row,)).rows[0]
            for row in rows
        ]
        return BatchOutcome(alone, time.perf_counter() - started, len(rows))

    def _call(self, runtime: Runtime, rows: Sequence[BatchRow]) -> list[Row]:
        count = len(rows)
        inputs = self._feeds(rows)
        old = [row.state for row in rows]
        infos = tuple([row.info for row in rows])
        keeps = self._replaced and getattr(runtime, "resident", None) is not None
        states, windows = ({}, {}) if keeps else self.states.gather(old)
        following = self.states.windowed(inputs, windows) if windows else {}
        batch = StepBatch(inputs, states, infos, old if keeps else ())
        result = runtime.step(batch)
        answers = result.answers
        headers, data = ((), []) if answers else self.outputs.split(result.outputs, count)
        following.update(result.state)
        first = [row.info.start for row in rows]
        growing = self._growing
        if growing is None:
            next_rows = self.states.split(following, old, first)
        else:
            next_rows = growing.grow(following, old, first, states, lasting=result.lasting)
        if keeps:
            runtime.keep(next_rows)  # type: ignore[attr-defined]  # goes with ``resident``
        done: list[Row]
        if answers:
            done = [RowResult(*own, state) for own, state in zip(answers, next_rows, strict=True)]
        else:
            done = [
                RowResult(headers, own, state) for own, state in zip(data, next_rows, strict=True)
            ]
        for at in {*result.again, *result.over, *result.bound}:
            row = done[at]
            if isinstance(row, RowResult):
                done[at] = row._replace(
                    again=result.again.get(at), over=at in result.over, bound=at in result.bound
                )
        for at, unfinished in result.later.items():
            done[at] = unfinished
        for at, error in result.failed.items():
            done[at] = as_model_error(error)
        if self._reject_non_finite:
            self._reject_poison(following, first, done)
        if growing is not None:
            _refuse_too_long(growing, rows, done)
        return done

    def _feeds(self, rows: Sequence[BatchRow]) -> dict[str, Array]:
        feeds: dict[str, Array] = {}
        for name, axis, may_miss in self._stacked:
            if may_miss and name not in rows[0].inputs:
                default = self._defaults.get(name)
                if default is not None:
                    feeds[name] = default if axis is None else np.repeat(default, len(rows), axis)
                continue
            if len(rows) == 1 or axis is None:
                feeds[name] = rows[0].inputs[name]
            else:
                feeds[name] = np.concatenate([row.inputs[name] for row in rows], axis)
        for spec in self._scalars:
            value = rows[0].inputs.get(spec.name, self._defaults.get(spec.name))
            if value is not None:
                # Protocols without rank 0 send one element; the model gets its own rank.
                alike = value.ndim == len(spec.shape) or value.size != 1
                feeds[spec.name] = value if alike else value.reshape((1,) * len(spec.shape))
        for spec in self._controls:
            feeds[spec.name] = _control(spec, rows)
        return feeds

    def _reject_poison(
        self,
        following: Mapping[str, Array],
        first: Sequence[bool],
        done: list[Row],
    ) -> None:
        for spec in self.states.specs:
            value = following.get(spec.name)
            if value is None or value.dtype.kind not in "fc" or _all_finite(value):
                continue
            axes = tuple(a for a in range(value.ndim) if a != spec.batch_axis)
            for at in np.flatnonzero(~np.isfinite(value).all(axis=axes)).tolist():
                unused = spec.rule is UpdateRule.WRITE_ONCE and not first[at]
                if unused or isinstance(done[at], ServerError):
                    continue
                done[at] = PoisonError(
                    f"the next value of state '{spec.name}' is not finite; the step was not "
                    "applied and the sequence is as it was"
                )


def _refuse_too_long(layout: GrowingLayout, rows: Sequence[BatchRow], done: list[Row]) -> None:
    """Refuse steps that make a state longer than it may be; the last one leaves no state."""
    for at, (row, result) in enumerate(zip(rows, done, strict=True)):
        if isinstance(result, RowResult):
            last = (row.info.end or result.over) and result.again is None
            error = None if last else layout.too_long(result.state)
            if error is not None:
                done[at] = error


_SINGLE = 4  # bytes; halves would be multiplied one by one
_PART = 8192  # elements that one thread of BLAS multiplies


def _default_row(spec: TensorSpec) -> Array:
    """Give a default the rank of its input: one number for all elements, or a whole row."""
    value = np.asarray(spec.default, spec.dtype)
    shape = tuple(1 if size == -1 else size for size in spec.shape)
    if value.ndim == 0 or value.size == 1:
        return np.broadcast_to(value.reshape((1,) * len(shape)), shape)
    if value.ndim == len(shape) - 1 and spec.batch_axis is not None:
        return np.expand_dims(value, spec.batch_axis)
    return value.reshape(spec.shape)


def _all_finite(value: Array) -> bool:
    # A finite sum of squares proves it in one quick pass, without warnings; one that
    # overflows only asks for the exact test. In parts, because BLAS sets its threads to
    # work on longer ones, and they go on spinning.
    if value.dtype.kind == "f" and value.dtype.itemsize >= _SINGLE:
        flat = value.reshape(-1)
        parts = [flat] if flat.size <= _PART else np.split(flat, range(_PART, flat.size, _PART))
        if all(math.isfinite(np.vdot(part, part)) for part in parts):
            return True
    return bool(np.isfinite(value).all())


def _control(spec: TensorSpec, rows: Sequence[BatchRow]) -> Array:
    """Make a control input: one value a row, or one for all where it has no batch axis."""
    kind = spec.control
    values: list[Any]
    if kind is ControlKind.CORRELATION_ID:
        values = [_as_id(row.info.correlation_id, spec.dtype) for row in rows]
    else:
        off, on = spec.control_values
        values = [on if _told(kind, row.info) else off for row in rows]
    if spec.batch_axis is None or not spec.shape:
        values = values[:1]  # rows that must be told different things do not share a call
    array = np.array(values, object if spec.dtype == "object" else spec.dtype)
    if not spec.shape:
        return array.reshape(())
    shape = [len(values) if axis == spec.batch_axis else 1 for axis in range(len(spec.shape))]
    return array.reshape(shape)


def _told(kind: ControlKind | None, info: RowInfo) -> bool:
    if kind is ControlKind.START:
        return info.start
    if kind is ControlKind.NOT_START:
        return not info.start
    if kind is ControlKind.END:
        return info.end
    return True  # READY: every row of a batch is a real one


def _has_begun(info: RowInfo) -> bool:
    return info.partial is not None and info.partial.used


def _as_id(correlation_id: int | str, dtype: str) -> Any:
    if dtype == "object":
        return str(correlation_id).encode()
    if isinstance(correlation_id, str):  # always the same number for the same text
        correlation_id = xxh3_64_intdigest(correlation_id.encode())
    bits = np.dtype(dtype).itemsize * 8
    low = correlation_id & ((1 << bits) - 1)
    signed = np.dtype(dtype).kind == "i" and low >= 1 << (bits - 1)
    return low - (1 << bits) if signed else low


def as_model_error(error: BaseException) -> ServerError:
    """Give a model's exception the shape of a server error, with its own text."""
    if isinstance(error, ServerError):
        return error
    wrapped = ModelError(f"the model failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
