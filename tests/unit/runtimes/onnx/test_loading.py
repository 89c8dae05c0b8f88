"""Loading tiny ONNX models: states, axes, the verdict, and configs that do not fit."""

import numpy as np
import pytest
from tests.models import tiny

from legato.core.errors import ConfigError, ModelError
from legato.core.types import ControlKind, InputKind, UpdateRule
from legato.repository.config import ModelConfig
from legato.runtimes.base import RowInfo, StepBatch
from legato.runtimes.onnx import load


def loaded(model, folder, **config):
    path = tiny.save(model, folder)
    return load(ModelConfig(name="tiny", file=path, folder=folder, **config))


def rows(count):
    return tuple(RowInfo(at, 1, False, False, {}) for at in range(count))


def run(runtime, inputs, state):
    count = next(iter(inputs.values())).shape[0]
    return runtime.step(StepBatch(inputs, state, rows(count)))


def pairs(runtime):
    return {state.input: state.output for state in runtime.signature.states}


def axes(runtime):
    return {state.input: state.batch_axis for state in runtime.signature.states}


# -- what is found --------------------------------------------------------------------------


def test_an_accumulator_needs_no_config(tmp_path):
    """State, axes and batching of a plain model are found; clients see data only."""
    runtime = loaded(tiny.accumulator(), tmp_path)

    signature = runtime.signature
    assert pairs(runtime) == {"state": "next_state"}
    assert [(spec.name, spec.shape, spec.batch_axis) for spec in signature.inputs] == [
        ("x", (1, 4), 0)
    ]
    assert [spec.name for spec in signature.outputs] == ["y"]
    assert signature.batching
    assert "bit for bit" in signature.why


def test_a_step_returns_the_next_state_and_changes_nothing(tmp_path):
    """The batch is not written to, so a step that was not committed may run again."""
    runtime = loaded(tiny.accumulator(2), tmp_path)
    x = np.array([[1, 2], [3, 4]], np.float32)
    state = np.array([[10, 10], [20, 20]], np.float32)
    before = state.copy()

    first, again = (
        run(runtime, {"x": x}, {"state": state}),
        run(runtime, {"x": x}, {"state": state}),
    )

    np.testing.assert_array_equal(first.outputs["y"], [[11, 12], [23, 24]])
    np.testing.assert_array_equal(first.state["state"], again.state["state"])
    np.testing.assert_array_equal(state, before)
    assert set(first.outputs) == {"y"}


def test_read_only_rows_are_taken(tmp_path):
    """The engine hands out read-only views of wire bytes."""
    runtime = loaded(tiny.accumulator(1), tmp_path)
    x = np.frombuffer(np.float32(1).tobytes(), np.float32).reshape(1, 1)

    result = run(runtime, {"x": x}, {"state": x})

    assert result.outputs["y"].tolist() == [[2.0]]


def test_states_whose_names_sort_differently_are_paired_right(tmp_path):
    """Ten times x goes to the fast state, x to the slow one, whatever comes first."""
    runtime = loaded(tiny.crossed(), tmp_path)
    zero = np.zeros((1, 2), np.float32)

    result = run(runtime, {"x": zero + 1}, {"y_fast_state": zero, "z_slow_state": zero})

    assert pairs(runtime) == {
        "y_fast_state": "next_y_fast_state",
        "z_slow_state": "new_z_slow_state",
    }
    assert result.state["y_fast_state"].tolist() == [[10, 10]]
    assert result.state["z_slow_state"].tolist() == [[1, 1]]


def test_names_that_say_nothing_are_paired_by_the_config(tmp_path):
    """Without names, nothing is guessed from equal shapes; the config decides."""
    states = [
        {"input": "zulu", "output": "first"},
        {"name": "f", "input": "alpha", "output": "second"},
    ]
    guessed = loaded(tiny.crossed(named=False), tmp_path)
    told = loaded(tiny.crossed(named=False), tmp_path, states=states)
    zero = np.zeros((1, 2), np.float32)

    result = run(told, {"x": zero + 1}, {"zulu": zero, "f": zero})

    assert guessed.signature.states == ()
    assert result.state["f"].tolist() == [[10, 10]]
    assert result.state["zulu"].tolist() == [[1, 1]]


