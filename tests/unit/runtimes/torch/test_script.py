"""TorchScript: explicit states share calls, hidden ones are kept apart."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.assets import asset, recording  # noqa: E402
from tests.models import torch_models as models  # noqa: E402

from legato.core.errors import ConfigError, ModelError, PoisonError  # noqa: E402
from legato.core.types import InputKind  # noqa: E402

RNG = np.random.default_rng(4)
X8 = {"x": {"shape": [1, 8]}}


@pytest.fixture(scope="module")
def silero():
    return asset("silero", "silero_vad.jit")


@pytest.fixture(scope="module")
def frames():
    samples = recording("silero", "test.wav")
    return samples[: len(samples) // 512 * 512].reshape(-1, 1, 512)


def bare(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(str(path))


def row(shape=(1, 8)):
    return {"x": RNG.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("how", ["script", "trace"])
def test_an_explicit_state_shares_calls(load, sequences, tmp_path, how):
    """Scripted or traced, a state that is declared goes in and comes out."""
    module = models.seeded(models.Explicit)
    example = (torch.zeros(1, 8), torch.zeros(1, 16))
    path = (
        models.script(module, tmp_path)
        if how == "script"
        else models.trace(module, tmp_path, *example)
    )
    states = [{"input": "state", "output": "after", "shape": [1, 16]}]
    runtime = sequences(load(path, inputs=X8, outputs={"y": {}}, states=states))
    carried = {}

    assert runtime.runtime.signature.batching
    for _ in range(4):
        sent = {i: row() for i in RNG.permutation(5)[:4].tolist()}
        got = runtime.step(sent)
        for i, each in sent.items():
            before = carried.get(i, torch.zeros(1, 16))
            y, carried[i] = module(torch.from_numpy(each["x"].copy()), before)
            np.testing.assert_allclose(got[i]["y"], y, atol=1e-5)


def test_tritons_counted_names_stand_for_places(load, tmp_path):
    """``INPUT__1`` is the second argument of forward, ``OUTPUT__1`` its second result."""
    path = models.script(models.seeded(models.Explicit), tmp_path)

    signature = load(
        path,
        inputs={"INPUT__0": {"shape": [1, 8], "dtype": "float32"}},
        outputs={"OUTPUT__0": {}},
        states=[{"input": "INPUT__1", "output": "OUTPUT__1", "shape": [1, 16]}],
    ).signature

    assert [spec.name for spec in signature.inputs] == ["INPUT__0"]
    assert [spec.name for spec in signature.outputs] == ["OUTPUT__0"]
    assert [(s.input, s.output) for s in signature.states] == [("INPUT__1", "OUTPUT__1")]


def test_a_state_is_found_by_the_variable_that_is_returned(load, tmp_path):
    """``state`` is reassigned and returned: the graph calls it so on both sides."""
    path = models.script(models.seeded(models.Explicit), tmp_path)

    runtime = load(path, inputs=X8, states=[{"input": "state", "output": "next_state",
                                             "shape": [1, 16]}])  # fmt: skip

    assert [(s.input, s.output) for s in runtime.signature.states] == [("state", "next_state")]


def test_a_module_that_assigns_to_itself_is_served_alone(load, sequences, tmp_path):
    """Its attributes are taken out after every step, so that sequences do not mix."""
    module = models.Attribute()
    path = models.script(module, tmp_path)
    runtime = sequences(load(path, inputs={"x": {"shape": [1, 2]}}))
    private = models.Private(models.Attribute())

    assert not runtime.runtime.signature.batching
    assert "('h', 'steps')" in runtime.runtime.signature.why
    for _ in range(3):
        for i in (1, 2, "three"):
            sent = row((1, 2))
            got = runtime.step({i: sent})[i]["output_0"]
            np.testing.assert_array_equal(got, private.step(i, sent["x"]))


def test_batching_of_hidden_state_cannot_be_forced(load, tmp_path):
    """One module holds one state, whatever the config says."""
    path = models.script(models.Attribute(), tmp_path)

    with pytest.raises(ConfigError, match="cannot be forced: it keeps its state in attributes"):
        load(path, inputs={"x": {"shape": [1, 2]}}, batching="force")


def test_a_hidden_state_that_is_not_finite_fails_the_step(load, sequences, tmp_path):
    """The engine cannot read packed attributes, so the runtime looks for NaN itself."""
    path = models.script(models.Attribute(), tmp_path)
    runtime = sequences(load(path, inputs={"x": {"shape": [1, 2]}}))
    runtime.step({1: {"x": np.float32([[1, 1]])}})
    before = runtime.states[1]

    with pytest.raises(PoisonError, match="attribute 'h' is not finite"):
        runtime.step({1: {"x": np.float32([[np.nan, 1]])}})

    assert runtime.states[1] is before
    got = runtime.step({1: {"x": np.float32([[0, 0]])}})[1]["output_0"]
    np.testing.assert_array_equal(got, [[1, 1]])


def test_silero_alone_loses_its_state_to_a_call_in_between(silero, frames):
    """The hazard: one call with a batch of two, and the module begins again."""
    module, told = bare(silero), []
    with torch.no_grad():
        for interrupted in (False, True):
            module.reset_states()
            for frame in frames[40:100]:
                module(torch.from_numpy(frame.copy()), 16000)
            if interrupted:
                module(torch.zeros(2, 512), 16000)
            told.append(float(module(torch.from_numpy(frames[100].copy()), 16000)))

    assert told == pytest.approx([0.9998, 0.0986], abs=5e-4)


def test_silero_is_safe_whoever_comes_in_between(load, sequences, silero, frames):
    """Its attributes are each sequence's own; a batch of two is not even put to it."""
    runtime = sequences(load(silero, inputs={"x": {"shape": [1, 512]}}))
    rate = np.array(16000, np.int64)

    def step(sequence, frame):
        return float(runtime.step({sequence: {"x": frame, "sr": rate}})[sequence]["out"][0, 0])

    for at in range(40, 100):
        step("speech", frames[at])
        step("other", frames[500 + at])
        step(f"new {at}", frames[0])

    assert step("speech", frames[100]) == pytest.approx(0.9998, abs=5e-4)
    assert runtime.runtime.signature.inputs[0].shape == (1, 512)
    assert not runtime.runtime.signature.batching


