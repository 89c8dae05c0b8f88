"""Find the batch axes of a model by asking OpenVINO's shape inference.

Each consistent choice of axes is tried on a copy: the chosen axes get an odd size. If
that size runs through the whole graph, comes out in every output and comes back in
every state, the choice is possible. Nothing is run, so a choice costs milliseconds;
the gate then tells on real rows whether it is right.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import openvino as ov

from legato.runtimes.discovery.axes import choices
from legato.runtimes.discovery.graph import freed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from legato.runtimes.discovery.pairing import GraphTensor
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.signature import Axes
    from legato.runtimes.openvino.graph import Opened

_ODD_SIZES = (7, 11, 13, 17, 19, 23)


def possible_axes(opened: Opened, plan: Plan) -> Iterator[Axes]:
    """Yield the choices of batch axes that fit the whole graph, the likeliest first."""
    tied = dict(opened.starts)
    odd = _odd_size(opened)
    for choice in choices(_loosened(plan, tied), opened.hints):
        axes = dict(choice)
        inputs = _inputs_of(opened)
        for start, variable in tied.items():
            axes[start] = axes[inputs[variable]]
        found = _outputs(opened, plan, axes, odd)
        if found is not None:
            yield found


def with_batch(opened: Opened, axes: Axes) -> Any:
    """Return a copy of the model whose batch axes are open.

    Raises:
        RuntimeError: OpenVINO refuses.
    """
    return _reshaped(opened, axes, -1)


def _inputs_of(opened: Opened) -> dict[str, str]:
    """Map variables to the inputs that they became."""
    own = len(opened.inputs) - len(opened.variables) - len(opened.starts)
    return {v.name: opened.inputs[own + at] for at, v in enumerate(opened.variables)}


def _loosened(plan: Plan, tied: dict[str, str]) -> Plan:
    """Mark axes of size 1 as possible batch axes: a reshape can free them."""
    inputs = tuple(_freed(tensor) for tensor in plan.graph.inputs if tensor.name not in tied)
    return replace(plan, graph=plan.graph._replace(inputs=inputs))


def _freed(tensor: GraphTensor) -> GraphTensor:
    dims = tuple(freed(at) if dim == 1 else dim for at, dim in enumerate(tensor.dims))
    return tensor._replace(dims=dims)


def _odd_size(opened: Opened) -> int:
    used = {dim for t in (*opened.graph.inputs, *opened.graph.outputs) for dim in t.dims}
    return next((size for size in _ODD_SIZES if size not in used), _ODD_SIZES[-1])


def _reshaped(opened: Opened, axes: Axes, size: int) -> Any:
    model = opened.model.clone()
    sizes = {}
    for at, (name, port) in enumerate(zip(opened.inputs, model.inputs, strict=True)):
        axis = axes.get(name)
        shape = port.get_partial_shape()
        if axis is not None:
            shape[axis] = ov.Dimension(size)
        sizes[at] = shape
    model.reshape(sizes)
    return model


def _outputs(opened: Opened, plan: Plan, axes: Axes, odd: int) -> Axes | None:
    """Follow the odd size through the graph; ``None`` if it does not get everywhere."""
    try:
        model = _reshaped(opened, axes, odd)
    except Exception:  # noqa: BLE001 - OpenVINO's own refusal of these axes
        return None
    shapes = {
        name: port.get_partial_shape()
        for name, port in zip(opened.outputs, model.outputs, strict=True)
    }
    before = {
        name: port.get_partial_shape()
        for name, port in zip(opened.inputs, model.inputs, strict=True)
    }
    ranks = {tensor.name: len(tensor.dims) for tensor in plan.graph.outputs}
    found = dict(axes)
    for carried in plan.carried:
        state = carried.config
        if state.output is None:
            continue
        axis, shape = axes.get(state.input), shapes[state.output]
        if axis is None or shape.rank.is_dynamic or not shape[axis].compatible(ov.Dimension(odd)):
            return None
        if state.rule == "replace" and not shape.compatible(before[state.input]):
            return None
        found[state.output] = axis
    for name, rank in ranks.items():
        if name in found:
            continue
        shape = shapes[name]
        if shape.rank.is_dynamic or len(shape) != rank:
            return None
        holds = [at for at, dim in enumerate(shape) if dim == ov.Dimension(odd)]
        holds = holds or [at for at, dim in enumerate(shape) if dim.is_dynamic]
        if not holds:
            return None
        found[name] = holds[0]
    return found
