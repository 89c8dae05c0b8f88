"""Find the batch axes of a model by trying: metadata cannot tell.

A dimension of unknown size may be the batch or time; a 1 may be the batch, a layer or
a direction. So each consistent choice of axes is tried: three rows are laid side by
side, the model is run, and where its outputs grew shows their axes. The gate then
compares with rows run alone. A choice that puts rows on a time axis runs, perhaps,
but does not pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.runtimes.discovery.axes import choices
from legato.runtimes.discovery.signature import make_signature
from legato.runtimes.gate import ROWS, Verdict, check
from legato.runtimes.onnx.runtime import OnnxRuntime
from legato.runtimes.rehearsal import Rehearsal, RehearsalError, find_size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array
    from legato.runtimes.base import Runtime
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.signature import Axes

_SEED = 20240229
_NO_ROWS = f"it does not run {ROWS} rows in one call"


@dataclass(frozen=True, slots=True)
class Probed:
    """One choice of axes and what came of it.

    Attributes:
        axes: Batch axis of inputs and outputs.
        verdict: What the gate said; ``ran`` tells whether the shapes were right at least.
        size: Size of open dimensions that was used.
    """

    axes: Axes
    verdict: Verdict
    size: int | None


def probe(session: Any, plan: Plan, hints: Mapping[str, int], *, compare: bool) -> Probed | None:
    """Find the choice of batch axes that the gate passes.

    Args:
        session: The model.
        plan: What is served of it.
        hints: Batch axis by input where the nodes tell it.
        compare: Ask the gate; otherwise the first choice whose shapes work is taken.

    Returns:
        The choice that passed; else the most telling one that did not; ``None`` when
        some input has no axis that could be the batch.
    """
    best: Probed | None = None
    for axes in choices(plan, hints):
        probed = _try(session, plan, axes, compare=compare)
        if probed.verdict.ok:
            return probed
        if best is None or (probed.verdict.ran and not best.verdict.ran):
            best = probed
    return best


def _try(session: Any, plan: Plan, axes: Axes, *, compare: bool) -> Probed:
    """Try one choice: find where the outputs grow, then ask the gate."""
    axes = {
        **axes,
        **{c.config.output: axes.get(c.config.input) for c in plan.carried if c.config.output},
    }
    first = make_signature(plan, axes, batching=True, why="")
    size: int | None = None
    try:
        runtime = OnnxRuntime(session, first)
        size = find_size(runtime)
        axes |= output_axes(runtime, size)
    except Exception as error:  # noqa: BLE001 - the model's own refusal of these axes
        problem = "it cannot be run on made-up rows" if size is None else _NO_ROWS
        return Probed(axes, Verdict(ok=False, why=f"{problem} ({error})", ran=False), size)
    final = make_signature(plan, axes, batching=True, why="")
    if not compare:
        why = "its shapes take several rows (numbers not compared: the gate is off)"
        return Probed(axes, Verdict(ok=True, why=why), size)
    verdict = check(OnnxRuntime(session, final), np.random.default_rng(_SEED), size=size)
    return Probed(axes, verdict, size)


def output_axes(runtime: Runtime, size: int) -> Axes:
    """Run one row and three, and see on which axis each output grew.

    Raises:
        RehearsalError: An output or state did not grow by the rows, or not on one axis.
    """
    rehearsal = Rehearsal(runtime, np.random.default_rng(_SEED), size=size)
    row, state = rehearsal.row(), rehearsal.first_state()
    one, _ = rehearsal.batch([row], [state], 1)
    many, _ = rehearsal.batch([row] * ROWS, [state] * ROWS, 1)
    alone, together = runtime.step(one), runtime.step(many)
    fed = {state.name: state.batch_axis for state in runtime.signature.states}
    found: Axes = {}
    for name in alone.outputs:
        found[name] = _grown(name, alone.outputs[name], together.outputs[name])
    for name in alone.state:
        one_row, rows = alone.state[name], together.state[name]
        if one_row.size and _grown(name, one_row, rows) != fed[name]:
            msg = f"the next value of state '{name}' does not hold rows on axis {fed[name]}"
            raise RehearsalError(msg)
    return found


def _grown(name: str, one: Array, many: Array) -> int:
    if one.ndim == many.ndim:
        axes = [
            at
            for at, (a, b) in enumerate(zip(one.shape, many.shape, strict=True))
            if (a, b) == (1, ROWS)
        ]
        others = sum(a != b for a, b in zip(one.shape, many.shape, strict=True))
        if len(axes) == 1 and others == 1:
            return axes[0]
    msg = (
        f"'{name}' has shape {list(one.shape)} for one row and {list(many.shape)} for {ROWS}: "
        "no axis of it holds the rows"
    )
    raise RehearsalError(msg)
