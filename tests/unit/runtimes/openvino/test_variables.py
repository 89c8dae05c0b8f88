"""Variables taken out of graphs: what they are, how they begin, and the graph afterwards."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from tests.models import openvino_models as models

from legato.runtimes.openvino.variables import expose, find_variables


@pytest.fixture(scope="module")
def core():
    return ov.Core()


def test_variables_are_listed_by_name_whatever_the_order_of_the_graph(core):
    """Stored records depend on the order of states."""
    found = find_variables(models.crossed(), core)

    assert [variable.name for variable in found] == ["a_slow", "b_fast"]


def test_a_model_without_variables_has_none(core):
    """State in the open is not a variable."""
    assert find_variables(models.explicit(), core) == ()


@pytest.mark.parametrize(
    ("build", "bare", "from_data", "initial"),
    [
        (models.accumulator, False, False, None),
        (lambda: models.starts_at(2.5), False, False, [[2.5, 2.5]]),
        (models.starts_from_data, False, True, None),
        (models.shaped_first, False, False, None),
        (models.open_without_first, True, False, None),
    ],
    ids=["zeros", "constant", "from_data", "shape_of_data", "nothing"],
)
def test_how_a_variable_begins_is_found(core, build, bare, from_data, initial):
    """A shape of the data is no data; a constant is found behind other nodes."""
    (variable,) = find_variables(build(), core)

    assert variable.bare is bare
    assert variable.from_data is from_data
    np.testing.assert_array_equal(variable.initial, initial)


def test_finding_leaves_the_model_alone(core):
    """The original is still needed: it is what the gate compares with."""
    made = models.starts_at(1.0)

    find_variables(made, core)

    assert len(made.get_sinks()) == 1
    assert [len(made.inputs), len(made.outputs)] == [1, 1]


def test_exposed_variables_are_inputs_and_outputs(core):
    """One step of the exposed graph is one step of the original."""
    made = models.crossed()
    variables = find_variables(made, core)

    starts = expose(made, variables)
    request = core.compile_model(made, "CPU").create_infer_request()
    x, slow, fast = (np.full((1, 2), value, np.float32) for value in (1, 20, 300))
    found = list(request.infer([x, slow, fast]).values())

    assert starts == ()
    assert made.get_variables() == []
    np.testing.assert_allclose(
        np.concatenate(found), [[310, 310], [21, 21], [21, 21], [310, 310]], rtol=1e-6
    )


def test_a_first_value_from_data_gets_an_input_that_says_when(core):
    """Rows that begin take the computed value, whatever their state says; others keep theirs."""
    made = models.starts_from_data()
    variables = find_variables(made, core)

    starts = expose(made, variables)
    made.reshape({at: ov.PartialShape([2, width]) for at, width in enumerate((3, 3, 3, 1))})
    request = core.compile_model(made, "CPU").create_infer_request()
    x, seed, state = (np.full((2, 3), value, np.float32) for value in (1, 10, 500))
    found = request.infer([x, seed, state, np.array([[True], [False]])])

    assert starts == ("sum",)
    np.testing.assert_array_equal(found[0], [[21] * 3, [501] * 3])


def test_a_constant_first_value_is_computed_whatever_sizes_the_rest_of_the_model_takes(core):
    """Here a row of one value would not do: it is cut into fours."""
    x = models.parameter("x", [-1, -1])
    state = models.Remembered("sum", [1, 1], first=models.zeros(1, 1))
    fours = ops.reshape(x, ops.constant([-1, 4]), special_zero=False)
    total = ops.add(ops.reduce_sum(fours, ops.constant([1]), keep_dims=True), state.value)
    made = models.model([models.result("y", total)], [state.becomes(total)], [x])

    (variable,) = find_variables(made, core)

    assert (variable.name, variable.initial, variable.from_data) == ("sum", None, False)
