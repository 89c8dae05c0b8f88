"""Loading OpenVINO models: states, axes, the verdict, and configs that do not fit."""

import builtins

import numpy as np
import pytest
from tests.models import openvino_models as models

from legato.core.errors import ConfigError, ModelError
from legato.core.types import ControlKind, InputKind
from legato.repository.config import InputConfig, ModelConfig, StateConfig
from legato.runtimes.base import RowInfo, StepBatch
from legato.runtimes.openvino import load
from legato.runtimes.openvino.runtime import NativeRuntime


def config_of(made, folder, **config):
    path = models.save(made, folder)
    return ModelConfig(name="tiny", runtime="openvino", file=path, folder=folder, **config)


def loaded(made, folder, **config):
    return load(config_of(made, folder, **config))


def run(runtime, inputs, state, *, start=False):
    count = len(next(iter(inputs.values())))
    rows = tuple(RowInfo(at, 1, start, False, {}) for at in range(count))
    return runtime.step(StepBatch(inputs, state, rows))


def ones(*shape, value=1.0):
    return np.full(shape, value, np.float32)


# -- what is found --------------------------------------------------------------------------


def test_an_accumulator_needs_no_config(tmp_path):
    """State, axes and batching of a plain model are found; clients see data only."""
    runtime = loaded(models.accumulator(), tmp_path)

    signature = runtime.signature
    assert [(s.name, s.shape, s.batch_axis) for s in signature.states] == [("sum", (1, 4), 0)]
    assert [(s.name, s.shape, s.batch_axis) for s in signature.inputs] == [("x", (1, 4), 0)]
    assert [spec.name for spec in signature.outputs] == ["y"]
    assert signature.platform == "openvino"
    assert signature.batching
    assert "natively, bit for bit" in signature.why


def test_a_step_returns_the_next_state_and_changes_nothing(tmp_path):
    """The batch is not written to, so a step that was not committed may run again."""
    runtime = loaded(models.accumulator(2), tmp_path)
    x = np.array([[1, 2], [3, 4]], np.float32)
    state = np.array([[10, 10], [20, 20]], np.float32)
    for array in (x, state):
        array.flags.writeable = False  # as rows from the wire and from the store are

    first = run(runtime, {"x": x}, {"sum": state})
    kept = np.array(first.state["sum"])
    again = run(runtime, {"x": x}, {"sum": state})

    np.testing.assert_array_equal(first.outputs["y"], [[11, 12], [23, 24]])
    np.testing.assert_array_equal(again.state["sum"], kept)


def test_the_batch_axis_of_a_state_need_not_be_the_first(tmp_path):
    """States of all layers in one tensor have their batch in the middle."""
    runtime = loaded(models.lstm_sequence(hidden=8), tmp_path)

    states = {(s.name, s.shape, s.batch_axis) for s in runtime.signature.states}
    assert states == {("h", (2, 1, 8), 1), ("c", (2, 1, 8), 1)}
    assert runtime.signature.batching


def test_a_constant_first_value_is_the_rows_first_value(tmp_path):
    """It comes from the file, not from zeros."""
    runtime = loaded(models.starts_at(2.5), tmp_path)

    (state,) = runtime.signature.states
    np.testing.assert_array_equal(state.initial, [[2.5, 2.5]])
    assert runtime.findings.why["sum"].endswith("begins with a constant of the file")


def test_a_first_value_from_data_is_told_by_the_server(tmp_path):
    """The input that says which rows begin is a control: no client sends it."""
    runtime = loaded(models.starts_from_data(), tmp_path)

    controls = [s for s in runtime.signature.inputs if s.kind is InputKind.CONTROL]
    assert [(s.name, s.dtype, s.shape, s.batch_axis, s.control) for s in controls] == [
        ("sum:start", "bool", (1, 1), 0, ControlKind.START)
    ]
    assert runtime.signature.batching


