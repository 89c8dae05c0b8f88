"""Take the variables of a graph (ReadValue and Assign) out, as inputs and outputs.

Inside OpenVINO a variable belongs to one infer request, so one request serves one
sequence. As an input and an output it is a row of a batch like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

if TYPE_CHECKING:
    from legato.core.types import Array

_READ, _ASSIGN = "ReadValue", "Assign"


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a model.

    Attributes:
        name: Its id in the file.
        dtype: OpenVINO element type.
        shape: Partial shape.
        initial: First value with every open dimension as 1; ``None`` = zeros, or
            what ``from_data`` says.
        from_data: The first value is computed from inputs of the sequence's first step.
        bare: Nothing in the file says how it begins.
    """

    name: str
    dtype: Any
    shape: Any
    initial: Array | None
    from_data: bool
    bare: bool


@dataclass(slots=True)
class _Nodes:
    """The nodes of one variable."""

    reads: list[Any]
    assigns: list[Any]


def find_variables(model: Any, core: Any) -> tuple[Variable, ...]:
    """List the variables of a model, sorted by id; the model is left alone.

    The order is that of states in stored records, so it must not depend on how
    OpenVINO happens to walk the graph.
    """
    return tuple(
        _describe(model, core, name, nodes)
        for name, nodes in sorted(_nodes(model).items())
        if nodes.reads
    )


def _nodes(model: Any) -> dict[str, _Nodes]:
    found: dict[str, _Nodes] = {}
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind in (_READ, _ASSIGN):
            nodes = found.setdefault(op.get_attributes()["variable_id"], _Nodes([], []))
            (nodes.reads if kind == _READ else nodes.assigns).append(op)
    return found


def _describe(model: Any, core: Any, name: str, nodes: _Nodes) -> Variable:
    read = nodes.reads[0]
    bare = read.get_input_size() == 0
    # Attributes of old files lack dtype and shape; the output has what was inferred.
    shape, dtype = read.output(0).get_partial_shape(), read.output(0).get_element_type()
    if shape.rank.is_dynamic and nodes.assigns:
        shape = nodes.assigns[0].input_value(0).get_partial_shape()
    from_data = not bare and _depends_on_data(read)
    initial = None
    if not bare and not from_data:
        initial = _evaluate(model, core, name)
    return Variable(name, dtype, shape, initial, from_data, bare)


def _depends_on_data(read: Any) -> bool:
    """Tell whether a first value is computed from inputs, other than from their shapes."""
    todo, seen = [read.input_value(0).get_node()], set()
    while todo:
        node = todo.pop()
        kind, name = node.get_type_name(), node.get_name()
        if name in seen or kind == "ShapeOf":
            continue
        if kind in ("Parameter", _READ):
            return True
        seen.add(name)
        todo += [value.get_node() for value in node.input_values()]
    return False


def _evaluate(model: Any, core: Any, name: str) -> Array | None:
    """Compute the first value of a variable: constants lie behind other nodes in real files."""
    copy = model.clone()
    read = _nodes(copy)[name].reads[0]
    source = ov.Model([ops.result(read.input_value(0))], copy.get_parameters(), "first")
    # The sizes need not suit the rest of the model, which is not there any more.
    sizes = {
        at: ov.PartialShape([1 if dim.is_dynamic else dim for dim in port.get_partial_shape()])
        for at, port in enumerate(source.inputs)
    }
    if sizes:
        source.reshape(sizes)
    compiled = core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feed = {
        at: np.zeros(tuple(port.get_shape()), port.get_element_type().to_dtype())
        for at, port in enumerate(compiled.inputs)
    }
    value: Array = np.array(compiled.create_infer_request().infer(feed)[0])
    return value if value.any() else None


def expose(model: Any, variables: tuple[Variable, ...]) -> tuple[str, ...]:
    """Turn variables into inputs and outputs, in place.

    New inputs and outputs follow the model's own, in the order of ``variables``. They
    are to be addressed by position: a name set on the source of an Assign is shared with,
    or lost to, an output of the model that shows the same tensor.

    A variable whose first value depends on data gets one more input after all these: a
    boolean of its rank, true in rows that begin.

    Returns:
        Names of the variables that got such an input, in their order.
    """
    nodes = _nodes(model)
    params, starts, results = [], [], []
    for variable in variables:
        own = nodes[variable.name]
        state = ops.parameter(variable.shape, variable.dtype)
        params.append(state)
        value = state.output(0)
        if variable.from_data:
            start = ops.parameter([1] * len(variable.shape), ov.Type.boolean)
            starts.append(start)
            value = ops.select(start, own.reads[0].input_value(0), state).output(0)
        for read in own.reads:
            read.output(0).replace(value)
        results.append(ops.result(own.assigns[-1].input_value(0) if own.assigns else value))
    for own in nodes.values():
        for assign in own.assigns:
            assign.output(0).replace(assign.input_value(0))
            model.remove_sink(assign)
    model.add_parameters([*params, *starts])
    model.add_results(results)
    for left in list(model.get_variables()):
        model.remove_variable(left)
    model.validate_nodes_and_infer_types()
    return tuple(variable.name for variable in variables if variable.from_data)