def test_the_batch_axis_of_a_recurrent_state_is_found(tmp_path):
    """States of an LSTM have their batch on axis 1, the data on axis 0."""
    runtime = loaded(tiny.lstm(), tmp_path)

    assert axes(runtime) == {"h0": 1, "c0": 1}
    assert [state.shape for state in runtime.signature.states] == [(1, 1, 5), (1, 1, 5)]
    assert runtime.signature.batching


def test_a_stateless_model_that_looks_like_a_pair_stays_stateless(tmp_path):
    """``x`` to ``x_out`` of equal shape is reported as a doubt, and not carried."""
    runtime = loaded(tiny.echo(), tmp_path)

    assert runtime.signature.states == ()
    assert [spec.name for spec in runtime.signature.inputs] == ["x"]
    assert [doubt.input for doubt in runtime.findings.doubts] == ["x"]


def test_a_growing_state_starts_empty(tmp_path):
    """An open dimension that is not the batch is 0 at the start and grows."""
    runtime = loaded(tiny.growing(), tmp_path)
    x = np.ones((2, 1, 2), np.float32)

    one = run(runtime, {"x": x}, {"past": np.zeros((2, 0, 2), np.float32)})
    two = run(runtime, {"x": x}, {"past": one.state["past"]})

    assert runtime.signature.states[0].shape == (1, -1, 2)
    assert runtime.signature.batching
    assert two.state["past"].shape == (2, 2, 2)
    assert two.outputs["y"].tolist() == [[2, 2], [2, 2]]


def test_a_scalar_has_no_batch_axis_and_a_rate_has_a_default(tmp_path):
    """A rank-0 ``sr`` is one value for all rows; left out, it is 16000."""
    runtime = loaded(tiny.scalar_rate(), tmp_path)

    sr = next(spec for spec in runtime.signature.inputs if spec.name == "sr")
    assert (sr.kind, sr.shape, sr.batch_axis, sr.default) == (InputKind.SCALAR, (), None, 16000)
    assert runtime.signature.batching


def test_a_state_output_is_given_to_clients_only_where_asked_for(tmp_path):
    """Naming a state's output in the config adds it to the outputs."""
    runtime = loaded(tiny.accumulator(), tmp_path, outputs={"next_state": {}})

    assert [spec.name for spec in runtime.signature.outputs] == ["y", "next_state"]


# -- who may share a call ----------------------------------------------------------------------


def test_rows_that_influence_one_another_are_served_one_by_one(tmp_path):
    """A mean over the batch is caught, named, and the axes are still right."""
    runtime = loaded(tiny.mixing(), tmp_path)

    assert not runtime.signature.batching
    assert "influence one another" in runtime.signature.why
    assert runtime.signature.inputs[0].shape == (1, 3)


def test_batching_can_be_forced_and_the_reason_stays(tmp_path):
    """``batching: force`` overrules the gate and says against what."""
    runtime = loaded(tiny.mixing(), tmp_path, batching="force")

    assert runtime.signature.batching
    assert "forced" in runtime.signature.why
    assert "influence" in runtime.signature.why


def test_batching_can_be_switched_off(tmp_path):
    """``batching: off`` keeps rows apart though they could share; axes are found all the same."""
    runtime = loaded(tiny.lstm(), tmp_path, batching="off")

    assert not runtime.signature.batching
    assert axes(runtime) == {"h0": 1, "c0": 1}


def test_without_the_gate_numbers_are_not_compared(tmp_path):
    """``gate: false`` believes a model whose shapes take several rows."""
    runtime = loaded(tiny.mixing(), tmp_path, gate=False)

    assert runtime.signature.batching
    assert "gate is off" in runtime.signature.why


def test_a_batch_fixed_at_one_is_loosened_where_proven(tmp_path):
    """Declared shapes and the target of a Reshape are changed in memory; rows keep their shape."""
    runtime = loaded(tiny.fixed(), tmp_path)
    x = np.arange(12, dtype=np.float32).reshape(3, 2, 2)

    result = run(runtime, {"x": x}, {"state": np.ones((3, 4), np.float32)})

    assert runtime.findings.made_dynamic
    assert runtime.signature.inputs[0].shape == (1, 2, 2)
    np.testing.assert_array_equal(result.outputs["y"], x.reshape(3, 4) + 1)


def test_a_batch_fixed_for_good_is_served_one_by_one(tmp_path):
    """Where loosening does not run, the file is used as it is, and the reason is told."""
    runtime = loaded(tiny.fixed(patchable=False), tmp_path)
    x = np.ones((1, 2, 2), np.float32)

    result = run(runtime, {"x": x}, {"state": np.ones((1, 4), np.float32)})

    assert not runtime.signature.batching
    assert not runtime.findings.made_dynamic
    assert "the file fixes the batch at 1" in runtime.signature.why
    assert result.outputs["y"].tolist() == [[2, 2, 2, 2]]