def test_silero_names_its_part_with_an_explicit_state(load, silero):
    """The findings say how its sequences could share calls."""
    runtime = load(silero, inputs={"x": {"shape": [1, 512]}})

    assert any("'options: {submodule: _model}'" in note for note in runtime.findings.notes)
    rate = runtime.signature.inputs[1]
    assert (rate.kind, rate.default) == (InputKind.SCALAR, 16000)


def test_sileros_inner_module_answers_as_the_package(load, sequences, silero, frames):
    """Twelve streams in ragged batches through the part, and copies of the whole beside them."""
    runtime = sequences(load(silero, options={"submodule": "_model"},
                             inputs={"x": {"shape": [1, 576]}}))  # fmt: skip
    streams, steps, worst = 12, 15, 0.0
    whole = [bare(silero) for _ in range(streams)]
    context = [np.zeros((1, 64), np.float32) for _ in range(streams)]
    done = [0] * streams
    rng = np.random.default_rng(5)

    while min(done) < steps:
        ids = rng.permutation(streams)[: rng.integers(1, streams + 1)].tolist()
        taken = {i: frames[150 * (i + 1) + done[i]] for i in ids}
        got = runtime.step({i: {"x": np.concatenate([context[i], taken[i]], 1)} for i in ids})
        for i in ids:
            with torch.no_grad():
                want = float(whole[i](torch.from_numpy(taken[i].copy()), 16000))
            worst = max(worst, abs(float(got[i]["out"][0, 0]) - want))
            context[i] = taken[i][:, -64:]
            done[i] += 1

    assert runtime.runtime.signature.batching
    assert [(s.shape, s.batch_axis) for s in runtime.runtime.signature.states] == [((2, 1, 128), 1)]
    assert worst < 1e-5


def test_a_part_that_is_not_there_is_named(load, silero):
    """A wrong submodule is answered with those there are."""
    with pytest.raises(ConfigError, match=r"no part '_mode'[\s\S]*'_model', '_model_8k'"):
        load(silero, options={"submodule": "_mode"})


def test_a_buffer_that_is_written_late_is_put_back(load, sequences, tmp_path):
    """What no step did at the load fails that step, and leaves nothing for the next one."""
    path = models.script(models.LateScript(), tmp_path)
    runtime = sequences(load(path, inputs={"x": {"shape": [1, 2]}}))

    with pytest.raises(ModelError, match="buffer 'late' changed in this step"):
        runtime.step({1: {"x": np.float32([[90, 20]])}})

    got = runtime.step({2: {"x": np.float32([[1, 2]])}})[2]["output_0"]
    np.testing.assert_array_equal(got, [[1, 2]])


def test_weights_without_code_are_refused(load, tmp_path):
    """A state_dict cannot run; the error says how to serve it."""
    path = tmp_path / "weights.pt"
    torch.save(models.seeded(models.Flat).state_dict(), path)

    with pytest.raises(ConfigError, match=r"nothing in it that runs[\s\S]*entry: model\.py:Class"):
        load(path)


def test_an_error_of_the_model_is_one_line(load, sequences, tmp_path):
    """TorchScript's traceback is cut down to what it means."""
    path = models.script(models.seeded(models.Explicit), tmp_path)
    states = [{"input": "state", "output": "after", "shape": [1, 16]}]
    runtime = sequences(load(path, inputs=X8, outputs={"y": {}}, states=states))

    with pytest.raises(ModelError) as caught:
        runtime.step({1: row((1, 5))})

    assert "\n" not in caught.value.message
    assert "input has inconsistent input_size: got 5 expected 8" in caught.value.message
