"""Loading a Python model: what is refused, and how clearly."""

import sys
import textwrap

import pytest

from legato.core.errors import ConfigError
from legato.core.types import EndReason
from legato.repository.config import InputConfig, ModelConfig
from legato.runtimes.python import load

COUNTER = """
    from legato.model import Batch, Input, Model, Output, Result, State

    class Counter(Model):
        inputs = (Input("x", "float32", (1, 1)),)
        outputs = (Output("count", "int64", (1, 1)),)
        states = (State("count", "int64", (1, 1)),)

        def step(self, batch: Batch) -> Result:
            count = batch.state["count"] + 1
            return Result({"count": count}, {"count": count})
    """


def config(folder, source=COUNTER, entry="model.py:Counter", **fields):
    (folder / "model.py").write_text(textwrap.dedent(source))
    return ModelConfig(name="m", runtime="python", entry=entry, folder=folder, **fields)


def refusal(model_config):
    with pytest.raises(ConfigError) as caught:
        load(model_config)
    return caught.value


def test_declared_tensors_become_the_signature(tmp_path):
    """Names, dtypes, shapes and axes arrive as declared."""
    runtime = load(config(tmp_path))

    signature = runtime.signature
    assert [(i.name, i.dtype, i.shape, i.batch_axis) for i in signature.inputs] == [
        ("x", "float32", (1, 1), 0)
    ]
    assert [(o.name, o.dtype) for o in signature.outputs] == [("count", "int64")]
    assert [(s.name, s.input, s.output) for s in signature.states] == [("count",) * 3]
    assert signature.batching
    assert signature.platform == "python"


def test_batching_off_in_the_config_is_obeyed_and_said(tmp_path):
    """model.yaml can turn batching off."""
    signature = load(config(tmp_path, batching="off")).signature

    assert not signature.batching
    assert signature.why == "batching is off in model.yaml"


@pytest.mark.parametrize(
    ("entry", "problem", "fix"),
    [
        (None, "needs the file and class", "entry: model.py:Counter"),
        ("model.py", "is not of the form", "entry: model.py:Counter"),
        ("other.py:Counter", "there is no file", "one of 'model.py'"),
        ("model.py:Cuonter", "has no class 'Cuonter'", "one of 'Counter'"),
        ("model.py:Batch", "is not a Model", "class Batch(Model)"),
    ],
)
def test_wrong_entry_names_key_and_fix(tmp_path, entry, problem, fix):
    """Every way to get ``entry`` wrong says what would be right."""
    error = refusal(config(tmp_path, entry=entry))

    assert problem in error.problem
    assert fix in error.fix
    assert str(tmp_path) in error.file


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("import os\n\nx = 1 / 0\nclass Counter: pass", "model.py, line 3: x = 1 / 0"),
        ("class Counter:\n    def step(self:\n        pass", "model.py, line 2"),
    ],
)
def test_file_that_does_not_import_shows_the_users_line(tmp_path, source, line):
    """An exception or a syntax error names file and line."""
    error = refusal(config(tmp_path, source))

    assert line in error.problem
    assert error.file == str(tmp_path / "model.py")


def test_absolute_import_of_a_sibling_is_told_the_relative_form(tmp_path):
    """Files of the folder are imported relatively, and the message says so."""
    (tmp_path / "dsp.py").write_text("RATE = 16000\n")

    error = refusal(config(tmp_path, "from dsp import RATE"))

    assert "from .dsp import" in error.fix


def test_two_models_may_have_siblings_of_one_name(tmp_path):
    """Each folder is a package of its own."""
    runtimes = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "dsp.py").write_text(f"SHAPE = (1, {len(runtimes) + 1})\n")
        source = COUNTER.replace("class", "from .dsp import SHAPE\n\n    class", 1)
        runtimes.append(load(config(folder, source.replace("(1, 1)),)", "SHAPE),)", 1))))

    assert [r.signature.inputs[0].shape for r in runtimes] == [(1, 1), (1, 2)]


def test_unloading_forgets_the_modules(tmp_path):
    """A model loaded again is read from its files again."""
    before = set(sys.modules)
    runtime = load(config(tmp_path))

    runtime.close()

    assert set(sys.modules) - before <= {"legato.model"}


def test_class_without_step_is_refused(tmp_path):
    """The missing method is named, and its form given."""
    error = refusal(config(tmp_path, COUNTER.replace("def step(", "def stepp(")))

    assert error.key == "Counter.step"
    assert "def step(self, ...) -> Result" in error.fix


