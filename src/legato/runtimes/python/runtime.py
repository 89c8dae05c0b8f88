"""Runs a user's class behind the runtime contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ModelError, ServerError, SignatureError, join_names
from legato.core.types import InputKind
from legato.runtimes.base import StepResult
from legato.runtimes.python.api import Batch, Model, Result, Row, RowModel
from legato.runtimes.python.declaration import fits
from legato.runtimes.python.loading import forget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import (
        Array,
        CorrelationId,
        EndReason,
        Signature,
        StateSpec,
        TensorSpec,
    )
    from legato.runtimes.base import StepBatch
    from legato.runtimes.python.loading import Loaded


class PythonRuntime:
    """A user's model, guarded: inputs are read-only and results are checked.

    Args:
        model: The user's object, loaded.
        signature: What it declares.
        loaded: Where it came from.
        hooks: Tell the model of sequences; off for trial runs, whose sequences are made up.
    """

    def __init__(
        self,
        model: Model | RowModel,
        signature: Signature,
        loaded: Loaded,
        *,
        hooks: bool = True,
    ) -> None:
        self._hooks = hooks
        self.signature = signature
        self._model = model
        self._loaded = loaded
        self._axes = {
            spec.name: spec.batch_axis
            for spec in signature.inputs
            if spec.kind is not InputKind.SCALAR
        }

    def step(self, batch: StepBatch) -> StepResult:
        """Run the class once; see :class:`legato.runtimes.base.Runtime`.

        Raises:
            SignatureError: A tensor is missing, unknown, or of another dtype or shape
                than declared.
            Exception: Whatever the user's code raised.
        """
        for row in batch.rows:
            if row.start and self._hooks:
                self._model.sequence_started(row.correlation_id)
        guarded = Batch(_read_only(batch.inputs), _read_only(batch.state), batch.rows)
        if isinstance(self._model, Model):
            result = self._model.step(guarded)
            self._check(result, len(batch.rows))
        else:
            result = self._by_row(self._model, guarded)
        failed = {row: _as_server_error(error) for row, error in result.failed.items()}
        return StepResult(result.outputs, result.state, failed)

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Tell the model."""
        self._model.sequence_ended(correlation_id, reason)

    def close(self) -> None:
        """Let the model free what it holds."""
        self._model.close()
        forget(self._loaded.package)

    def __repr__(self) -> str:
        return f"<PythonRuntime {type(self._model).__name__} from {self._loaded.file}>"

    # -- row by row ------------------------------------------------------------------

    def _by_row(self, model: RowModel, batch: Batch) -> Result:
        """Call ``step_row`` for each row; an error fails its row only."""
        failed: dict[int, Exception] = {}
        results: list[Result] = []
        for index in range(len(batch)):
            row = self._row(batch, index)
            try:
                result = model.step_row(row)
                self._check(result, 1)
                if result.failed:
                    raise next(iter(result.failed.values()))
            except Exception as error:  # noqa: BLE001  # reported for this row; others go on
                failed[index] = error
                result = Result(self._blank_outputs(), row.state)
            results.append(result)
        return Result(
            {
                spec.name: _beside([r.outputs[spec.name] for r in results], spec.batch_axis)
                for spec in self.signature.outputs
            },
            {
                spec.name: _beside([r.state[spec.name] for r in results], spec.batch_axis)
                for spec in self.signature.states
            },
            failed,
        )

    def _row(self, batch: Batch, index: int) -> Row:
        inputs = {
            name: array if (axis := self._axes.get(name)) is None else _one(array, axis, index)
            for name, array in batch.inputs.items()
        }
        state = {
            spec.name: _one(batch.state[spec.name], spec.batch_axis, index)
            for spec in self.signature.states
        }
        return Row(inputs, state, batch.rows[index])

    def _blank_outputs(self) -> dict[str, Array]:
        """Something of the right shape in the place of a failed row's outputs."""
        return {
            spec.name: np.zeros([max(size, 0) for size in spec.shape], spec.dtype)
            for spec in self.signature.outputs
        }

    # -- checks ----------------------------------------------------------------------

    def _check(self, result: Any, rows: int) -> None:
        """Refuse a result that is not what the class declared."""
        owner = type(self._model).__name__
        if not isinstance(result, Result):
            raise SignatureError(
                f"{owner} returned {type(result).__name__}; expected Result(outputs, state)"
            )
        _check_tensors("output", self.signature.outputs, result.outputs, rows, owner)
        _check_tensors("state", self.signature.states, result.state, rows, owner)
        for row in result.failed:
            if not 0 <= row < rows:
                raise SignatureError(
                    f"{owner} failed row {row!r} of a batch of {rows}; rows count from 0"
                )


def _read_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    views = {}
    for name, array in arrays.items():
        view = array.view()
        view.flags.writeable = False
        views[name] = view
    return views


def _one(array: Array, axis: int, index: int) -> Array:
    """Row ``index``, batch axis kept; a view, so it stays read-only."""
    return array[(slice(None),) * axis + (slice(index, index + 1),)]


def _beside(arrays: list[Array], axis: int | None) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis or 0)


def _as_server_error(error: Exception) -> ServerError:
    if isinstance(error, ServerError):
        return error
    wrapped = ModelError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped


def _check_tensors(
    kind: str,
    specs: tuple[TensorSpec, ...] | tuple[StateSpec, ...],
    got: Mapping[str, Any],
    rows: int,
    owner: str,
) -> None:
    for spec in specs:
        array = got.get(spec.name)
        if array is None:
            raise SignatureError(
                f"{owner} returned no {kind} '{spec.name}'; it returned {join_names(list(got))}"
                if got
                else f"{owner} returned no {kind} '{spec.name}'"
            )
        axis = spec.batch_axis or 0
        want = (*spec.shape[:axis], rows, *spec.shape[axis + 1 :])
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != spec.dtype
            or not fits(array.shape, want)
        ):
            raise SignatureError(
                f"{owner} returned {kind} '{spec.name}' as {_describe(array)}; "
                f"expected {spec.dtype} {want}" + (" (-1 = any size)" if -1 in want else "")
            )
    if len(got) != len(specs):
        extra = [name for name in got if name not in {spec.name for spec in specs}]
        raise SignatureError(
            f"{owner} returned {kind} {join_names(extra)}, which it does not declare; declared: "
            + (join_names([spec.name for spec in specs]) or "none")
        )


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {value.shape}"
    return f"{type(value).__name__}, not an array"
