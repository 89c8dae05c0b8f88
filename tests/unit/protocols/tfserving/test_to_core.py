"""Inputs are checked in Model Server's order, with its texts."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import ClientError
from legato.core.types import TFSERVING, Signature, StateSpec, Step, TensorSpec
from legato.protocols.tfserving import to_core
from legato.protocols.tfserving.errors import RefusalError

TWO = Signature(
    inputs=(TensorSpec("b", "int64", (1, 2)), TensorSpec("a", "float32", (1, -1))),
    outputs=(),
    states=(StateSpec("s", "s", "n", "float32", (1, 1)),),
)


def fill(request, signature):
    step = Step("m", None, {}, TFSERVING)
    rows = to_core.fill(request, step, signature)
    return step, rows


def refused(request, signature):
    with pytest.raises(RefusalError) as caught:
        fill(request, signature)
    return caught.value.message


def test_data_becomes_arrays_and_special_tensors_do_not(kit) -> None:
    """The model never sees the id."""
    step, rows = fill(kit.start(7), kit.SUMMATOR)

    assert (step.correlation_id, step.start, rows) == (7, True, 1)
    assert step.inputs["x"].tolist() == [[1.0] * 10]
    assert list(step.inputs) == ["x"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"z": np.float32([1])},
            "Invalid number of inputs - Expected: 2; Actual: 3",
        ),
        ({"x": np.ones((1, 10), np.int32)}, ("Invalid input precision - Expected: FP32; "
         "Actual: I32; input name: x")),
        ({"x": np.ones(10, np.float32)}, ("Invalid number of shape dimensions - "
         "Expected: (1,10); Actual: (10); input name: x")),
        ({"x": np.ones((2, 10), np.float32)}, ("Invalid input batch size - Expected: 1; "
         "Actual: 2; input name: x")),
        ({"x": np.ones((1, 11), np.float32)}, ("Invalid input shape - Expected: (1,10); "
         "Actual: (1,11); input name: x")),
        # Each test comes before those below it.
        ({"x": np.ones((2, 11), np.int32)}, ("Invalid input precision - Expected: FP32; "
         "Actual: I32; input name: x")),
        ({"x": np.ones((2, 11), np.float32)}, ("Invalid input batch size - Expected: 1; "
         "Actual: 2; input name: x")),
    ],
)  # fmt: skip
def test_each_mistake_has_its_text(kit, changes, text) -> None:
    """The first one found is told."""
    given = {name: kit.tensor(array) for name, array in changes.items()}

    assert refused(kit.start(0, **given), kit.SUMMATOR) == text


def test_a_negative_dimension_is_told_first(kit) -> None:
    """Before the dtype is looked at."""
    wrong = kit.tensor(np.ones((1, 10), np.int32))
    wrong.tensor_shape.dim[1].size = -10

    text = refused(kit.start(x=wrong), kit.SUMMATOR)

    assert text == (
        "Invalid input shape - Negative or zero dimension size is not acceptable: (1,-10); "
        "input name: x"
    )


def test_a_wrong_name_shows_as_a_missing_one(kit) -> None:
    """The count is right, so that is not the complaint."""
    request = kit.request(
        "m", sequence_control_input=kit.values("uint32_val", 1), w=kit.tensor(np.float32([1]))
    )

    assert refused(request, kit.SUMMATOR) == (
        "Missing input with specific name - Required input: x"
    )


def test_bytes_that_do_not_fill_the_shape_are_told_last(kit) -> None:
    """All else was right."""
    short = kit.tensor(np.ones((1, 10), np.float32), tensor_content=bytes(8))

    text = refused(kit.start(x=short), kit.SUMMATOR)

    assert text.startswith(
        "Invalid content size of tensor proto - Expected: 40 bytes; Actual: 8 bytes"
    )


def test_special_tensors_are_looked_at_before_the_data(kit) -> None:
    """Also when both are wrong."""
    request = kit.start(x=kit.tensor(np.ones(3)), sequence_id=kit.values("uint32_val", 7))

    assert "uint64_val" in refused(request, kit.SUMMATOR)


def test_inputs_are_looked_at_in_the_order_of_their_names(kit) -> None:
    """Not in the order of the model."""
    request = kit.request(
        "m",
        sequence_control_input=kit.values("uint32_val", 1),
        a=kit.tensor(np.float64([[1]])),
        b=kit.tensor(np.float64([[1]])),
    )

    assert refused(request, TWO).endswith("input name: a")


def test_an_open_dimension_takes_any_size(kit) -> None:
    """It is written as -1 in texts."""
    right = {"b": kit.tensor(np.ones((1, 2), np.int64)), "a": kit.tensor(np.float32([[1, 2, 3]]))}
    control = kit.values("uint32_val", 1)

    step, _rows = fill(kit.request("m", sequence_control_input=control, **right), TWO)
    right["a"] = kit.tensor(np.float32([1]))
    text = refused(kit.request("m", sequence_control_input=control, **right), TWO)

    assert step.inputs["a"].shape == (1, 3)
    assert "Expected: (1,-1); Actual: (1)" in text


def test_a_model_without_state_has_no_special_tensors(kit) -> None:
    """There they are inputs too many."""
    request = kit.request(
        "dummy", b=kit.tensor(np.ones((1, 10), np.float32)), sequence_id=kit.values("uint64_val", 7)
    )

    assert refused(request, kit.DUMMY) == "Invalid number of inputs - Expected: 1; Actual: 2"


def test_a_model_without_state_takes_several_rows(kit) -> None:
    """They are cut apart for the engine."""
    x = np.arange(30, dtype=np.float32).reshape(3, 10)

    step, rows = fill(kit.request("dummy", b=kit.tensor(x)), kit.DUMMY)
    parts = to_core.split_rows(step.inputs, kit.DUMMY, rows)

    assert rows == 3
    assert [part["b"].tolist() for part in parts] == [[row] for row in x.tolist()]


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "1" * 19, "²"])
def test_the_step_header_is_a_number(text) -> None:
    """Anything else is an error of the client."""
    with pytest.raises(ClientError):
        to_core.apply_step_header(text, Step("m", 7, {}, TFSERVING))


def test_the_step_header_numbers_the_step() -> None:
    """Without it the step is the next one."""
    numbered, bare = Step("m", 7, {}, TFSERVING), Step("m", 7, {}, TFSERVING)

    to_core.apply_step_header("12", numbered)
    to_core.apply_step_header(None, bare)

    assert (numbered.number, bare.number) == (12, 0)
