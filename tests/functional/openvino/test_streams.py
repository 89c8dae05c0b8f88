"""Many sequences of OpenVINO models at once, against OpenVINO's own stateful requests."""

import numpy as np
import openvino as ov
import pytest
from openvino._offline_transformations import apply_make_stateful_transformation
from openvino.passes import LowLatency2, Manager
from tests.assets import asset, recording
from tests.functional.openvino.conftest import SEQUENCES, compare, config_of, rows_of
from tests.models import openvino_models as models
from tests.models.openvino_models import Native

F32 = 1e-5  # of the largest output
BF16 = 2e-2
LOW_LATENCY = {"low_latency_transformation": True}


def low_latency(made, *, constant=True):
    """Turn the loops of a model into variables, as the option does."""
    manager = Manager()
    manager.register_pass(LowLatency2(constant))
    manager.run_passes(made)
    return made


@pytest.mark.parametrize(
    ("build", "shapes"),
    [
        (models.accumulator, {"x": (1, 4)}),
        (lambda: models.starts_at(2.5), {"x": (1, 2)}),
        (models.starts_from_data, {"x": (1, 3), "seed": (1, 3)}),
        (models.shaped_first, {"x": (1, 4)}),
        (models.crossed, {"x": (1, 2)}),
        (models.kaldi_like, {"Parameter": (1, 6)}),
        (lambda: models.lstm(hidden=96), {"x": (1, 40)}),
        (lambda: models.lstm_sequence(hidden=96), {"x": (1, 1, 40)}),
    ],
    ids=["accumulator", "constant", "from_data", "shaped", "crossed", "kaldi", "lstm", "sequence"],
)
async def test_sequences_together_are_as_natively_alone(bench, tmp_path, build, shapes):
    """32 sequences of 200 steps, arriving raggedly, answer as 32 requests of their own."""
    await bench.engine.load(config_of(build(), tmp_path))

    off, largest = await compare(bench, Native(build()), rows_of(shapes, 1))

    assert off <= F32 * largest
    assert bench.mean_batch("model") > SEQUENCES / 8


async def test_the_lstm_of_the_benchmark_is_as_natively_alone(bench, tmp_path):
    """The full-sized network too, over fewer steps."""
    await bench.engine.load(config_of(models.lstm(), tmp_path))

    off, largest = await compare(
        bench, Native(models.lstm()), rows_of({"x": (1, 40)}, 2), sequences=16, steps=40
    )

    assert off <= F32 * largest


async def test_loops_are_turned_into_variables_on_request(bench, tmp_path):
    """A model of sequence operators without variables keeps its state after LowLatency2."""
    made = models.lstm_sequence(hidden=96, kept=False)
    await bench.engine.load(config_of(made, tmp_path, options=LOW_LATENCY))
    native = Native(low_latency(models.lstm_sequence(hidden=96, kept=False)))

    off, largest = await compare(bench, native, rows_of({"x": (1, 1, 40)}, 3))

    assert off <= F32 * largest
    assert bench.mean_batch("model") > SEQUENCES / 8


async def test_loops_keep_their_first_state_from_inputs_on_request(bench, tmp_path):
    """Without a constant initialiser a sequence begins with what its first step brings."""
    options = {**LOW_LATENCY, "use_const_initializer": False}
    await bench.engine.load(config_of(models.lstm_given_first(), tmp_path, options=options))
    native = Native(low_latency(models.lstm_given_first(), constant=False))
    shapes = {"x": (1, 1, 3), "h0": (1, 1, 4), "c0": (1, 1, 4)}

    off, largest = await compare(bench, native, rows_of(shapes, 10), steps=50)

    assert bench.engine.model("model").signature.batching
    assert off <= F32 * largest


async def test_a_longer_time_axis_is_cut_to_one_step_first(bench, tmp_path):
    """``shape`` and ``low_latency_transformation`` together: the recipe for recurrent networks."""
    made = models.lstm_sequence(hidden=32, frames=-1, kept=False)
    options = {"shape": "(1,1,40)", **LOW_LATENCY}
    await bench.engine.load(config_of(made, tmp_path, options=options))
    native = Native(low_latency(models.lstm_sequence(hidden=32, kept=False)))

    off, largest = await compare(
        bench, native, rows_of({"x": (1, 1, 40)}, 4), sequences=8, steps=20
    )

    assert off <= F32 * largest


async def test_half_precision_stays_within_its_tolerance(bench, tmp_path):
    """bf16 is used where the config asks for it, and compared with bf16."""
    hint = {"INFERENCE_PRECISION_HINT": "bf16"}
    await bench.engine.load(
        config_of(models.lstm(hidden=96), tmp_path, options={"plugin_config": hint})
    )

    off, largest = await compare(
        bench, Native(models.lstm(hidden=96), **hint), rows_of({"x": (1, 40)}, 5)
    )

    assert bench.engine.model("model").signature.batching
    assert off <= BF16 * largest