def test_time_is_not_taken_for_the_batch(tmp_path):
    """A model over frames of one recording runs several rows, but not as rows."""
    runtime = loaded(tiny.over_time(), tmp_path)

    assert not runtime.signature.batching
    assert runtime.signature.inputs[0].shape == (-1, 2)
    assert runtime.signature.inputs[0].batch_axis is None


def test_a_state_without_a_batch_axis_gets_one_in_front(tmp_path):
    """The engine stores rows; the model sees the shape of its file."""
    runtime = loaded(tiny.unbatched_state(), tmp_path)
    x = np.ones(3, np.float32)

    result = runtime.step(StepBatch({"x": x}, {"state": np.ones((1, 3), np.float32)}, rows(1)))

    assert runtime.signature.states[0].shape == (1, 3)
    assert result.state["state"].shape == (1, 3)
    assert result.outputs["y"].tolist() == [2, 2, 2]


def test_a_clone_serves_alike_after_the_first_is_closed(tmp_path):
    """Several instances share what was found out; each has a session of its own."""
    runtime = loaded(tiny.fixed(), tmp_path)
    twin = runtime.clone()
    inputs, state = {"x": np.ones((2, 2, 2), np.float32)}, {"state": np.zeros((2, 4), np.float32)}

    runtime.close()
    result = run(twin, inputs, state)

    assert twin.signature == runtime.signature
    assert result.outputs["y"].shape == (2, 4)
    with pytest.raises(ModelError, match="closed"):
        run(runtime, inputs, state)


# -- rules from the config -----------------------------------------------------------------------


def test_a_window_shortens_what_clients_send(tmp_path):
    """The model takes 4 samples, 2 of which the server keeps: a client sends 2."""
    states = [{"name": "context", "input": "x", "rule": "window", "axis": 1, "size": 2}]
    runtime = loaded(tiny.windowed(), tmp_path, states=states)

    spec, state = runtime.signature.inputs[0], runtime.signature.states[0]
    result = run(runtime, {"x": np.ones((2, 4), np.float32)}, {})
    assert spec.shape == (1, 2)
    assert (state.name, state.shape, state.rule) == ("context", (1, 2), UpdateRule.WINDOW)
    assert result.state == {}
    assert runtime.signature.batching


def test_an_input_sent_once_is_offered_to_clients(tmp_path):
    """WRITE_ONCE without an output: listed as optional input, and carried as state."""
    states = [{"input": "state", "rule": "write_once"}]
    runtime = loaded(tiny.accumulator(), tmp_path, states=states, discover=False)

    sent = next(spec for spec in runtime.signature.inputs if spec.name == "state")
    assert sent.optional
    assert runtime.signature.states[0].output is None
    assert "next_state" in [spec.name for spec in runtime.signature.outputs]


def test_states_listed_are_completed_by_discovery_unless_it_is_off(tmp_path):
    """The config adds what names cannot show; ``discover: false`` makes its list the whole."""
    states = [{"name": "w", "input": "x", "rule": "window", "axis": 1, "size": 1}]
    both = loaded(tiny.accumulator(), tmp_path, states=states)
    only = loaded(tiny.accumulator(), tmp_path, states=[], discover=False)

    assert [state.name for state in both.signature.states] == ["w", "state"]
    assert only.signature.states == ()


def test_a_first_value_may_be_a_number_or_a_file(tmp_path):
    """``initial`` is spread over the row's shape."""
    np.save(tmp_path / "first.npy", np.arange(4, dtype=np.float32))
    pair = {"input": "state", "output": "next_state"}

    number = loaded(tiny.accumulator(), tmp_path, states=[{**pair, "initial": 2}])
    file = loaded(tiny.accumulator(), tmp_path, states=[{**pair, "initial": "first.npy"}])

    assert number.signature.states[0].initial.tolist() == [[2, 2, 2, 2]]
    assert file.signature.states[0].initial.tolist() == [[0, 1, 2, 3]]


