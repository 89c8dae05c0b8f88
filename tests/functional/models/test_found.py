"""Real models, no config: what is found of them, and whether rows may share a call.

The expectations are those of the spec on models, with one correction: the batch axis
of GTCRN's ``tra_cache`` is 3. A slice of it becomes ``initial_h`` of a GRU, whose axes
are direction, batch, hidden; these are axes 2, 3 and 4 of the cache.
"""

import json

import pytest
import yaml
from tests.assets import asset
from typer.testing import CliRunner

from legato.cli.main import build
from legato.core.types import InputKind, UpdateRule
from legato.repository.config import ModelConfig
from legato.runtimes.onnx import load


def loaded(name, file, **config):
    path = asset(name, file)
    return load(ModelConfig(name=name, file=path, folder=path.parent, **config))


def states(runtime):
    return {
        state.input: (state.output, state.shape, state.batch_axis)
        for state in runtime.signature.states
    }


def test_flashvad_mixes_batch_axes():
    """Five states; the batch is axis 1 of one and axis 0 of the others."""
    runtime = loaded("flashvad", "flashvad-stream.onnx")

    assert states(runtime) == {
        "recurrent": ("next_recurrent", (1, 1, 64), 1),
        "cache_0": ("next_cache_0", (1, 64, 2), 0),
        "cache_1": ("next_cache_1", (1, 64, 4), 0),
        "cache_2": ("next_cache_2", (1, 64, 8), 0),
        "cache_3": ("next_cache_3", (1, 64, 16), 0),
    }
    assert runtime.signature.batching


def test_streamsad_leaves_time_open():
    """Batch and time are both dynamic; only the batch is taken for it."""
    runtime = loaded("streamsad", "model_2025-06-10.onnx")

    assert states(runtime) == {"input_state": ("output_state", (1, 1, 64), 1)}
    assert runtime.signature.inputs[0].shape == (1, 257, -1)
    assert runtime.signature.outputs[0].shape == (1, -1, 2)
    assert runtime.signature.batching


def test_silero_has_unnamed_dimensions_and_a_scalar():
    """The file says nothing of the batch: it is found by trying; ``sr`` has none."""
    runtime = loaded("silero", "silero_vad.onnx")

    kinds = {spec.name: (spec.kind, spec.default) for spec in runtime.signature.inputs}
    assert states(runtime) == {"state": ("stateN", (2, 1, 128), 1)}
    assert kinds == {"input": (InputKind.DATA, None), "sr": (InputKind.SCALAR, 16000)}
    assert runtime.signature.batching


def test_the_ifless_silero_is_found_alike():
    """Another export of the same net, with named dimensions."""
    runtime = loaded("silero", "silero_vad_op18_ifless.onnx")

    assert states(runtime) == {"state": ("stateN", (2, 1, 128), 1)}
    assert runtime.signature.batching


def test_a_silero_fixed_at_one_row_is_made_dynamic():
    """The OpenVINO export holds a batch of 1 that can be loosened and proven."""
    runtime = loaded("silero", "silero_vad_openvino_16k.onnx")

    assert states(runtime) == {"state": ("stateN", (2, 1, 128), 1)}
    assert runtime.findings.made_dynamic
    assert runtime.signature.batching
    assert runtime.signature.inputs[0].shape == (1, 576)


def test_frames_of_one_recording_are_not_batched():
    """Dimension 0 of the sequence export is time: several sequences never share a call."""
    runtime = loaded("silero", "silero_vad_16k_sequence.onnx")

    assert not runtime.signature.batching
    assert runtime.signature.inputs[0].shape == (-1, 576)
    assert {name: output for name, (output, _, _) in states(runtime).items()} == {
        "h": "hn",
        "c": "cn",
    }


@pytest.mark.parametrize(
    ("file", "source", "target"),
    [
        ("model_1.onnx", "input_3", "tf_op_layer_stack_2"),
        ("model_2.onnx", "input_5", "tf_op_layer_stack_5"),
    ],
)
def test_dtln_is_paired_by_how_its_state_is_packed(file, source, target):
    """Names say nothing here; the input is cut as the output is put together."""
    runtime = loaded("dtln", file)

    assert states(runtime) == {source: (target, (1, 2, 128, 2), 0)}
    assert "pieces" in runtime.findings.why[source]
    assert runtime.findings.made_dynamic
    assert runtime.signature.batching


