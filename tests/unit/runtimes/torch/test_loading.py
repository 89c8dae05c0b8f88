"""What holds for every kind of PyTorch model: inspect's config, instances, threads."""

import threading

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.models import torch_models as models  # noqa: E402

from legato.cli.inspect import as_config  # noqa: E402
from legato.core.errors import ConfigError, ModelError  # noqa: E402

X = np.float32([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]])


def exported(folder):
    return models.export(models.seeded(models.Recurrent), folder, torch.zeros(1, 8)), {}


def scripted(folder):
    states = [{"input": "state", "output": "next_state", "shape": [1, 16]}]
    more = {"inputs": {"x": {"shape": [1, 8]}}, "states": states}
    return models.script(models.seeded(models.Explicit), folder), more


def hidden(folder):
    return models.script(models.Attribute(), folder), {"inputs": {"x": {"shape": [1, 2]}}}


def own(_folder):
    return "Recurrent", {"inputs": {"x": {"shape": [1, 8]}}}


@pytest.mark.parametrize("kind", [exported, scripted, hidden, own])
def test_what_inspect_prints_loads_again(load, config, tmp_path, kind):
    """The config with everything found in it gives the same signature."""
    source, more = kind(tmp_path)
    runtime = load(source, **more)
    written = yaml.safe_load(as_config(config(source, **more), runtime))
    for key in ("name", "file", "runtime", "entry"):
        written.pop(key, None)

    again = load(source, **written).signature

    first = runtime.signature
    assert [(s.name, s.dtype, s.shape) for s in again.states] == [
        (s.name, s.dtype, s.shape) for s in first.states
    ]
    assert again.inputs == first.inputs
    assert again.outputs == first.outputs
    assert again.batching == first.batching


def test_a_clone_answers_alike_and_shares_the_weights(load, sequences, tmp_path):
    """Further instances of a program need no second examination."""
    path, _ = exported(tmp_path)
    first = load(path)
    second = first.clone()

    answers = [sequences(each).step({1: {"x": X}})[1]["y"] for each in (first, second)]

    np.testing.assert_array_equal(*answers)
    assert second.signature is first.signature


@pytest.mark.parametrize("kind", [hidden, own])
def test_modules_with_insides_are_loaded_for_each_instance(load, tmp_path, kind):
    """Two threads must not set attributes of one module."""
    source, more = kind(tmp_path)

    assert not hasattr(load(source, **more), "clone")


def test_threads_are_those_of_the_calling_thread(load, sequences, tmp_path):
    """The config's number holds in the thread that runs the model, and nowhere else."""
    path, _ = exported(tmp_path)
    runtime = sequences(load(path, threads=3))
    before, seen = torch.get_num_threads(), []

    def run():
        runtime.step({1: {"x": X}})
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert seen == [3]
    assert torch.get_num_threads() == before


def test_a_closed_model_does_not_run(load, sequences, tmp_path):
    """Closing lets go of the weights; a late call fails as a step does."""
    path, _ = exported(tmp_path)
    runtime = load(path)

    runtime.close()

    with pytest.raises(ModelError, match="the model is closed"):
        sequences(runtime).step({1: {"x": X}})


def test_an_exported_program_has_no_parts(load, tmp_path):
    """``submodule`` is refused where it would be passed over."""
    path, _ = exported(tmp_path)

    with pytest.raises(ConfigError, match="an exported program has no parts"):
        load(path, options={"submodule": "cell"})


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_other_files_are_no_pytorch_models(load, tmp_path, content):
    """The error says how such files are written."""
    path = tmp_path / "model.pt"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"is no PyTorch file[\s\S]*torch\.export\.save"):
        load(path)
