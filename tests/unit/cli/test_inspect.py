"""What ``legato inspect`` prints, on tiny models."""

import json

import pytest
import yaml
from rich.console import Console
from tests.models import tiny

from legato.cli.inspect import as_config, as_facts, show
from legato.cli.measure import Cost
from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig
from legato.runtimes.onnx import load


def loaded(model, folder, **more):
    config = ModelConfig(name="tiny", file=tiny.save(model, folder), folder=folder, **more)
    return config, load(config)


def printed(config, runtime, measured=(), width=120):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    with console.file:
        show(console, config, runtime, measured)
    return console.export_text()


def test_a_person_reads_names_shapes_axes_and_the_reason(tmp_path):
    """Rows are shown as N, the state's pair with its reason, the verdict in words."""
    text = printed(*loaded(tiny.lstm(), tmp_path), [Cost(1, 20.0), Cost(8, 40.0)])

    assert "[1, N, 5]" in text
    assert "names differ only by '0' and 'n'" in text
    assert "40 bytes a sequence" in text
    assert "yes, sequences share calls" in text
    assert "5.0" in text
    assert "200,000" in text


def test_a_narrow_terminal_breaks_no_name(tmp_path):
    """Where a table of the states has no room, each state has its own lines."""
    model = tiny.crossed()

    text = printed(*loaded(model, tmp_path), width=60)

    assert "z_slow_state <- new_z_slow_state" in text
    assert "float32 [N, 2], batch axis 0, replace; names" in text
    assert "next value from" not in text
    assert max(map(len, text.splitlines())) <= 60


def test_a_doubt_is_shown_with_what_to_write(tmp_path):
    """What might be state, and is not taken for it, can be added by hand."""
    text = printed(*loaded(tiny.echo(), tmp_path))

    assert "none found for sure" in text
    assert "'x' and 'x_out' may be state" in text
    assert "{input: x, output: x_out}" in text


def test_what_cannot_be_timed_says_so(tmp_path):
    """No figures are made up for a model that refuses made-up rows."""
    text = printed(*loaded(tiny.accumulator(), tmp_path), None)

    assert "not measured" in text


def test_states_of_many_layers_are_folded(tmp_path):
    """Pairs that differ only in numbers take one line with their count."""
    nodes, inputs, outputs = [], [("x", tiny.FLOAT, ["n", 1])], []
    for layer in range(4):
        nodes.append(tiny.node("Add", ["x", f"cache_{layer}"], [f"next_cache_{layer}"]))
        inputs.append((f"cache_{layer}", tiny.FLOAT, ["n", 1]))
        outputs.append((f"next_cache_{layer}", tiny.FLOAT, ["n", 1]))
    text = printed(*loaded(tiny.build(nodes, inputs, outputs), tmp_path))

    assert "cache_* (4 times)" in text
    assert "cache_0" not in text


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (tiny.accumulator(), {}),
        (tiny.lstm(), {"max_batch_size": 16}),
        (tiny.growing(), {}),
        (tiny.scalar_rate(), {}),
        (tiny.mixing(), {}),
        (tiny.fixed(), {}),
        (tiny.windowed(), {"states": [{"input": "x", "rule": "window", "axis": 1, "size": 2}]}),
        (tiny.counter(), {"inputs": {"tick": {"control": "start"}}}),
    ],
)
def test_the_printed_config_finds_nothing_new(tmp_path, model, more):
    """Loaded again, the printed config gives the same signature; only the reason may differ."""
    config, runtime = loaded(model, tmp_path, **more)

    values = yaml.safe_load(as_config(config, runtime))
    again = load(
        ModelConfig.model_validate(
            {**values, "file": tmp_path / values["file"], "folder": tmp_path}
        )
    )

    first, second = runtime.signature, again.signature
    assert (first.inputs, first.outputs, first.states) == (
        second.inputs,
        second.outputs,
        second.states,
    )
    assert first.batching == second.batching
    assert values.get("max_batch_size") == more.get("max_batch_size")


def test_facts_for_programs_are_plain_json(tmp_path):
    """Numbers are numbers, open sizes are -1, and everything survives JSON."""
    config, runtime = loaded(tiny.growing(), tmp_path)

    facts = json.loads(json.dumps(as_facts(config, runtime, [Cost(8, 80.0)])))

    assert facts["states"][0]["shape"] == [1, -1, 2]
    assert facts["states"][0]["why"].startswith("names")
    assert facts["batching"]["shared"] is True
    assert facts["cost"] == [{"batch": 8, "call_us": 80.0, "step_us": 10.0}]


def test_two_formats_at_once_are_refused(tmp_path):
    """``--yaml --json`` is a mistake, not a choice of ours."""
    from legato.cli.inspect import command

    with pytest.raises(ConfigError, match="exclude each other"):
        command(tiny.save(tiny.echo(), tmp_path), as_yaml=True, as_json=True)
