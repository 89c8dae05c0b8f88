"""Loosening a batch of 1: what is changed, and that the original is not."""

import onnx
from onnx import numpy_helper
from tests.models import tiny

from legato.runtimes.discovery.graph import is_freed
from legato.runtimes.onnx.dynamic import variants


def loosened():
    model = tiny.fixed()
    before = model.SerializeToString()
    copies = [onnx.load_from_string(data) for data in variants(model)]
    return model, before, copies


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_only_ones_are_freed_and_other_sizes_stay():
    """A 1 may be the batch; a 2 cannot."""
    _, _, copies = loosened()

    shape = dims(copies[0].graph.input[0])
    assert [is_freed(dim) for dim in shape] == [True, False, False]
    assert shape[1:] == [2, 2]


def test_shapes_are_tried_before_constants():
    """The least change comes first; the second also frees the targets of Reshape."""
    _, _, copies = loosened()

    targets = [
        [
            numpy_helper.to_array(tensor).tolist()
            for tensor in copy.graph.initializer
            if tensor.name in {node.input[1] for node in copy.graph.node if len(node.input) > 1}
        ]
        for copy in copies
    ]
    assert targets == [[[1, 4], [1, 4]], [[-1, 4], [-1, 4]]]


def test_the_model_itself_is_left_alone():
    """Variants are copies: the file's own graph may still be served."""
    model, before, _ = loosened()

    assert model.SerializeToString() == before


def test_a_model_without_reshapes_has_one_variant():
    """Nothing is tried twice."""
    assert len(list(variants(tiny.unbatched_state()))) == 1
