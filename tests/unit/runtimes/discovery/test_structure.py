"""What nodes tell of states: packed tensors, and axes that end in a recurrent node."""

import numpy as np
from tests.models.tiny import FLOAT, build, lstm, node

from legato.runtimes.discovery.pairing import GraphTensor
from legato.runtimes.discovery.structure import Structure, pack_pairs


def packed(pieces_out=2):
    """Cut a state of two layers, add x to each, put them together again."""
    layers = ["a", "b"][:pieces_out]
    return build(
        [node("Split", ["s", "sizes"], ["s0", "s1"], axis=1),
         node("Add", ["s0", "x"], ["a"]),
         node("Add", ["s1", "x"], ["b"]),
         node("Concat", layers, ["packed"], axis=1),
         node("Add", ["a", "b"], ["y"])],
        [("x", FLOAT, [1, 1, 4]), ("s", FLOAT, [1, 2, 4])],
        [("y", FLOAT, [1, 1, 4]), ("packed", FLOAT, [1, pieces_out, 4])],
        {"sizes": np.array([1, 1], np.int64)},
    )  # fmt: skip


def tensor(name, *dims):
    return GraphTensor(name, "float32", dims)


def test_a_tensor_cut_and_put_together_again_is_a_state():
    """As many pieces out as in, and the same shape: the state of all layers in one."""
    structure = Structure(packed())

    pairs = pack_pairs(
        structure,
        [tensor("x", 1, 1, 4), tensor("s", 1, 2, 4)],
        [tensor("y", 1, 1, 4), tensor("packed", 1, 2, 4)],
    )

    assert [(pair.input, pair.output) for pair in pairs] == [("s", "packed")]


def test_another_number_of_pieces_is_no_state():
    """An output put together from one piece is not what was cut into two."""
    structure = Structure(packed(pieces_out=1))

    pairs = pack_pairs(structure, [tensor("s", 1, None, 4)], [tensor("packed", 1, None, 4)])

    assert pairs == ()


def test_data_that_is_computed_with_is_not_packed():
    """An input that any node other than a cut takes has no pieces."""
    assert Structure(packed()).pieces_in("x") == 0


def test_the_batch_axis_of_initial_h_is_followed_back():
    """Axis 1 of ``initial_h`` is the batch, by definition of the operator."""
    structure = Structure(lstm())

    assert structure.recurrent_axis(tensor("h0", 1, "N", 5)) == 1
    assert structure.recurrent_axis(tensor("c0", 1, "N", 5)) == 1


def test_the_sequence_of_a_recurrent_node_is_no_state():
    """Data reaches the node as X, not as a first state."""
    assert Structure(lstm()).recurrent_axis(tensor("x", "N", 1, 3)) is None


def test_axes_are_followed_through_squeeze_and_transpose():
    """A cache that is cut, squeezed and turned still tells where its batch is."""
    rng = np.random.default_rng(0)
    model = build(
        [node("Gather", ["cache", "second"], ["layer"], axis=2),
         node("Transpose", ["layer"], ["h"], perm=[1, 0, 2]),
         node("GRU", ["x", "w", "r", "", "", "h"], ["", "next"], hidden_size=4)],
        [("x", FLOAT, [1, 1, 3]), ("cache", FLOAT, [1, 1, 2, 4])],
        [("next", FLOAT, [1, 1, 4])],
        {"second": np.array(1, np.int64),
         "w": rng.standard_normal((1, 12, 3)).astype(np.float32),
         "r": rng.standard_normal((1, 12, 4)).astype(np.float32)},
    )  # fmt: skip

    axis = Structure(model).recurrent_axis(tensor("cache", 1, 1, 2, 4))

    assert axis == 0
