"""Make a model that is fixed at batch 1 dynamic, in memory, as a guess that is then tested.

Exporters that trace one example write its batch size of 1 into the file: into the
declared shapes, and into constants of Reshape nodes. Both can be loosened without
touching what the model computes. Whether that is enough, or wrong, is not decided
here: the changed model serves only if the gate proves it on rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from legato.runtimes.discovery.graph import freed

if TYPE_CHECKING:
    from collections.abc import Iterator


def variants(model: Any) -> Iterator[bytes]:
    """Yield changed copies of a model, the least changed first.

    First only declared shapes are loosened, then Reshape constants that begin with 1
    as well. ``model`` itself is left alone.
    """
    import onnx

    loosened = onnx.ModelProto()
    loosened.CopyFrom(model)
    _free_shapes(loosened.graph)
    yield loosened.SerializeToString()
    if _free_reshapes(loosened.graph):
        yield loosened.SerializeToString()


def _free_shapes(graph: Any) -> None:
    fixed = {tensor.name for tensor in graph.initializer}
    for tensor in graph.input:
        if tensor.name in fixed:
            continue
        for axis, dim in enumerate(tensor.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value == 1:
                dim.dim_param = freed(axis)
    for tensor in graph.output:
        for dim in tensor.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value == 1:
                dim.Clear()
    del graph.value_info[:]


def _free_reshapes(graph: Any) -> int:
    """Let Reshape nodes whose target begins with 1 take the batch from their input."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    changed = 0
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        target = onnx.numpy_helper.to_array(constants[node.input[1]]).copy()
        if not target.size or target[0] != 1:
            continue
        # -1 infers the size; where another dimension is inferred, 0 copies the input's.
        target[0] = 0 if -1 in target else -1
        name = f"legato:reshape{changed}"
        graph.initializer.append(onnx.numpy_helper.from_array(target, name))
        node.input[1] = name
        changed += 1
    return changed