def test_gtcrn_is_served_one_by_one_with_the_right_axes():
    """Its batch of 1 is in dozens of constants; the file is used as it is."""
    runtime = loaded("gtcrn", "gtcrn_simple.onnx")

    assert states(runtime) == {
        "conv_cache": ("conv_cache_out", (2, 1, 16, 16, 33), 1),
        "tra_cache": ("tra_cache_out", (2, 3, 1, 1, 16), 3),
        "inter_cache": ("inter_cache_out", (2, 1, 33, 16), 1),
    }
    assert not runtime.signature.batching
    assert "the file fixes the batch at 1" in runtime.signature.why


def test_dynamic_quantisation_is_caught():
    """VoiceFilter scales over the whole batch: rows influence one another."""
    runtime = loaded("voicefilter", "voicefilter_lite.int8.onnx")

    assert states(runtime) == {"h0": ("hN", (3, 1, 512), 1), "c0": ("cN", (3, 1, 512), 1)}
    assert not runtime.signature.batching
    assert "influence one another" in runtime.signature.why
    assert runtime.findings.verdict.max_difference > 1e-3


def test_a_merged_decoder_is_understood_by_its_conventions():
    """Growing caches, constant caches that come back empty, and the cache switch."""
    runtime = loaded("moonshine", "decoder_model_merged.ort")

    rules = {state.input: state.rule for state in runtime.signature.states}
    control = next(spec for spec in runtime.signature.inputs if spec.control is not None)
    assert len(rules) == 32
    assert rules["past_key_values.7.decoder.key"] is UpdateRule.REPLACE
    assert rules["past_key_values.0.encoder.value"] is UpdateRule.KEEP_IF_EMPTY
    assert all(state.shape == (1, 8, -1, 52) for state in runtime.signature.states)
    assert (control.name, control.shape, control.control_values) == (
        "use_cache_branch",
        (1,),
        (False, True),
    )
    assert runtime.signature.batching


# -- legato inspect -------------------------------------------------------------------------


def inspect(*arguments):
    result = CliRunner().invoke(build(["inspect"]), ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_inspect_shows_states_axes_reasons_and_cost(monkeypatch):
    """The table holds what a person needs to judge the pairing."""
    monkeypatch.setenv("COLUMNS", "140")
    shown = inspect(asset("flashvad", "flashvad-stream.onnx"))

    rows = [line.split() for line in shown.splitlines()]
    pair = next(row for row in rows if row[:1] == ["recurrent"])
    assert pair[:8] == [
        "recurrent",
        "next_recurrent",
        "float32",
        "[1,",
        "N,",
        "64]",
        "1",
        "replace",
    ]
    assert "names differ only by 'next'" in shown
    assert "7,936 bytes" in shown
    assert "yes, sequences share calls" in shown
    assert [row[0] for row in rows if row[:1] in (["1"], ["8"], ["32"])] == ["1", "8", "32"]


def test_inspect_says_why_a_model_runs_alone():
    """The verdict is no, and the reason names the tensor; no batch sizes are timed."""
    facts = json.loads(inspect("--json", asset("voicefilter", "voicefilter_lite.int8.onnx")))

    assert facts["batching"]["shared"] is False
    assert "influence" in facts["batching"]["why"]
    assert [cost["batch"] for cost in facts["cost"]] == [1]
    assert facts["cost"][0]["step_us"] > 0


def test_the_printed_config_loads_to_the_same_signature(tmp_path):
    """``--yaml`` gives a model.yaml with which nothing is guessed again."""
    file = asset("silero", "silero_vad.onnx")
    values = yaml.safe_load(inspect("--yaml", file))
    found = load(ModelConfig(name="silero_vad", file=file, folder=file.parent)).signature

    told = load(ModelConfig.model_validate({**values, "file": file, "folder": tmp_path})).signature

    assert values["discover"] is False
    assert (told.inputs, told.outputs, told.states) == (found.inputs, found.outputs, found.states)


# -- with a config ----------------------------------------------------------------------------


def test_a_window_is_added_to_what_is_discovered():
    """Clients send 512 samples, the server keeps 64; the recurrent state is still found."""
    window = {"name": "context", "input": "input", "rule": "window", "axis": 1, "size": 64}
    runtime = loaded(
        "silero", "silero_vad.onnx", states=[window], inputs={"input": {"shape": [1, 512]}}
    )

    context = next(state for state in runtime.signature.states if state.name == "context")
    assert runtime.signature.inputs[0].shape == (1, 512)
    assert (context.shape, context.batch_axis) == ((1, 64), 0)
    assert {state.name for state in runtime.signature.states} == {"state", "context"}