def test_step_row_on_a_batch_model_is_told_the_other_base(tmp_path):
    """Mixing up the two forms is recognised."""
    error = refusal(config(tmp_path, COUNTER.replace("def step(", "def step_row(")))

    assert error.fix == "derive Counter from RowModel"


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('"float32", (1, 1)', '"float23", (1, 1)', "inputs", "dtype 'float23'"),
        ('"float32", (1, 1)', '"float32", (2, 1)', "inputs", "batch axis 0"),
        ('"float32", (1, 1)', '"float32", (1, 1.5)', "inputs", "shape (1, 1.5)"),
        ('"float32", (1, 1)', '"float32", (1, 1), batch_axis=2', "inputs", "has 2 axes"),
        ('"float32", (1, 1)', '"float32", (1, 1), default="a"', "inputs", "cannot be read"),
        ('(Input("x", "float32", (1, 1)),)', '("x",)', "inputs", "is not of type Input"),
        ('(Input("x", "float32", (1, 1)),)', '"x"', "inputs", "is not a list"),
        ('(Output("count", "int64", (1, 1)),)', "()", "outputs", "give something back"),
        ('State("count", "int64", (1, 1))', 'State("count", object, (1, 1))', "states", "dtype"),
        (
            'State("count", "int64", (1, 1))',
            'State("count", "int64", (1, 1), initial=[[1, 2]])',
            "states",
            "has the shape (1, 2), declared is (1, 1)",
        ),
        (
            '(State("count", "int64", (1, 1)),)',
            '(State("c", "int64", (1, 1)), State("c", "int64", (1, 1)))',
            "states",
            "declared twice",
        ),
    ],
)
def test_wrong_declaration_names_the_attribute(tmp_path, old, new, key, words):
    """The message holds the attribute and what is wrong with it."""
    assert old in COUNTER

    error = refusal(config(tmp_path, COUNTER.replace(old, new)))

    assert error.key == f"Counter.{key}"
    assert words in error.problem
    assert error.fix


def test_tensors_in_the_config_are_refused(tmp_path):
    """There is one place to declare tensors, and it is the class."""
    error = refusal(config(tmp_path, inputs={"x": InputConfig(dtype="float32")}))

    assert error.key == "inputs"
    assert "declared in its class" in error.problem


def test_options_folder_and_threads_reach_load(tmp_path):
    """``load`` sees the options of model.yaml and where the model lies."""
    source = (
        COUNTER
        + """
        def load(self, options):
            weights = (self.folder / options["weights"]).read_text()
            self.states = (State("count", "int64", (1, 1), initial=int(weights) + self.threads),)
    """
    )
    (tmp_path / "w.txt").write_text("40")

    runtime = load(config(tmp_path, source, options={"weights": "w.txt"}, threads=2))

    assert runtime.signature.states[0].initial.tolist() == [[42]]


def test_failing_load_shows_the_users_line(tmp_path):
    """An exception in ``load`` names the line it came from."""
    source = COUNTER + '\n        def load(self, options):\n            options["weights"]\n'

    error = refusal(config(tmp_path, source))

    assert error.key == "Counter.load"
    assert "KeyError: 'weights'" in error.problem
    assert 'options["weights"]' in error.problem


def test_end_of_a_sequence_reaches_the_model(tmp_path):
    """The hook gets id and reason."""
    source = (
        COUNTER
        + """
        def sequence_ended(self, correlation_id, reason):
            (self.folder / "ends").write_text(f"{correlation_id} {reason.value}")
    """
    )
    runtime = load(config(tmp_path, source))

    runtime.sequence_ended("a", EndReason.EXPIRED)

    assert (tmp_path / "ends").read_text() == "a expired"


def test_rows_that_influence_one_another_are_served_one_by_one(tmp_path):
    """A mean over the batch is found out at load, with the tensor named."""
    source = COUNTER.replace('batch.state["count"] + 1', 'batch.state["count"] + len(batch)')

    signature = load(config(tmp_path, source)).signature

    assert not signature.batching
    assert "rows of a batch influence one another: 'count'" in signature.why


def test_forced_batching_believes_the_class(tmp_path):
    """Nothing is tried where the config is sure."""
    source = COUNTER.replace('batch.state["count"] + 1', 'batch.state["count"] + len(batch)')

    assert load(config(tmp_path, source, batching="force")).signature.batching
    assert load(config(tmp_path, source, gate=False)).signature.batching


def test_model_that_refuses_made_up_rows_keeps_its_word(tmp_path):
    """A refusal says nothing about batching; why it was not checked is told."""
    source = COUNTER.replace(
        "count = batch", 'raise ValueError("too quiet")\n            count = batch'
    )

    signature = load(config(tmp_path, source)).signature

    assert signature.batching
    assert "not checked, it refused: too quiet" in signature.why


def test_trial_runs_do_not_reach_the_hooks(tmp_path):
    """Made-up sequences are nobody's business."""
    source = (
        COUNTER
        + """
        def sequence_started(self, correlation_id):
            (self.folder / "started").write_text("x")
    """
    )

    load(config(tmp_path, source))

    assert not (tmp_path / "started").exists()
