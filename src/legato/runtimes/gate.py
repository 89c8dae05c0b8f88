"""The gate: may rows of this model share a call?

Three made-up sequences are stepped together and one by one, a few steps, each way on
its own states. If outputs and states agree, batching changes nothing that a client
could see. If they do not, rows influence one another (dynamic quantisation scales
over the whole batch, a statistic is taken over it, a dimension is time rather than
rows) and the model is served one row a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from legato.core.types import UpdateRule
from legato.runtimes.rehearsal import Rehearsal, RehearsalError, find_size, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array, Signature
    from legato.runtimes.base import Runtime, StepResult

ROWS = 3
STEPS = 4
APART_STEPS = 2
"""Steps compared after the rows have gone on to different ages."""
TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest value of the tensor. Batched
arithmetic may add in another order; influence between rows is orders above this."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate found.

    Attributes:
        ok: Rows may share a call.
        why: One sentence for people.
        max_difference: Largest relative difference seen.
        worst: Tensor it was seen in, ``""`` for none.
        ran: The model ran batched with the declared shapes, whatever the numbers said.
        rows, steps: What was compared.
    """

    ok: bool
    why: str
    max_difference: float = 0.0
    worst: str = ""
    ran: bool = True
    rows: int = ROWS
    steps: int = STEPS


class _Worst:
    """The largest relative difference so far, and where."""

    def __init__(self) -> None:
        self.difference = 0.0
        self.name = ""

    def see(self, name: str, together: Array, alone: Array, scale: float) -> None:
        difference = _difference(together, alone, scale)
        if difference > self.difference:
            self.difference, self.name = difference, name


def check(
    runtime: Runtime,
    rng: np.random.Generator,
    *,
    size: int | None = None,
    tolerance: float = TOLERANCE,
) -> Verdict:
    """Compare rows run together with the same rows run one by one.

    Args:
        runtime: Any runtime; its signature's batch axes are what is tested.
        rng: Source of the rows.
        size: Size of open dimensions; ``None`` = look for one that runs.
        tolerance: Largest relative difference that is still agreement.
    """
    try:
        size = find_size(runtime) if size is None else size
    except RehearsalError as error:
        return Verdict(
            ok=False,
            why=f"it could not be run on made-up rows ({error})",
            max_difference=float("nan"),
            ran=False,
        )
    try:
        worst = _compare(Rehearsal(runtime, rng, size=size))
    except Exception as error:  # noqa: BLE001 - the model's own refusal of a batch
        return Verdict(
            ok=False,
            why=f"it does not run {ROWS} rows in one call ({error})",
            max_difference=float("nan"),
            ran=False,
        )
    if worst.difference > tolerance:
        return Verdict(
            ok=False,
            why=f"rows of a batch influence one another: '{worst.name}' differs by "
            f"{worst.difference:.1e} of its largest value from the same row run alone",
            max_difference=worst.difference,
            worst=worst.name,
        )
    how = "bit for bit" if worst.difference == 0 else f"to {worst.difference:.0e}"
    return Verdict(
        ok=True,
        why=f"{ROWS} rows together gave what they give one by one, {how}, over {STEPS} steps",
        max_difference=worst.difference,
        worst=worst.name,
    )


def _compare(rehearsal: Rehearsal) -> _Worst:
    worst = _Worst()
    shared = rehearsal.row()
    together = [rehearsal.first_state() for _ in range(ROWS)]
    alone = [dict(state) for state in together]
    for number in range(1, STEPS + 1):
        together = _compare_step(rehearsal, shared, (together, alone), number, worst)
    if _may_part(rehearsal.signature):
        _go_apart(rehearsal, shared, alone)
        together = [dict(state) for state in alone]
        for number in range(STEPS + ROWS, STEPS + ROWS + APART_STEPS):
            together = _compare_step(rehearsal, shared, (together, alone), number, worst)
    return worst


def _compare_step(
    rehearsal: Rehearsal,
    shared: Mapping[str, Array],
    states: tuple[list[dict[str, Array]], list[dict[str, Array]]],
    number: int,
    worst: _Worst,
) -> list[dict[str, Array]]:
    """Run a step together and alone; move the states on, those of rows alone in place."""
    together, alone = states
    rows = [_with_shared(rehearsal, shared) for _ in range(ROWS)]
    result, together = rehearsal.step(rows, together, number)
    singles: list[StepResult] = []
    for at, row in enumerate(rows):
        single, (alone[at],) = rehearsal.step([row], [alone[at]], number, at + 1)
        singles.append(single)
    _compare_outputs(rehearsal, result, singles, worst)
    for spec in rehearsal.signature.states:
        _see(worst, spec.name, [s[spec.name] for s in together], [s[spec.name] for s in alone])
    return together


def _may_part(signature: Signature) -> bool:
    """Tell whether sequences of different ages may share a call: their states look alike."""
    return bool(signature.states) and not any(
        spec.rule is UpdateRule.APPEND or -1 in spec.shape for spec in signature.states
    )


def _go_apart(
    rehearsal: Rehearsal, shared: Mapping[str, Array], states: list[dict[str, Array]]
) -> None:
    """Run each row further than the one before it.

    A counter has the same value in all rows of one age: a model that looks at the first
    row's for all of them would pass.
    """
    for at in range(1, ROWS):
        for number in range(STEPS + 1, STEPS + 1 + at):
            row = _with_shared(rehearsal, shared)
            _, (states[at],) = rehearsal.step([row], [states[at]], number, at + 1)


def _with_shared(rehearsal: Rehearsal, shared: Mapping[str, Array]) -> dict[str, Array]:
    """Make a row whose inputs without a batch axis are those of every other row."""
    row = rehearsal.row()
    for spec in rehearsal.signature.inputs:
        if spec.batch_axis is None and spec.name in row:
            row[spec.name] = shared[spec.name]
    return row


def _compare_outputs(
    rehearsal: Rehearsal, result: StepResult, singles: list[StepResult], worst: _Worst
) -> None:
    for spec in rehearsal.signature.outputs:
        rows = split(result.outputs[spec.name], spec.batch_axis, ROWS)
        _see(worst, spec.name, rows, [single.outputs[spec.name] for single in singles])


def _see(worst: _Worst, name: str, together: list[Array], alone: list[Array]) -> None:
    scale = max((_largest(value) for value in (*alone, *together)), default=0.0)
    for a, b in zip(together, alone, strict=True):
        worst.see(name, a, b, scale)


def _largest(value: Array) -> float:
    if value.dtype.kind not in "fc" or not value.size:
        return 0.0
    finite = np.abs(value[np.isfinite(value)])
    return float(finite.max()) if finite.size else 0.0


def _difference(together: Array, alone: Array, scale: float) -> float:
    """Relative difference; infinite for another shape, and for unequal integers or text."""
    if together.shape != alone.shape or together.dtype != alone.dtype:
        return float("inf")
    if together.dtype.kind not in "fc":
        return 0.0 if np.array_equal(together, alone) else float("inf")
    if np.array_equal(together, alone, equal_nan=True):
        return 0.0
    off = np.abs(together.astype(np.float64) - alone.astype(np.float64))
    both = np.isfinite(together) & np.isfinite(alone)
    same = (together == alone) | (np.isnan(together) & np.isnan(alone))
    if not (both | same).all():
        return float("inf")
    return float(off[both].max()) / max(scale, 1e-6)
