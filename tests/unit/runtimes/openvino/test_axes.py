"""The search for batch axes, on shapes alone."""

import numpy as np
import openvino as ov
import pytest
from tests.models import openvino_models as models

from legato.repository.config import ModelConfig
from legato.runtimes.openvino.axes import possible_axes, with_batch
from legato.runtimes.openvino.loading import Loader


def found(made, folder, **config):
    path = models.save(made, folder)
    loader = Loader(ModelConfig(name="m", runtime="openvino", file=path, folder=folder, **config))
    return loader.opened, list(possible_axes(loader.opened, loader.plan))


@pytest.mark.parametrize(
    ("build", "first"),
    [
        (models.accumulator, {"x": 0, "sum": 0, "y": 0, "sum:next": 0}),
        (
            lambda: models.lstm_sequence(hidden=4),
            {"x": 0, "c": 1, "h": 1, "y": 0, "c:next": 1, "h:next": 1},
        ),
        (models.starts_from_data, {"x": 0, "seed": 0, "sum": 0, "sum:start": 0, "y": 0}),
        (models.growing, {"x": 0, "cache": 0, "y": 0}),
    ],
    ids=["accumulator", "second_axis", "from_data", "growing"],
)
def test_the_first_choice_is_right(tmp_path, build, first):
    """Graphs leave one choice, or the first of equals."""
    _, choices = found(build(), tmp_path)

    assert first.items() <= choices[0].items()


def test_a_baked_batch_leaves_no_choice(tmp_path):
    """A reshape to one row refuses every other size."""
    assert found(models.baked_batch(), tmp_path)[1] == []


def test_time_is_not_taken_for_the_batch(tmp_path):
    """Where shapes leave both, the gate finds that rows laid along time run into one another."""
    x = models.parameter("x", [-1, 1, 4])  # time first, then batch
    state = models.Remembered("sum", [1, 4], first=models.zeros(1, 4))
    summed = models.ops.reduce_sum(x, models.ops.constant([0]), keep_dims=False)
    total = models.ops.add(summed, state.value)
    made = models.model([models.result("y", total)], [state.becomes(total)], [x])

    _, choices = found(made, tmp_path)
    config = ModelConfig(name="m", runtime="openvino", file=tmp_path / "model.xml")
    signature = Loader(config).load().signature

    assert [(c["x"], c["sum"]) for c in choices] == [(0, 0), (1, 0)]
    assert signature.inputs[0].batch_axis == 1
    assert signature.batching


def test_an_axis_in_the_config_is_the_only_one_tried(tmp_path):
    """What a person says is not searched."""
    x = models.parameter("x", [1, 1])
    state = models.Remembered("sum", [1, 1], first=models.zeros(1, 1))
    total = models.ops.add(x, state.value)
    made = models.model([models.result("y", total)], [state.becomes(total)], [x])

    _, choices = found(
        made, tmp_path, inputs={"x": {"batch_axis": 1}}, states=[{"input": "sum", "batch_axis": 1}]
    )

    assert [(c["x"], c["sum"], c["y"]) for c in choices] == [(1, 1, 1)]


def test_the_batch_is_open_afterwards(tmp_path):
    """One compiled model takes any number of rows."""
    opened, (axes, *_) = found(models.accumulator(), tmp_path)

    request = ov.Core().compile_model(with_batch(opened, axes), "CPU").create_infer_request()

    for rows in (1, 5, 2):
        total = request.infer([np.ones((rows, 4), np.float32)] * 2)[0]
        np.testing.assert_array_equal(total, np.full((rows, 4), 2))