@pytest.mark.parametrize("build", [models.baked_batch, models.mixes_rows])
async def test_models_that_cannot_share_calls_are_served_one_by_one(bench, tmp_path, build):
    """A baked batch and a mean over rows are caught at load; the answers are right."""
    await bench.engine.load(config_of(build(), tmp_path))

    off, largest = await compare(bench, Native(build()), rows_of({"x": (1, 4)}, 6), steps=20)

    assert not bench.engine.model("model").signature.batching
    assert bench.mean_batch("model") == 1
    assert off <= F32 * largest


@pytest.mark.parametrize("dtype", ["int64", "float64", "int32", "bool", "float16"])
async def test_states_of_other_dtypes_share_calls(bench, tmp_path, dtype):
    """Also i64 and f64, of which OpenVINO itself cannot run a single step."""
    await bench.engine.load(config_of(models.typed(np.dtype(dtype)), tmp_path))
    rng = np.random.default_rng(7)
    rows = (rng.integers(0, 2, (4, 12, 1, 2)) * (rng.random((4, 12, 1, 2)) < 0.3)).astype(dtype)

    for step in range(12):
        for sequence in range(4):
            answer = await bench.step("model", sequence + 1, x=rows[sequence, step])
            so_far = rows[sequence, : step + 1]
            expected = so_far.any(0) if dtype == "bool" else so_far.sum(0)
            np.testing.assert_array_equal(answer["y"], expected.astype(dtype))


async def test_a_state_without_a_first_value_begins_with_zeros(bench, tmp_path):
    """A file that OpenVINO cannot step natively is simply served."""
    await bench.engine.load(config_of(models.open_without_first(), tmp_path))

    for step in range(1, 6):
        answer = await bench.step("model", 1, x=np.ones((1, 4), np.float32))

        np.testing.assert_array_equal(answer["y"], np.full((1, 4), step))


async def test_a_growing_cache_is_kept_a_sequence(bench, tmp_path):
    """Sequences of different length do not disturb one another."""
    await bench.engine.load(config_of(models.growing(), tmp_path))

    for step in range(1, 6):
        for sequence in range(1, step + 1):
            answer = await bench.step("model", sequence, x=np.ones((1, 1, 4), np.float32))

            np.testing.assert_array_equal(answer["y"], np.full((1, 4), step - sequence + 1))


# -- real models ---------------------------------------------------------------------------


async def test_streamsad_made_stateful_hears_as_natively(bench, tmp_path):
    """A real network whose state OpenVINO keeps: 32 streams of 200 steps."""

    def build():
        made = ov.Core().read_model(asset("streamsad", "model_2025-06-10.onnx"))
        made.reshape({"input": [1, 257, 1], "input_state": [1, 1, 64]})
        apply_make_stateful_transformation(made, {"input_state": "output_state"})
        return made

    await bench.engine.load(config_of(build(), tmp_path))

    off, largest = await compare(bench, Native(build()), rows_of({"input": (1, 257, 1)}, 8))

    assert bench.engine.model("model").signature.states[0].batch_axis == 1
    assert off <= F32 * largest
    assert bench.mean_batch("model") > SEQUENCES / 8


async def test_silero_made_stateful_hears_speech_as_natively(bench, tmp_path):
    """Silero's file for OpenVINO, its state inside, on real speech: 32 streams of 200 frames."""

    def build():
        made = ov.Core().read_model(asset("silero", "silero_vad_openvino_16k.onnx"))
        apply_make_stateful_transformation(made, {"state": "stateN"})
        return made

    samples = recording("silero", "test.wav")

    def row(sequence, step):
        at = 20000 * sequence + 512 * step
        return {"input": samples[at : at + 576][None]}

    await bench.engine.load(config_of(build(), tmp_path))

    off, largest = await compare(bench, Native(build()), row)

    assert largest > 0.9
    assert off <= F32
    assert bench.mean_batch("model") > SEQUENCES / 8


@pytest.mark.parametrize(
    ("name", "file", "batching"),
    [
        ("streamsad", "model_2025-06-10.onnx", True),
        ("silero", "silero_vad_openvino_16k.onnx", True),
        ("flashvad", "flashvad-stream.onnx", True),
        ("dtln", "model_1.onnx", True),
        ("gtcrn", "gtcrn_simple.onnx", False),
    ],
)
async def test_both_runtimes_answer_alike(bench, name, file, batching):
    """ONNX models with their state in the open: found without a config, as ONNX Runtime has it."""
    from legato.repository.config import ModelConfig

    path = asset(name, file)
    for runtime in ("onnx", "openvino"):
        config = ModelConfig(name=runtime, runtime=runtime, file=path, folder=path.parent)
        await bench.engine.load(config)
    here = bench.engine.model("openvino").signature
    there = bench.engine.model("onnx").signature
    (data,) = here.inputs
    row = rows_of({data.name: tuple(1 if dim == -1 else dim for dim in data.shape)}, 9)

    for step in range(10):
        for sequence in (1, 2, 3):
            mine = await bench.feed("openvino", sequence, row(sequence, step))
            theirs = await bench.feed("onnx", sequence, row(sequence, step))
            for output, value in mine.items():
                np.testing.assert_allclose(value, theirs[output], rtol=1e-4, atol=2e-5)

    assert here.batching is batching
    assert {(s.name, s.output) for s in here.states} == {(s.name, s.output) for s in there.states}
