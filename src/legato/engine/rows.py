"""A request of several rows to a model without state: a step a row, and one answer.

Steps of sequences have one row each, because a sequence advances once a step. A model without
state has no such reason, and Triton's clients send it batches of their own making. The rows
share model calls with those of other requests, as all rows do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import InputError, ModelError, ServerError
from legato.core.types import InputKind, OutputHeader, Reply, Step
from legato.engine.arena import join_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.engine.model import ModelHandle

_TAKEN_OVER = (
    "version", "outputs", "deadline", "queue_timeout_s", "priority", "parameters", "arrived",
    "request_id",
)  # fmt: skip


def split(
    step: Step, handle: ModelHandle, done: Callable[[Reply | ServerError], None]
) -> list[Step] | InputError:
    """Make a step a row, or say why the request is no batch.

    Args:
        step: The request; its inputs were refused because of their batch size.
        handle: The model, without state.
        done: Called once, with the answer to the whole request.
    """
    data = [spec for spec in handle.signature.inputs if spec.kind is InputKind.DATA]
    given = {spec.name: spec.batch_axis for spec in data if spec.name in step.inputs}
    sizes = {
        name: step.inputs[name].shape[axis]
        for name, axis in given.items()
        if axis is not None and axis < step.inputs[name].ndim
    }
    count = max(sizes.values(), default=0)
    for name, size in sizes.items():
        if size != count or not size:
            return _refused(
                f"input '{name}' has {size} rows, another input of the request has {count}", name
            )
    first = next(iter(sizes))
    most = handle.config.max_batch_size
    if count > most:
        return _refused(
            f"inference request batch-size must be <= {most} for '{handle.name}', got {count}",
            first,
        )
    if any(spec.batch_axis is None for spec in handle.signature.outputs):
        return _refused(f"model '{handle.name}' takes one row a request", first)
    gathered = _Gathered(handle, count, done)
    return [_row(step, given, at, gathered) for at in range(count)]


def _refused(text: str, tensor: str) -> InputError:
    return InputError(text, reason="value", tensor=tensor)


def _row(step: Step, axes: dict[str, int | None], at: int, gathered: _Gathered) -> Step:
    inputs = {}
    for name, value in step.inputs.items():
        axis = axes.get(name)
        inputs[name] = value if axis is None else np.take(value, [at], axis)
    row = Step(step.model, None, inputs, step.dialect, gathered.place(at))
    for name in _TAKEN_OVER:
        setattr(row, name, getattr(step, name))
    return row


class _Gathered:
    """Waits for the answers to all rows."""

    def __init__(
        self, handle: ModelHandle, count: int, done: Callable[[Reply | ServerError], None]
    ) -> None:
        self._handle = handle
        self._answers: list[Any] = [None] * count
        self._missing = count
        self._done = done

    def place(self, at: int) -> Callable[[Any], None]:
        """Return what to call with the answer to a row."""

        def answered(answer: Reply | ServerError) -> None:
            self._answers[at] = answer
            self._missing -= 1
            if not self._missing:
                self._done(self._whole())

        return answered

    def _whole(self) -> Reply | ServerError:
        """Lay the rows' answers side by side; one that failed fails the request."""
        answers: list[Reply] = []
        for answer in self._answers:
            if isinstance(answer, ServerError):
                return answer
            answers.append(answer)
        first = answers[0]
        if any(answer.headers != first.headers for answer in answers):
            return ModelError("the rows of this request gave outputs of different shapes")
        axes = {spec.name: spec.batch_axis or 0 for spec in self._handle.signature.outputs}
        headers, data = [], []
        for at, header in enumerate(first.headers):
            rows = [answer.data[at] for answer in answers]
            axis = axes[header.name]
            headers.append(
                OutputHeader(
                    header.name,
                    header.dtype,
                    (*header.shape[:axis], len(rows), *header.shape[axis + 1 :]),
                )
            )
            data.append(
                b"".join(rows)
                if axis == 0 or header.dtype == "object"
                else join_rows(rows, header.shape, np.dtype(header.dtype), axis).tobytes()
            )
        return Reply(
            tuple(headers), tuple(data), first.correlation_id, first.step, first.version,
            durability=first.durability,
        )  # fmt: skip
