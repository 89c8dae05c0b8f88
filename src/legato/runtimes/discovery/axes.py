"""Which axes of a model's tensors may be the batch, before anything is run.

A dimension of unknown size may be the batch or time; a 1 may be the batch, a layer or a
direction. Each consistent choice is for a runtime to try.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

from legato.core.types import InputKind
from legato.runtimes.discovery.graph import is_freed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from legato.runtimes.discovery.pairing import Dim, GraphTensor
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.signature import Axes

_BATCH = re.compile(r"batch|^n$|^b$|^bs$|^bsz$", re.IGNORECASE)
_TIME = re.compile(r"time|seq|len|frame|step|sample|^t$|^l$", re.IGNORECASE)
_LAST = 2
_MOST_CHOICES = 64


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
