"""Timing a bare model."""

import pytest
from tests.models import tiny

from legato.cli.measure import costs
from legato.repository.config import ModelConfig
from legato.runtimes.onnx import load


@pytest.mark.parametrize(
    ("model", "more", "batches"),
    [
        (tiny.accumulator(), {}, [1, 8, 32]),
        (tiny.accumulator(), {"max_batch_size": 8}, [1, 8]),
        (tiny.mixing(), {}, [1]),
    ],
)
def test_batches_are_timed_that_would_be_run(tmp_path, monkeypatch, model, more, batches):
    """No figure is shown for a batch that the server would not make."""
    monkeypatch.setattr("legato.cli.measure._MOST_CALLS", 3)
    config = ModelConfig(name="m", file=tiny.save(model, tmp_path), folder=tmp_path, **more)

    measured = costs(load(config), config)

    assert [cost.batch for cost in measured] == batches
    assert all(0 < cost.step_us <= cost.call_us for cost in measured)