def test_a_variable_named_as_an_input_stays_apart(tmp_path):
    """Names of variables and of tensors are two worlds."""
    x = models.parameter("sum", [1, 4])
    state = models.Remembered("sum", [1, 4], first=models.zeros(1, 4))
    total = models.ops.add(x, state.value)
    made = models.model([models.result("y", total)], [state.becomes(total)], [x])

    runtime = loaded(made, tmp_path)

    assert [spec.name for spec in runtime.signature.inputs] == ["sum"]
    assert [(s.name, s.input) for s in runtime.signature.states] == [("sum", "sum:variable")]
    assert runtime.signature.batching


def test_state_in_the_open_is_found_by_name(tmp_path):
    """Models without variables are read as ONNX models are."""
    runtime = loaded(models.explicit(), tmp_path)

    assert [(s.input, s.output) for s in runtime.signature.states] == [("state", "next_state")]
    assert runtime.signature.batching


def test_a_model_without_state_has_none(tmp_path):
    """Every step stands alone, unless the config wants sequences all the same."""
    runtime = loaded(models.dummy(), tmp_path)

    assert runtime.signature.states == ()
    assert runtime.signature.batching


def test_a_model_without_state_can_be_served_with_sequences(tmp_path):
    """``stateful: true`` gives it a state of no bytes."""
    runtime = loaded(models.dummy(), tmp_path, options={"stateful": True})

    (state,) = runtime.signature.states
    empty = np.zeros((2, 0), np.uint8)
    result = run(runtime, {"b": ones(2, 10)}, {state.name: empty})

    assert state.shape == (1, 0)
    np.testing.assert_array_equal(result.outputs["a"], ones(2, 10, value=2))
    assert result.state[state.name].shape == (2, 0)


# -- rows that cannot share calls --------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "why"),
    [(models.baked_batch, "its batch is fixed"), (models.mixes_rows, "influence one another")],
)
def test_rows_that_cannot_share_a_call_go_one_by_one(tmp_path, build, why):
    """A baked batch is found by its shapes, a mean over rows by its numbers."""
    runtime = loaded(build(), tmp_path)

    assert isinstance(runtime, NativeRuntime)
    assert not runtime.signature.batching
    assert why in runtime.signature.why


def test_one_by_one_the_state_is_still_the_callers(tmp_path):
    """Rows of two sequences in turn: nothing stays behind in the request."""
    runtime = loaded(models.baked_batch(), tmp_path)
    states = {}

    for step in range(3):
        for sequence in (1, 2):
            state = states.get(sequence, np.zeros((1, 4), np.float32))
            x = ones(1, 4, value=sequence)
            result = run(runtime, {"x": x}, {"sum": state}, start=step == 0)
            states[sequence] = np.array(result.state["sum"])
            np.testing.assert_array_equal(result.outputs["y"], x * (step + 1))


def test_one_by_one_a_first_value_from_data_is_the_models_own(tmp_path):
    """A row that begins is reset, so that the model computes its first value itself."""
    runtime = loaded(models.starts_from_data(), tmp_path, batching="off")
    inputs = {"x": ones(1, 3), "seed": ones(1, 3, value=10)}

    first = run(runtime, inputs, {"sum": np.zeros((1, 3), np.float32)}, start=True)
    second = run(runtime, inputs, {"sum": np.array(first.state["sum"])})

    assert isinstance(runtime, NativeRuntime)
    assert [spec.name for spec in runtime.signature.inputs] == ["x", "seed"]
    np.testing.assert_array_equal(second.outputs["y"], ones(1, 3, value=22))


def test_batching_off_is_obeyed(tmp_path):
    """The config's word stands, whatever the gate would say."""
    runtime = loaded(models.accumulator(), tmp_path, batching="off")

    assert not runtime.signature.batching
    assert "switched off" in runtime.signature.why


def test_batching_can_be_forced_where_rows_mix(tmp_path):
    """The config's word stands; the reason against it is told."""
    runtime = loaded(models.mixes_rows(), tmp_path, batching="force")

    assert runtime.signature.batching
    assert "forced by the config, although rows of a batch influence" in runtime.signature.why


def test_batching_cannot_be_forced_on_a_baked_batch(tmp_path):
    """There is nothing to believe: the graph refuses."""
    with pytest.raises(ConfigError, match="batching cannot be forced"):
        loaded(models.baked_batch(), tmp_path, batching="force")