def test_a_control_is_made_by_the_server(tmp_path):
    """An input named as control is of kind CONTROL with its two values."""
    runtime = loaded(
        tiny.counter(), tmp_path, inputs={"tick": {"control": "start", "control_values": [0, 5]}}
    )

    spec = runtime.signature.inputs[0]
    assert (spec.kind, spec.control, spec.control_values) == (
        InputKind.CONTROL,
        ControlKind.START,
        (0, 5),
    )
    assert runtime.signature.batching


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"inputs": {"audio": {}}}, r"inputs.audio: the model has no such input\s+fix: .*'x'"),
        ({"outputs": {"z": {}}}, "outputs.z: the model has no such output"),
        ({"states": [{"input": "s", "output": "y"}]}, "no input 's'"),
        ({"states": [{"input": "state", "output": "n"}]}, "no output 'n'"),
        ({"states": [{"input": "state"}]}, "needs the output"),
        (
            {"inputs": {"x": {"dtype": "int8"}}},
            r"int8 in the config.*fix: make it float32, or leave",
        ),
        (
            {"inputs": {"x": {"shape": [1, 9]}}},
            r"is \[1, 9\] in the config.*fix: .*-1 for any size",
        ),
        ({"inputs": {"x": {"batch_axis": 1}}}, "axis 1 of 'x' cannot be the batch"),
        (
            {"states": [{"input": "state", "output": "next_state", "batch_axis": 2}]},
            "axis 2 of 'state' cannot be the batch",
        ),
        ({"states": [{"input": "x", "rule": "window", "axis": 1}]}, "needs its size"),
        ({"states": [{"input": "x", "rule": "window", "axis": 5, "size": 1}]}, "axis 5"),
        ({"states": [{"input": "x", "rule": "window", "axis": 1, "size": 9}]}, "no room"),
        ({"states": [{"input": "state", "output": "y"}] * 2}, "two states"),
        (
            {"states": [{"input": "state", "output": "next_state", "initial": [1, 2]}]},
            "first value",
        ),
        (
            {"states": [{"input": "state", "output": "next_state", "initial": "no.bin"}]},
            "No such file.*fix: .*a file that is there",
        ),
    ],
)
def test_a_config_that_does_not_fit_the_model_names_key_and_fix(tmp_path, config, said):
    """What the config says is held against the graph at load, not at the first step."""
    with pytest.raises(ConfigError, match=f"(?s)model.onnx.*{said}"):
        loaded(tiny.accumulator(), tmp_path, **config)


def test_a_state_of_another_dtype_is_refused(tmp_path):
    """A pair of the config must be able to feed back."""
    states = [{"input": "state", "output": "whole"}]
    model = tiny.build(
        [tiny.node("Add", ["x", "state"], ["y"]),
         tiny.node("Cast", ["y"], ["whole"], to=tiny.INT64)],
        [("x", tiny.FLOAT, ["batch", 1]), ("state", tiny.FLOAT, ["batch", 1])],
        [("y", tiny.FLOAT, ["batch", 1]), ("whole", tiny.INT64, ["batch", 1])],
    )  # fmt: skip

    with pytest.raises(ConfigError, match="cannot feed"):
        loaded(model, tmp_path, states=states)


def test_a_broken_file_is_a_clear_start_error(tmp_path):
    """Garbage bytes name the file, not a C++ source line."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x00garbage")

    with pytest.raises(ConfigError, match=r"broken\.onnx: .*cannot") as caught:
        load(ModelConfig(name="broken", file=path, folder=tmp_path))

    assert "/onnxruntime_src" not in str(caught.value)


# -- failing steps ---------------------------------------------------------------------------------


def test_a_row_that_fails_the_model_is_one_clear_line(tmp_path):
    """The message has the model's reason and no path of a build machine; others go on."""
    runtime = loaded(tiny.fails_on(7), tmp_path)
    state = np.zeros((1, 1), np.float32)

    with pytest.raises(ModelError, match="out of data bounds") as caught:
        run(runtime, {"index": np.array([[99]])}, {"state": state})

    assert "\n" not in caught.value.message
    assert "/onnxruntime" not in caught.value.message
    assert run(runtime, {"index": np.array([[3]])}, {"state": state}).outputs["y"] == 3


def test_a_missing_input_is_named(tmp_path):
    """ONNX Runtime's own checks are skipped for speed, this one is not."""
    runtime = loaded(tiny.accumulator(), tmp_path)

    with pytest.raises(ModelError, match="'x'"):
        runtime.step(StepBatch({}, {"state": np.zeros((1, 4), np.float32)}, rows(1)))
