"""From a folder to a model: what it is told, and what is said of one that cannot be loaded."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig
from legato.runtimes.torchserve.values import UnsupportedValueError, decode, encode
from legato.runtimes.triton_python import loading


def config(**values) -> ModelConfig:
    plain = {"name": "m", "runtime": "triton_python", "instance": "process"}
    return ModelConfig(**plain, **values)


def test_configuration_has_numbers_and_nothing_left_out() -> None:
    """JSON of protobuf has neither: 64-bit numbers are text, and defaults are missing."""
    origin = {
        "name": "m",
        "max_batch_size": 4,
        "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": ["16", "-1"]}],
        "sequence_batching": {"max_sequence_idle_microseconds": "5000000"},
        "parameters": {"dims": {"string_value": "7"}},
    }

    given = loading.as_given(config(origin=origin))

    assert given["input"][0]["dims"] == [16, -1]
    assert given["input"][0]["optional"] is False
    assert given["sequence_batching"]["max_sequence_idle_microseconds"] == 5_000_000
    assert given["parameters"]["dims"]["string_value"] == "7"
    assert (given["backend"], given["output"]) == ("python", [])


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ([], ("CPU", "0")),
        ([{"kind": "KIND_CPU"}], ("CPU", "0")),
        ([{"kind": "KIND_GPU"}], ("GPU", "0")),
        ([{"kind": "KIND_GPU", "gpus": [2, 3]}], ("GPU", "2")),
    ],
)
def test_model_is_told_where_to_compute(group: list, told: tuple) -> None:
    """By what its first instance group says."""
    assert tuple(loading.place({"instance_group": group}).values()) == told


def test_missing_file_is_named(tmp_path) -> None:
    """A start-up error says what to put where."""
    with pytest.raises(ConfigError, match="there is no file"):
        loading.load_module(config(folder=tmp_path, file=tmp_path / "1" / "model.py"))


@pytest.mark.parametrize("kind", [None, type("TritonPythonModel", (), {})])
def test_module_without_a_model_is_told_so(kind) -> None:
    """The class must be there, and have ``execute``."""
    module = ModuleType("model")
    if kind is not None:
        module.TritonPythonModel = kind

    with pytest.raises(ConfigError, match="no class 'TritonPythonModel'"):
        loading.class_of(module, config())


class Failing:
    """Fails wherever it is asked."""

    @staticmethod
    def auto_complete_config(_given):
        raise ValueError("boom")

    def initialize(self, _arguments):
        raise ValueError("boom")


def test_failures_of_the_model_s_own_code_are_start_up_errors(capsys) -> None:
    """With its own text; the traceback is in the log."""
    with pytest.raises(ConfigError, match="auto_complete_config failed: ValueError: boom"):
        loading.completed(Failing, config())
    with pytest.raises(ConfigError, match="initialize failed: ValueError: boom"):
        loading.initialised(Failing, config(), {})
    assert "Traceback" in capsys.readouterr().err


def test_plain_classes_of_the_model_are_stored_and_others_are_not(tmp_path, monkeypatch) -> None:
    """What has more than attributes, or decides itself how it is copied, stays in memory."""
    file = tmp_path / "1" / "model.py"
    file.parent.mkdir()
    source = """
class Plain:
    pass
class Child(Plain):
    pass
class Counter(dict):
    pass
class Copied:
    def __reduce__(self):
        return (Plain, ())
"""
    file.write_text(source)
    module = ModuleType("loaded_model")
    module.__file__ = str(file)
    exec(source, vars(module))  # noqa: S102 - a module without a worker to import it in
    monkeypatch.setitem(sys.modules, "loaded_model", module)

    own = loading.own_classes(config(folder=file.parent, file=file))
    child = module.Child()
    child.total = 3

    assert {kind.__name__ for kind in own} == {"Plain", "Child", "Counter", "Copied"}
    assert decode(encode(child)).total == 3
    for other in (module.Counter(), module.Copied()):
        with pytest.raises(UnsupportedValueError):
            encode(other)