def test_without_the_gate_shapes_decide(tmp_path):
    """Loading is quicker then, and says that nothing was compared."""
    runtime = loaded(models.mixes_rows(), tmp_path, gate=False)

    assert runtime.signature.batching
    assert "the gate is off" in runtime.signature.why


# -- options and configs --------------------------------------------------------------------


def test_low_latency_makes_variables_of_loops(tmp_path):
    """Their ids are LowLatency2's own."""
    made = models.lstm_sequence(hidden=8, kept=False)
    options = {"low_latency_transformation": True}

    runtime = loaded(made, tmp_path, options=options)

    names = [state.name for state in runtime.signature.states]
    assert names == [f"lstm{layer}/variable_{at}" for layer in (0, 1) for at in (0, 1)]
    assert runtime.signature.batching


def test_low_latency_without_a_loop_is_refused(tmp_path):
    """A model that would forget everything is not served as a stateful one."""
    options = {"low_latency_transformation": True}

    with pytest.raises(ConfigError, match="finds no loop of one iteration"):
        loaded(models.dummy(), tmp_path, options=options)


def test_public_names_replace_the_files(tmp_path):
    """Clients use the names of the mapping; so do other options."""
    options = {
        "mapping": {"inputs": {"Parameter": "frames"}, "outputs": {"scores": "out"}},
        "shape": {"frames": "(1,6)"},
    }

    runtime = loaded(models.kaldi_like(), tmp_path, options=options)

    assert [spec.name for spec in runtime.signature.inputs] == ["frames"]
    assert [spec.name for spec in runtime.signature.outputs] == ["out"]
    assert runtime.signature.batching


def test_a_layout_is_converted(tmp_path):
    """Clients send NWC where the model has NCW; the batch is where the layout says."""
    x = models.parameter("x", [1, 2, 3])
    made = models.model(
        [models.result("y", models.ops.reduce_sum(x, models.ops.constant([2])))], [], [x]
    )

    runtime = loaded(made, tmp_path, options={"layout": "NWC:NCW"})
    result = run(runtime, {"x": np.arange(12, dtype=np.float32).reshape(2, 3, 2)}, {})

    assert runtime.signature.inputs[0].shape == (1, 3, 2)
    np.testing.assert_array_equal(result.outputs["y"], [[6, 9], [24, 27]])


def test_a_batch_of_a_request_is_kept_whole(tmp_path):
    """``batch_size: 3`` says that one request carries three rows, all of one sequence."""
    runtime = loaded(models.shaped_first(), tmp_path, options={"batch_size": 3})

    (state,) = runtime.signature.states
    assert runtime.signature.inputs[0].shape == (3, 4)
    assert not runtime.signature.batching
    result = run(runtime, {"x": ones(3, 4)}, {state.name: np.zeros(state.shape, np.float32)})
    np.testing.assert_array_equal(result.outputs["y"], ones(3, 4))


@pytest.mark.parametrize("key", ["shape", "batch_size"])
def test_auto_is_refused_for_stateful_models(tmp_path, key):
    """As in Model Server: a state has a size of its own."""
    with pytest.raises(ConfigError, match=f"options.{key}: cannot be 'auto' for a stateful model"):
        loaded(models.accumulator(), tmp_path, options={key: "auto"})


def test_auto_leaves_the_shape_of_a_stateless_model_open(tmp_path):
    """Requests bring their own sizes."""
    runtime = loaded(models.dummy(), tmp_path, options={"shape": "auto"})

    assert runtime.signature.inputs[0].shape == (1, -1)
    result = run(runtime, {"b": ones(2, 3)}, {})
    np.testing.assert_array_equal(result.outputs["a"], ones(2, 3, value=2))


def test_the_first_value_of_a_variable_can_be_set(tmp_path):
    """A state of the config that names a variable says more of it."""
    states = [StateConfig(input="sum", initial=7)]

    runtime = loaded(models.accumulator(), tmp_path, states=states)

    np.testing.assert_array_equal(runtime.signature.states[0].initial, ones(1, 4, value=7))


