"""Modules of the user's own: buffers that forward changes are state."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.models import torch_models as models  # noqa: E402

from legato.core.errors import ConfigError, ModelError  # noqa: E402

RNG = np.random.default_rng(6)
SHAPES = {"Recurrent": (1, 8), "Convolution": (1, 2, 5), "Normed": (1, 4)}


def of(shape):
    return {"x": {"shape": list(shape)}}


@pytest.mark.parametrize(
    ("name", "mode"), [("Recurrent", "native"), ("Convolution", "vmap"), ("Normed", "vmap")]
)
def test_batches_answer_as_private_copies(load, sequences, tmp_path, name, mode):
    """By plain calls where the module allows it, else by functional_call under vmap."""
    module, shape = models.seeded(getattr(models, name)), SHAPES[name]
    weights = tmp_path / "weights.pt"
    torch.save(module.state_dict(), weights)
    runtime = sequences(load(name, inputs=of(shape), file=weights))
    private = models.Private(module)

    assert runtime.runtime.form.mode == mode
    for _ in range(6):
        sent = {
            i: {"x": RNG.standard_normal(shape).astype(np.float32)}
            for i in RNG.permutation(6)[:4].tolist()
        }
        got = runtime.step(sent)
        for i, row in sent.items():
            want = private.step(i, row["x"])
            want = want if isinstance(want, dict) else {"output_0": want}
            for key, value in want.items():
                np.testing.assert_allclose(got[i][key], value, atol=1e-5)


def test_a_module_that_decides_by_its_state_runs_one_by_one(load):
    """Neither form passes the gate, and both reasons are told."""
    signature = load("Branching", inputs=of((1, 4))).signature

    assert not signature.batching
    assert "rows of a batch influence one another" in signature.why
    assert "data-dependent control flow" in signature.why


def test_plain_attributes_are_kept_apart(load, sequences):
    """A tensor and a counter that are no buffers are state all the same, one row a call."""
    runtime = sequences(load("Attribute", inputs=of((1, 2))))
    private = models.Private(models.Attribute())

    assert not runtime.runtime.signature.batching
    assert any("register_buffer" in note for note in runtime.runtime.findings.notes)
    for _ in range(3):
        for i in (1, 2):
            x = RNG.standard_normal((1, 2)).astype(np.float32)
            got = runtime.step({i: {"x": x}})[i]["output_0"]
            np.testing.assert_array_equal(got, private.step(i, x))


def test_a_memory_that_nobody_can_see_is_refused(load):
    """A deque in the module would mix all sequences, silently: it does not load."""
    with pytest.raises(ConfigError, match="remembers something that is neither"):
        load("Queue", inputs=of((1, 4)))


def test_a_buffer_that_changes_late_fails_the_step_and_is_put_back(load, sequences):
    """What the load did not see must not leak from one sequence into another."""
    runtime = sequences(load("Late", inputs=of((1, 2))))

    with pytest.raises(ModelError, match=r"'late' changed in this step.*\{input: late, out"):
        runtime.step({1: {"x": np.float32([[90, 20]])}})

    got = runtime.step({2: {"x": np.float32([[1, 1]])}})[2]["output_0"]
    np.testing.assert_array_equal(got, [[1, 1]])


def test_a_buffer_named_in_the_config_is_state(load, sequences):
    """The remedy that the error names."""
    runtime = sequences(load("Late", inputs=of((1, 2)),
                             states=[{"input": "late", "output": "late:next"}]))  # fmt: skip

    runtime.step({1: {"x": np.float32([[90, 20]])}})
    got = runtime.step({1: {"x": np.float32([[0, 0]])}})[1]["output_0"]

    np.testing.assert_array_equal(got, [[92, 22]])


def test_arguments_reach_the_class(load):
    """``options.arguments`` are its keyword arguments."""
    options = {"arguments": {"size": 3, "hidden": 5}}

    signature = load("Recurrent", inputs=of((1, 3)), options=options).signature

    assert signature.states[0].shape == (1, 1, 5)


def test_safetensors_are_weights_too(load, sequences, tmp_path):
    """Weights may be a safetensors file."""
    from safetensors.torch import save_file

    module = models.seeded(models.Recurrent)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    runtime = sequences(load("Recurrent", inputs=of((1, 8)), file=tmp_path / "w.safetensors"))
    x = RNG.standard_normal((1, 8)).astype(np.float32)

    got = runtime.step({1: {"x": x}})[1]["y"]

    np.testing.assert_allclose(got, models.Private(module).step(1, x)["y"], atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "more", "told"),
    [
        ("Nobody", {}, r"has no class 'Nobody'[\s\S]*'Recurrent'"),
        ("seeded", {}, "'seeded' is not a torch.nn.Module"),
        ("Recurrent", {"options": {"arguments": {"depth": 2}}}, "could not be built: TypeError"),
        ("Recurrent", {"inputs": {"x": {"shape": [1, 9]}}}, "does not run on made-up rows"),
        ("Recurrent", {"options": {"submodule": "cell"}}, "is for TorchScript files"),
        ("Recurrent", {"options": {"devise": "cpu"}}, "did you mean 'device'"),
        ("Recurrent", {"options": {"device": "tpu"}}, "cannot use the device 'tpu'"),
    ],
)
def test_mistakes_are_named(load, entry, more, told):
    """Each start-up error says what was wrong and what to do."""
    with pytest.raises(ConfigError, match=told):
        load(entry, **{"inputs": of((1, 8)), **more})


def test_weights_of_another_module_are_refused(load, tmp_path):
    """The error names the file and the keys that do not fit."""
    path = tmp_path / "w.pt"
    torch.save(models.seeded(models.Flat).state_dict(), path)

    with pytest.raises(ConfigError, match=r"w\.pt: file: are no weights of Recurrent"):
        load("Recurrent", inputs=of((1, 8)), file=path)


def test_loading_leaves_the_number_of_threads_as_it_was(load):
    """The setting is for calls of this model, not for others in the process."""
    before = torch.get_num_threads()

    load("Recurrent", inputs=of((1, 8)), threads=1)

    assert torch.get_num_threads() == before
