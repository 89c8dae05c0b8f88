"""Find the batch axes of a model by trying: metadata cannot tell.

A dimension of unknown size may be the batch or time; a 1 may be the batch, a layer or
a direction. So each consistent choice of axes is tried: three rows are laid side by
side, the model is run, and where its outputs grew shows their axes. The gate then
compares with rows run alone. A choice that puts rows on a time axis runs, perhaps,
but does not pass.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.types import InputKind
from legato.runtimes.gate import ROWS, Verdict, check
from legato.runtimes.onnx.dynamic import is_freed
from legato.runtimes.onnx.runtime import OnnxRuntime
from legato.runtimes.onnx.signature import make_signature
from legato.runtimes.rehearsal import Rehearsal, RehearsalError, find_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from legato.core.types import Array
    from legato.runtimes.discovery.pairing import Dim, GraphTensor
    from legato.runtimes.onnx.plan import Plan
    from legato.runtimes.onnx.signature import Axes

_BATCH = re.compile(r"batch|^n$|^b$|^bs$|^bsz$", re.IGNORECASE)
_TIME = re.compile(r"time|seq|len|frame|step|sample|^t$|^l$", re.IGNORECASE)
_LAST = 2
_MOST_CHOICES = 64
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


def choices(plan: Plan, hints: Mapping[str, int]) -> Iterator[Axes]:
    """Yield consistent choices of batch axes for all inputs, the likeliest first."""
    groups: dict[tuple[Any, ...], list[str]] = {}
    options: dict[tuple[Any, ...], list[int]] = {}
    for tensor in _batched_inputs(plan):
        axes = _options(plan, tensor, hints)
        if not axes:
            return
        # Tensors that look alike share a choice, or many states would mean many trials.
        key = (tensor.name in plan.state_inputs, tensor.dims, tuple(axes))
        groups.setdefault(key, []).append(tensor.name)
        options[key] = axes
    ranked = [list(enumerate(options[key])) for key in groups]
    every = itertools.islice(itertools.product(*ranked), 4096)
    for choice in sorted(every, key=lambda each: sum(rank for rank, _ in each))[:_MOST_CHOICES]:
        axes_of: Axes = {
            name: axis
            for names, (_, axis) in zip(groups.values(), choice, strict=True)
            for name in names
        }
        if _consistent(plan, axes_of):
            yield axes_of


def _batched_inputs(plan: Plan) -> Iterator[GraphTensor]:
    for tensor in plan.graph.inputs:
        kind = plan.kinds.get(tensor.name)
        if kind is InputKind.SCALAR:
            continue
        given = plan.override(tensor.name).batch_axis is not None
        if kind is InputKind.CONTROL and not given and all(dim == 1 for dim in tensor.dims):
            continue  # a control of fixed size tells all rows the same
        yield tensor


def _options(plan: Plan, tensor: GraphTensor, hints: Mapping[str, int]) -> list[int]:
    """List the axes of an input that may be the batch, the likeliest first."""
    given = _given(plan, tensor)
    if given is not None:
        return [] if isinstance(tensor.dims[given], int) else [given]
    state, window = plan.state_inputs.get(tensor.name), plan.windows.get(tensor.name)
    moved = {window.axis} if window is not None else set()
    if state is not None and state.rule == "append":
        moved.add(state.axis)
    row = (state.shape if state is not None else plan.override(tensor.name).shape) or []
    axes = [
        at
        for at, dim in enumerate(tensor.dims)
        if not isinstance(dim, int) and at not in moved and (at >= len(row) or row[at] == 1)
    ]
    return sorted(axes, key=lambda at: (at != hints.get(tensor.name), _order(tensor.dims[at]), at))


def _given(plan: Plan, tensor: GraphTensor) -> int | None:
    """Return the batch axis that the config names for an input."""
    state, window = plan.state_inputs.get(tensor.name), plan.windows.get(tensor.name)
    if state is not None:
        return state.batch_axis
    axis = plan.override(tensor.name).batch_axis
    return window.batch_axis if axis is None and window is not None else axis


def _order(dim: Dim) -> int:
    if not isinstance(dim, str) or is_freed(dim):
        return 1
    return 0 if _BATCH.search(dim) else _LAST if _TIME.search(dim) else 1


def _consistent(plan: Plan, axes: Axes) -> bool:
    """Check that a symbol that is the batch in one input is the batch in all that have it."""
    dims = {tensor.name: tensor.dims for tensor in plan.graph.inputs}
    chosen = {dims[name][axis] for name, axis in axes.items() if axis is not None}
    symbols = {dim for dim in chosen if isinstance(dim, str) and not is_freed(dim)}
    return all(
        dims[name][axis] in symbols or not symbols.intersection(dims[name])
        for name, axis in axes.items()
        if axis is not None
    )


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
        axes |= _output_axes(runtime, size)
    except Exception as error:  # noqa: BLE001 - the model's own refusal of these axes
        problem = "it cannot be run on made-up rows" if size is None else _NO_ROWS
        return Probed(axes, Verdict(ok=False, why=f"{problem} ({error})", ran=False), size)
    final = make_signature(plan, axes, batching=True, why="")
    if not compare:
        why = "its shapes take several rows (numbers not compared: the gate is off)"
        return Probed(axes, Verdict(ok=True, why=why), size)
    verdict = check(OnnxRuntime(session, final), np.random.default_rng(_SEED), size=size)
    return Probed(axes, verdict, size)


def _output_axes(runtime: OnnxRuntime, size: int) -> Axes:
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


def likely_axes(plan: Plan, hints: Mapping[str, int]) -> Axes:
    """Name the axes of size 1 that stand for the one row of a model that takes no more.

    For display and storage only: with one row a call, any axis of size 1 serves.
    """
    axes: Axes = {tensor.name: _one(tensor) for tensor in plan.graph.outputs}
    tried = next(choices(plan, hints), {})
    for tensor in _batched_inputs(plan):
        given, hint = _given(plan, tensor), hints.get(tensor.name)
        at = tried.get(tensor.name)
        if given is not None:
            axes[tensor.name] = given
        elif hint is not None and tensor.dims[hint] == 1:
            axes[tensor.name] = hint
        elif at is not None and _order(tensor.dims[at]) != _LAST:
            axes[tensor.name] = at
        else:
            axes[tensor.name] = _one(tensor)
    for carried in plan.carried:
        if carried.config.output:
            axes[carried.config.output] = axes.get(carried.config.input)
    return axes


def _one(tensor: GraphTensor) -> int | None:
    """Find the first axis that is called batch, else the first of size 1."""
    named = (at for at, d in enumerate(tensor.dims) if isinstance(d, str) and _BATCH.search(d))
    ones = (at for at, dim in enumerate(tensor.dims) if dim == 1)
    return next(itertools.chain(named, ones), None)
