"""What can be told of PyTorch models without PyTorch: options, names, files, digests."""

import sys

import pytest

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig
from legato.repository.digest import content_digest
from legato.repository.loader import load_paths
from legato.runtimes.registry import build
from legato.runtimes.torch.naming import groups, input_names, output_names
from legato.runtimes.torch.options import read_options


def config(tmp_path, **more):
    return ModelConfig(name="m", runtime="torch", folder=tmp_path, **more)


def test_without_pytorch_the_error_says_what_to_install(tmp_path, monkeypatch):
    """The extra is named; nobody needs to guess."""
    monkeypatch.setitem(sys.modules, "torch", None)

    with pytest.raises(ConfigError, match=r"needs PyTorch[\s\S]*pip install 'legato\[torch\]'"):
        build(config(tmp_path, file=tmp_path / "model.pt"))


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_bare_files_are_pytorch_models(tmp_path, suffix):
    """``legato serve model.pt2`` needs no config."""
    (tmp_path / f"vad{suffix}").write_bytes(b"x")

    (found,) = load_paths([tmp_path / f"vad{suffix}"])

    assert (found.name, found.runtime) == ("vad", "torch")


def test_a_class_may_have_weights_beside_it(tmp_path):
    """``entry`` with ``runtime: torch`` is a module; ``file`` are its weights."""
    (tmp_path / "model.py").write_text("class Net: ...\n")
    (tmp_path / "w.pt").write_bytes(b"x")
    (tmp_path / "model.yaml").write_text("runtime: torch\nentry: model.py:Net\nfile: w.pt\n")

    (found,) = load_paths([tmp_path])

    assert (found.runtime, found.file) == ("torch", tmp_path / "w.pt")


def test_what_changes_the_computation_changes_the_digest(tmp_path):
    """Another part, other arguments, another class: another model. Another device: the same."""
    (tmp_path / "m.pt").write_bytes(b"x")
    (tmp_path / "m.py").write_text("")
    made = [
        config(tmp_path, file=tmp_path / "m.pt"),
        config(tmp_path, file=tmp_path / "m.pt", options={"submodule": "inner"}),
        config(tmp_path, entry="m.py:A"),
        config(tmp_path, entry="m.py:B"),
        config(tmp_path, entry="m.py:A", options={"arguments": {"size": 3}}),
    ]
    moved = made[0].model_copy(update={"options": {"device": "cuda"}})

    assert len({content_digest(each) for each in made}) == len(made)
    assert content_digest(moved) == content_digest(made[0])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"submodul": "x"}, "did you mean 'submodule'"),
        ({"device": 1}, "must be text, not 1"),
        ({"resident": "yes"}, "must be true or false"),
        ({"arguments": [1]}, "must be keyword arguments"),
        ({"arguments": {"size": 1}}, "are for a class"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, told):
    """Each names the key and what it may be."""
    with pytest.raises(ConfigError, match=told):
        read_options(config(tmp_path, file=tmp_path / "m.pt", options=options))


def test_states_stay_on_devices_other_than_the_host(tmp_path):
    """``resident`` is on where it saves something, and can be said."""
    asked = [{"device": "cpu"}, {"device": "cuda:1"}, {"device": "cuda", "resident": False}]

    assert [read_options(config(tmp_path, options=each)).resident for each in asked] == [
        False,
        True,
        False,
    ]


def test_counted_names_replace_those_of_their_places(tmp_path):
    """``X__1`` is the second argument, whatever it is called in the file."""
    states = [{"input": "STATE__1", "output": "OUT__1"}]
    made = config(tmp_path, inputs={"IN__0": {}}, outputs={"OUT__0": {}}, states=states)

    names = input_names(made, ["x", "h"])

    assert names == ["IN__0", "STATE__1"]
    assert output_names(made, ["output_0", "output_1"], names) == ["OUT__0", "OUT__1"]


def test_listed_names_are_those_of_nameless_results(tmp_path):
    """In order: outputs, then what feeds states."""
    made = config(tmp_path, outputs={"y": {}}, states=[{"input": "h", "output": "after"}])

    assert output_names(made, ["output_0", "output_1"], ["x", "h"]) == ["y", "after"]


def test_variables_name_results_where_the_file_knows_them(tmp_path):
    """A result without a variable keeps its number."""
    named = output_names(config(tmp_path), ["output_0", "output_1"], ["x"], ["", "next_h"])

    assert named == ["output_0", "next_h"]


def test_parts_of_tuples_belong_together():
    """A stem with parts from 0 on is a tuple; a lone number is a name."""
    assert groups(["x", "hx_0", "hx_1", "conv_1", "k_0"]) == {"hx": ["hx_0", "hx_1"]}
