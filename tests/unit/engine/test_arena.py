"""Gather, update rules, split: bytes in, bytes out, on any axis."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.errors import ClientError, SignatureError
from legato.core.types import Signature, StateRow, StateSpec, TensorSpec, UpdateRule
from legato.engine.arena import OutputLayout, StateLayout, encode_strings, join_rows, row_bytes


def layout_of(*specs: StateSpec, inputs=()) -> StateLayout:
    return StateLayout(Signature(tuple(inputs), (), specs))


def spec_of(rule: UpdateRule = UpdateRule.REPLACE, shape=(1, 2), **options) -> StateSpec:
    return StateSpec("s", "s_in", "s_out", "float32", shape, rule=rule, **options)


def row(*values, shape=None) -> StateRow:
    array = np.array(values, np.float32)
    return StateRow((array.tobytes(),), (shape or (1, len(values)),))


def floats(data: bytes) -> list[float]:
    return np.frombuffer(data, np.float32).tolist()


# -- rows and batches --------------------------------------------------


@given(
    st.sampled_from([np.float32, np.int64, np.uint8, np.bool_, np.float16]),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.integers(1, 5),
    st.data(),
)
def test_rows_joined_and_split_again_are_the_same_bytes(dtype, shape, rows, data) -> None:
    """Whatever the shape (zero sizes included) and wherever the batch axis is."""
    axis = data.draw(st.integers(0, len(shape) - 1))
    shape[axis] = 1
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2, shape).astype(dtype) for _ in range(rows)]

    batch = join_rows([a.tobytes() for a in arrays], tuple(shape), np.dtype(dtype), axis)
    row_shape, parts = row_bytes(batch, rows, axis)

    assert np.array_equal(batch, np.concatenate(arrays, axis))
    assert row_shape == tuple(shape)
    assert parts == [a.tobytes() for a in arrays]


def test_joined_rows_cannot_be_written() -> None:
    """A model that writes into its input cannot reach the committed state."""
    committed = np.zeros((1, 2), np.float32).tobytes()

    batch = join_rows([committed], (1, 2), np.dtype(np.float32), 0)

    with pytest.raises(ValueError, match="read-only"):
        batch[0, 0] = 1


def test_strings_are_split_with_their_lengths() -> None:
    """Bytes and text, one row each."""
    array = np.array([[b"ab", "c"], [b"", "é"]], object)

    shape, parts = row_bytes(array, 2, 0)

    assert shape == (1, 2)
    assert parts == [b"\x02\0\0\0ab\x01\0\0\0c", b"\0\0\0\0\x02\0\0\0\xc3\xa9"]
    assert encode_strings(array) == b"".join(parts)


def test_a_row_of_a_batch_in_fortran_order_is_row_major() -> None:
    """Bytes on the wire do not depend on how the model lays out memory."""
    array = np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3))

    for rows in (1, 2):
        _, parts = row_bytes(array[:rows], rows, 0)
        assert parts == [array[at].tobytes() for at in range(rows)]


# -- beginning --------------------------------------------------


def test_a_state_begins_with_zeros_or_its_initial_value() -> None:
    """A number fills the shape; an axis of any size begins empty."""
    layout = layout_of(
        spec_of(),
        spec_of(initial=0.5),
        spec_of(initial=[[1.0, 2.0]]),
        spec_of(shape=(1, -1, 2)),
    )

    first = layout.initial({})

    assert [floats(data) for data in first.data] == [[0, 0], [0.5, 0.5], [1, 2], []]
    assert first.shapes == ((1, 2), (1, 2), (1, 2), (1, 0, 2))


def test_a_constant_from_the_client_is_required_and_kept() -> None:
    """WRITE_ONCE without an output: taken from the first step, then never changed."""
    spec = StateSpec("s", "x", None, "float32", (1, -1), rule=UpdateRule.WRITE_ONCE)
    layout = layout_of(spec, inputs=[TensorSpec("x", "float32", (1, -1))])

    first = layout.initial({"x": np.array([[1, 2, 3]], np.float32)})
    (after,) = layout.split({}, [first], [True])

    assert floats(first.data[0]) == [1, 2, 3]
    assert first.shapes == ((1, 3),)
    assert after == first
    with pytest.raises(ClientError, match="'x'"):
        layout.initial({})


# -- gathering --------------------------------------------------


def test_states_with_different_axes_are_gathered_each_on_its_own() -> None:
    """One model, batch axis 0 here and 1 there."""
    layout = layout_of(
        StateSpec("a", "a", "a", "float32", (1, 2)),
        StateSpec("b", "b", "b", "int64", (2, 1, 3), batch_axis=1),
    )
    rows = [
        StateRow(
            (np.full((1, 2), i, np.float32).tobytes(), np.full((2, 1, 3), i).tobytes()),
            ((1, 2), (2, 1, 3)),
        )
        for i in range(4)
    ]

    states, windows = layout.gather(rows)
    again = layout.split(states, rows, [False] * 4)

    assert windows == {}
    assert states["a"][:, 0].tolist() == states["b"][0, :, 0].tolist() == [0, 1, 2, 3]
    assert states["b"].flags.c_contiguous
    assert again == rows


# -- update rules --------------------------------------------------


def test_replace_takes_the_new_value() -> None:
    """Row by row."""
    layout = layout_of(spec_of())

    rows = layout.split(
        {"s": np.array([[1, 2], [3, 4]], np.float32)}, [row(0, 0), row(0, 0)], [False, True]
    )

    assert [floats(r.data[0]) for r in rows] == [[1, 2], [3, 4]]
    assert rows[0].shapes is rows[1].shapes


@pytest.mark.parametrize(("value", "expected"), [(np.zeros((0, 2)), [7, 8]), (None, [1, 2])])
def test_keep_if_empty_keeps_or_takes(value, expected) -> None:
    """An output without elements means: as before."""
    layout = layout_of(spec_of(UpdateRule.KEEP_IF_EMPTY))
    new = np.array([[1, 2]], np.float32) if value is None else value.astype(np.float32)

    (after,) = layout.split({"s": new}, [row(7, 8)], [False])

    assert floats(after.data[0]) == expected
    assert after.shapes == ((1, 2),)


def test_write_once_is_written_at_the_first_step_of_each_row() -> None:
    """A batch may mix first steps with others."""
    layout = layout_of(spec_of(UpdateRule.WRITE_ONCE))
    value = {"s": np.array([[1, 1], [2, 2]], np.float32)}

    mixed = layout.split(value, [row(9, 9), row(0, 0)], [False, True])
    later = layout.split({}, [row(9, 9), row(8, 8)], [False, False])

    assert [floats(r.data[0]) for r in mixed] == [[9, 9], [2, 2]]
    assert [floats(r.data[0]) for r in later] == [[9, 9], [8, 8]]


def test_write_once_of_any_shape_keeps_each_rows_shape() -> None:
    """The shape belongs to the value."""
    layout = layout_of(spec_of(UpdateRule.WRITE_ONCE, shape=(1, -1)))

    first, kept = layout.split(
        {"s": np.ones((2, 3), np.float32)}, [row(), row(9, 9)], [True, False]
    )

    assert (first.shapes, kept.shapes) == (((1, 3),), ((1, 2),))


def test_a_window_is_put_before_its_input_and_moves_on() -> None:
    """The last samples of the input are kept; nothing is asked of the model."""
    spec = StateSpec("w", "x", None, "float32", (1, 3), rule=UpdateRule.WINDOW, axis=1, size=3)
    layout = layout_of(spec, inputs=[TensorSpec("x", "float32", (1, 2))])
    old = [layout.initial({}), layout.initial({})]
    fed = []
    for value in (1, 2):
        inputs = {"x": np.array([[value, value], [-value, -value]], np.float32)}
        states, windows = layout.gather(old)
        following = layout.windowed(inputs, windows)
        old = layout.split(following, old, [False, False])
        fed.append(inputs["x"][0].tolist())

    assert states == {}
    assert fed == [[0, 0, 0, 1, 1], [0, 1, 1, 2, 2]]
    assert floats(old[1].data[0]) == [-1, -2, -2]


def test_a_window_that_begins_empty_fills_up() -> None:
    """Until it is full, all that came is kept."""
    spec = StateSpec("w", "x", None, "float32", (1, -1), rule=UpdateRule.WINDOW, axis=1, size=5)
    layout = layout_of(spec, inputs=[TensorSpec("x", "float32", (1, 2))])
    old = [layout.initial({})]
    for value in (1, 2, 3):
        inputs = {"x": np.full((1, 2), value, np.float32)}
        old = layout.split(layout.windowed(inputs, layout.gather(old)[1]), old, [False])

    assert floats(old[0].data[0]) == [1, 2, 2, 3, 3]


def test_a_model_without_state_has_rows_too() -> None:
    """As many as there were."""
    layout = layout_of()

    assert layout.split({}, [StateRow((), ())] * 3, [False] * 3) == [StateRow((), ())] * 3


# -- what a model may get wrong --------------------------------------------------


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no next value of state 's'"),
        (np.zeros((2, 2), np.float64), "float64"),
        (np.zeros(2, np.float32), "rank 2"),
        (np.zeros((3, 2), np.float32), "2 on axis 0"),
        (np.zeros((1, 2), np.float32), "2 on axis 0"),
        (np.zeros((2, 3), np.float32), "2 on axis 1"),
    ],
    ids=["missing", "dtype", "rank", "too many rows", "too few rows", "shape"],
)
def test_a_wrong_next_state_is_refused_by_name(value, said) -> None:
    """Before anything is changed."""
    layout = layout_of(spec_of())

    with pytest.raises(SignatureError, match=said):
        layout.split({} if value is None else {"s": value}, [row(0, 0)] * 2, [False] * 2)


@pytest.mark.parametrize(
    "stored",
    [
        StateRow((), ()),
        row(1),
        row(1, 2, shape=(2,)),
        row(1, 2, 3, shape=(1, 2)),
        row(1, 2, shape=(2, 1)),
    ],
)
def test_a_stored_row_of_another_shape_does_not_fit(stored) -> None:
    """Number of states, rank, sizes and bytes are compared."""
    layout = layout_of(spec_of())

    assert layout.fits(row(1, 2))
    assert not layout.fits(stored)


# -- outputs --------------------------------------------------


def outputs_of(*specs: TensorSpec) -> OutputLayout:
    return OutputLayout(Signature((), specs))


def test_outputs_are_split_on_their_own_axes() -> None:
    """Headers are shared by all rows, and by all batches of the same shapes."""
    layout = outputs_of(
        TensorSpec("a", "float32", (1, 2)), TensorSpec("b", "int64", (2, 1), batch_axis=1)
    )
    given_ = {
        "b": np.array([[1, 2], [3, 4]]),
        "a": np.array([[1, 2], [3, 4]], np.float32),
        "extra": np.zeros(1),
    }

    headers, rows = layout.split(given_, 2)
    again, _ = layout.split(given_, 2)

    assert [(h.name, h.shape) for h in headers] == [("a", (1, 2)), ("b", (2, 1))]
    assert again is headers
    assert [floats(r[0]) for r in rows] == [[1, 2], [3, 4]]
    assert [np.frombuffer(r[1], np.int64).tolist() for r in rows] == [[1, 3], [2, 4]]


def test_an_output_without_batch_axis_belongs_to_a_single_row() -> None:
    """It cannot be split among several."""
    layout = outputs_of(TensorSpec("a", "float32", (), batch_axis=None))
    value = {"a": np.array(2, np.float32)}

    headers, rows = layout.split(value, 1)

    assert (headers[0].shape, floats(rows[0][0])) == ((), [2])
    with pytest.raises(SignatureError, match="no batch axis"):
        layout.split(value, 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "no output 'a'"),
        (np.zeros((2, 2), np.int32), "int32"),
        (np.zeros((3, 2), np.float32), "2 rows"),
        (np.array(1, np.float32), "2 rows"),
    ],
)
def test_a_wrong_output_is_refused_by_name(value, said) -> None:
    """Missing, of another dtype, or with another number of rows."""
    layout = outputs_of(TensorSpec("a", "float32", (1, 2)))

    with pytest.raises(SignatureError, match=said):
        layout.split({} if value is None else {"a": value}, 2)


def test_string_outputs_are_encoded() -> None:
    """With a length before each element."""
    layout = outputs_of(TensorSpec("a", "object", (1,)))

    _, rows = layout.split({"a": np.array([b"x", "yz"], object)}, 2)

    assert rows == [(b"\x01\0\0\0x",), (b"\x02\0\0\0yz",)]


def test_a_model_without_outputs_answers_each_row() -> None:
    """With nothing."""
    assert outputs_of().split({}, 3) == ((), [(), (), ()])


def test_the_outputs_asked_for_are_picked_in_order() -> None:
    """Headers and positions."""
    layout = outputs_of(TensorSpec("a", "float32", (1,)), TensorSpec("b", "float32", (1,)))
    headers, _ = layout.split({n: np.zeros(1, np.float32) for n in "ab"}, 1)

    picked, at = layout.subset(headers, ("b", "a"))

    assert ([h.name for h in picked], at) == (["b", "a"], (1, 0))


def test_headers_of_many_shapes_do_not_pile_up() -> None:
    """A model whose output length varies without end keeps a bounded number of headers."""
    layout = outputs_of(TensorSpec("a", "uint8", (1, -1)))

    for length in range(3000):
        headers, _ = layout.split({"a": np.zeros((1, length), np.uint8)}, 1)
        layout.subset(headers, ("a",))

    assert len(layout._headers) <= 1025
    assert len(layout._subsets) <= 1025


def test_rows_lie_where_the_spec_says() -> None:
    """A spec is data: replacing its axis changes where rows lie."""
    spec = dataclasses.replace(spec_of(shape=(2, 1)), batch_axis=1)
    layout = layout_of(spec)

    states, _ = layout.gather([row(1, 2, shape=(2, 1)), row(3, 4, shape=(2, 1))])

    assert states["s"].tolist() == [[1, 3], [2, 4]]
