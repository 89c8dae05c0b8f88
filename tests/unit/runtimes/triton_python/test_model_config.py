"""``pb_utils.ModelConfig``: what a model may complete, and what it may not change."""

from __future__ import annotations

import json

import pytest

from legato.runtimes.triton_python import lookups
from legato.runtimes.triton_python.model_config import ModelConfig

X = {"name": "X", "data_type": "TYPE_FP32", "dims": [4]}


def test_tensors_are_added_once() -> None:
    """The same input added again is the same input."""
    config = ModelConfig(json.dumps({"name": "m"}))

    config.add_input(X)
    config.add_input(X)
    config.add_output({**X, "name": "Y"})

    made = config.as_dict()
    assert [each["name"] for each in made["input"]] == ["X"]
    assert lookups.get_input_config_by_name(made, "X") == X
    assert lookups.get_output_config_by_name(made, "Y")["dims"] == [4]
    assert lookups.get_output_config_by_name(made, "X") is None


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        ({**X, "dims": [5]}, "expects dims"),
        ({**X, "data_type": "TYPE_INT32"}, "expects data_type"),
        ({**X, "colour": "red"}, "unknown property: colour"),
        ({"name": "X"}, "no property: data_type, dims"),
    ],
)
def test_tensor_that_contradicts_is_refused(tensor: dict, text: str) -> None:
    """What was said stays, and the contradiction is named."""
    config = ModelConfig({"name": "m", "input": [dict(X)]})

    with pytest.raises(ValueError, match=text):
        config.add_input(tensor)


def test_what_is_missing_of_a_tensor_is_filled_in() -> None:
    """A config may give names only."""
    config = ModelConfig({"input": [{"name": "X"}]})

    config.add_input(X)

    assert config.as_dict()["input"] == [X]


def test_batching_is_set_where_nothing_was_said() -> None:
    """A larger size than was said is an error, and sequences keep their scheduler."""
    free, said = ModelConfig({}), ModelConfig({"max_batch_size": 2, "sequence_batching": {}})

    free.set_max_batch_size(8)
    free.set_dynamic_batching()
    said.set_dynamic_batching()

    assert free.as_dict() == {"max_batch_size": 8, "dynamic_batching": {}}
    assert "dynamic_batching" not in said.as_dict()
    with pytest.raises(ValueError, match="specified max_batch_size 2"):
        said.set_max_batch_size(8)


def test_transaction_policy_is_decoupled_or_not() -> None:
    """It may be set, but nothing else with it, and not back."""
    config = ModelConfig({})

    config.set_model_transaction_policy({"decoupled": True})

    assert lookups.using_decoupled_model_transaction_policy(config.as_dict())
    with pytest.raises(ValueError, match="other than 'decoupled'"):
        config.set_model_transaction_policy({"decoupled": True, "more": 1})
    with pytest.raises(ValueError, match="trying to change"):
        config.set_model_transaction_policy({"decoupled": False})