def test_what_inspect_writes_is_read_again(tmp_path):
    """A config with every state, input and axis named gives the same signature."""
    found = loaded(models.starts_from_data(), tmp_path).signature
    inputs = {
        "x": InputConfig(shape=[1, 3], batch_axis=0),
        "sum:start": InputConfig(control="start", control_values=[False, True], batch_axis=0),
    }
    states = [StateConfig(input="sum", output="sum:next", shape=[1, 3], batch_axis=0)]

    again = loaded(
        models.starts_from_data(), tmp_path, inputs=inputs, states=states, discover=False
    )

    assert again.signature == found


# -- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_device": "NPU"}, "options.target_device: this machine has no device 'NPU'"),
        ({"plugin_config": {"NOPE": 1}}, "NOPE(.|\n)*fix: check 'options.plugin_config'"),
        ({"shape": "(1,2,3)"}, "options.shape: the model does not take this shape"),
        ({"batch_size": 3}, "options.batch_size: the model does not take this batch"),
        ({"shape": {"nope": "(1,4)"}}, "the model has no input 'nope'(.|\n)*inputs are 'x'"),
        ({"layout": "NCHW"}, "options.layout: the model does not take this layout"),
        ({"cpu_extension": "/nope.so"}, "options.cpu_extension: cannot be loaded"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    """The message names the key, and what OpenVINO said in one line."""
    with pytest.raises(ConfigError, match=message):
        loaded(models.accumulator(), tmp_path, options=options)


def test_one_shape_for_several_inputs_is_refused(tmp_path):
    """It must say which one it means."""
    with pytest.raises(ConfigError, match="must say which input it means"):
        loaded(models.starts_from_data(), tmp_path, options={"shape": "(1,3)"})


def test_a_file_that_is_no_model_is_refused(tmp_path):
    """What OpenVINO says is told in one line."""
    path = tmp_path / "model.xml"
    path.write_text("<net/>")

    with pytest.raises(ConfigError, match=r"model\.xml: OpenVINO .* cannot read it: .+") as told:
        load(ModelConfig(name="m", runtime="openvino", file=path, folder=tmp_path))

    assert len(told.value.problem.splitlines()) == 1


@pytest.mark.parametrize("file", [None, "missing.xml"])
def test_a_missing_file_is_refused(tmp_path, file):
    """Before OpenVINO is asked."""
    path = tmp_path / file if file else None

    with pytest.raises(ConfigError, match=r"no model file|no such file"):
        load(ModelConfig(name="m", runtime="openvino", file=path, folder=tmp_path))


def test_a_config_that_names_what_is_not_there_is_refused(tmp_path):
    """The inputs that are there are listed."""
    with pytest.raises(ConfigError, match="the model has no such input"):
        loaded(models.accumulator(), tmp_path, inputs={"z": InputConfig()})


def test_a_missing_installation_names_the_extra(tmp_path, monkeypatch):
    """One command puts it right."""
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)

    with pytest.raises(ConfigError, match=r"pip install 'legato\[openvino\]'"):
        load(ModelConfig(name="m", runtime="openvino", folder=tmp_path))


def test_a_failing_step_tells_one_line(tmp_path):
    """The model's refusal reaches the client without source paths."""
    runtime = loaded(models.accumulator(), tmp_path)

    with pytest.raises(ModelError, match=r"^the model failed: ") as told:
        run(runtime, {"x": ones(1, 5)}, {"sum": ones(1, 5)})

    assert "\n" not in told.value.message
    assert "src/" not in told.value.message


def test_a_missing_input_is_named(tmp_path):
    """Nothing is fed in its place."""
    runtime = loaded(models.accumulator(), tmp_path)

    with pytest.raises(ModelError, match="needs a value of 'x'"):
        runtime.step(StepBatch({}, {"sum": ones(1, 4)}, (RowInfo(1, 1, True, False, {}),)))


def test_a_closed_model_runs_no_more(tmp_path):
    """Its memory is gone."""
    runtime = loaded(models.accumulator(), tmp_path)

    runtime.close()

    with pytest.raises(ModelError, match="closed"):
        run(runtime, {"x": ones(1, 4)}, {"sum": ones(1, 4)})
