"""TorchServe's metrics file."""

from __future__ import annotations

import pytest

from legato.core.errors import ConfigError
from legato.repository.ts_metrics import Declared, declared_in

TEXT = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level]}
model_metrics:
  gauge:
    - {name: HandlerTime, unit: ms, dimensions: [*model_name, *level]}
  counter:
    - name: Rows
      unit: count
      dimensions: []
  histogram:
"""


def test_what_models_measure_is_read(tmp_path) -> None:
    """The server's own are not the handlers'."""
    file = tmp_path / "metrics.yaml"
    file.write_text(TEXT)

    assert declared_in(file) == [
        Declared("gauge", "HandlerTime", "ms", ["ModelName", "Level"]),
        Declared("counter", "Rows", "count", []),
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (None, "metrics_config"),
        ("[1]", "metrics_config"),
        ("a: [", "metrics_config"),
        ("model_metrics: {meter: []}", "model_metrics"),
        ("model_metrics: {gauge: [{name: n}]}", "model_metrics.gauge"),
        ("model_metrics: {gauge: [n]}", "model_metrics.gauge"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, key: str) -> None:
    """With the key that is wrong in it."""
    file = tmp_path / "metrics.yaml"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        declared_in(file)

    assert (caught.value.file, caught.value.key) == (str(file), key)
