"""config.pbtxt as a ModelConfig: what is refused, what is filled in, what it means here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.models import triton_models as models

from legato.core.errors import ConfigError
from legato.repository.triton import Options, TritonRepository
from legato.repository.wanted import RepositoryError

if TYPE_CHECKING:
    from pathlib import Path

    from legato.repository.config import ModelConfig
    from legato.repository.wanted import WantedModel

INPUT = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]\n'
OUTPUT = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] } ]\n'
HEAD = 'backend: "onnxruntime"\nmax_batch_size: 8\n' + INPUT + OUTPUT


def put(repository: Path, config: str, name: str = "m", file: str = "model.onnx") -> Path:
    """Write a model whose file is never looked into."""
    folder = repository / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(b"")
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def read(repository: Path, name: str = "m", **options: object) -> WantedModel:
    """Read one model, which must be right."""
    wanted = TritonRepository(Options(repositories=(repository,), **options)).read()
    assert not wanted.problems
    assert not wanted.models[name].problems
    return wanted.models[name]


def config_of(tmp_path: Path, config: str, file: str = "model.onnx") -> ModelConfig:
    """Return what a config becomes."""
    put(tmp_path, config, file=file)
    return read(tmp_path).versions["1"]


def problem_of(tmp_path: Path, config: str, **options: object) -> str:
    """Return why a config is refused."""
    put(tmp_path, config)
    wanted = TritonRepository(Options(repositories=(tmp_path,), **options)).read()
    found = {**wanted.problems}
    for model in wanted.models.values():
        found.update(model.problems)
    (text,) = found.values()
    return text


# -- what is refused ------------------------------------------------------------------------------


def sequence(body: str, sizes: str = "") -> str:
    """Write a config with sequence batching."""
    return HEAD + f"sequence_batching {{ {body} }}\n{sizes}"


def control(body: str) -> str:
    """Write a config with control inputs."""
    entries = body if body.startswith("{") else f"{{ {body} }}"
    return sequence(f"control_input [ {entries} ]")


START = 'name: "S" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ]'
STATE = 'input_name: "h" output_name: "h_out" data_type: TYPE_FP32 dims: [ 2, -1 ]'
FIRST = 'name: "i" data_type: TYPE_FP32 dims: [ 2, 5 ] zero_data: true'


def state(*initial: str) -> str:
    """Write a config with one state."""
    entries = ", ".join(f"{{ {each} }}" for each in initial)
    return sequence(f"state [ {{ {STATE} initial_state [ {entries} ] }} ]")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("max_batch: 3", "has no field named"),
        ('name: "other"', "unexpected directory name 'm' for model 'other'"),
        ("max_batch_size: -1", "'max_batch_size' must be non-negative value"),
        ('backend: "tensorrt"', "unable to find backend library for backend 'tensorrt'"),
        ('platform: "ensemble"', "ensembles are not served here"),
        ('input [ { name: "x" dims: [ 1 ] } ]', "must specify 'data_type'"),
        ('input [ { name: "x" data_type: TYPE_FP32 } ]', "must specify 'dims'"),
        (
            'input [ { name: "x" data_type: TYPE_FP32 dims: [ 0 ] } ]',
            "dimension must be integer >= 1, or -1",
        ),
        (
            'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 5 ] } } ]',
            "different size for dims and reshape",
        ),
        (control(START.replace('"S"', '""')), "control tensor must have a name"),
        (control(f"{{ {START} }}, {{ {START} }}"), "for multiple control kinds"),
        (
            control(f"{{ {START} }}, {{ {START.replace('S', 'T', 1)} }}"),
            "multiple CONTROL_SEQUENCE_START tensors",
        ),
        (
            control(START.replace("int32_false_true: [ 0, 1 ]", "")),
            "must specify one of 'int32_false_true'",
        ),
        (
            control(START.replace("[ 0, 1 ]", "[ 0, 1 ] bool_false_true: [ false, true ]")),
            "more than one of",
        ),
        (control(START.replace("[ 0, 1 ]", "[ 0, 1, 2 ]")), "must have exactly 2 entries"),
        (control(START.replace("START", "CORRID")), "must not specify 'int32_false_true'"),
        (
            control('name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32 } ]'),
            "unexpected data type for control CONTROL_SEQUENCE_CORRID",
        ),
        (
            sequence("oldest { preferred_batch_size: [ 0 ] }"),
            "sequence batching preferred batch size must be positive for m",
        ),
        (
            sequence("oldest { preferred_batch_size: [ 9 ] }"),
            "sequence batching preferred batch size must be <= max batch size for m",
        ),
        (
            sequence("direct { minimum_slot_utilization: 1.5 }"),
            "minimum slot utilization must be in range",
        ),
        (sequence("", "response_cache { enable: true }"), "Response caching"),
        (
            state(FIRST, FIRST),
            "must contain exactly one or zero element",
        ),
        (
            state(FIRST[10:]),
            "must have a 'name'",
        ),
        (
            state(FIRST.replace("FP32", "FP16")),
            "another data type",
        ),
        (
            state(FIRST.replace("5", "-1")),
            "dims >= 1",
        ),
        (
            state(FIRST.replace("2, 5", "3, 5")),
            "has dims [3, 5]",
        ),
        (
            HEAD + "dynamic_batching { priority_levels: 2 }",
            "default priority level must be in range",
        ),
        (
            'parameters { key: "legato.name" value { string_value: "x" } }',
            "is said by Triton's own fields",
        ),
        (
            'parameters { key: "legato.sequences.max_back" value { string_value: "1" } }',
            "sequences.max_back",
        ),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused(tmp_path: Path, config: str, told: str) -> None:
    """In Triton's words where they are known, and with the file."""
    text = problem_of(tmp_path, config)

    assert told in text
    assert "config.pbtxt" in text


def test_a_model_without_a_file_or_a_version_is_refused(tmp_path: Path) -> None:
    """Each names what is missing."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "fileless" / "1").mkdir(parents=True)
    (tmp_path / "fileless" / "config.pbtxt").write_text('backend: "onnxruntime"')

    wanted = TritonRepository(Options(repositories=(tmp_path,))).read()

    assert "at least one version must be available" in wanted.problems["empty"]
    assert "failed to stat file" in wanted.models["fileless"].problems["1"]


def test_a_repository_that_is_missing_is_an_error(tmp_path: Path) -> None:
    """Nothing follows from it."""
    with pytest.raises(RepositoryError, match="failed to stat file"):
        TritonRepository(Options(repositories=(tmp_path / "none",))).read()


# -- what is filled in ----------------------------------------------------------------------------


def test_missing_fields_are_completed(tmp_path: Path) -> None:
    """As Triton does, for clients to see."""
    origin = config_of(tmp_path, sequence("oldest { }")).origin

    assert origin["name"] == "m"
    assert origin["platform"] == "onnxruntime_onnx"
    assert origin["default_model_filename"] == "model.onnx"
    assert origin["version_policy"] == {"latest": {"num_versions": 1}}
    assert origin["instance_group"][0]["name"] == "m_0"
    assert origin["instance_group"][0]["count"] == 1
    assert origin["sequence_batching"]["max_sequence_idle_microseconds"] == 1_000_000
    assert origin["sequence_batching"]["oldest"]["preferred_batch_size"] == [8]


@pytest.mark.parametrize(
    ("file", "backend", "runtime"),
    [
        ("model.onnx", "onnxruntime", "onnx"),
        ("model.xml", "openvino", "openvino"),
        ("model.pt", "pytorch", "torch"),
    ],
)
def test_the_file_tells_the_backend(tmp_path: Path, file: str, backend: str, runtime: str) -> None:
    """Where the config does not."""
    config = config_of(tmp_path, "", file)

    assert (config.origin["backend"], config.runtime) == (backend, runtime)


def test_nothing_is_completed_where_that_is_off(tmp_path: Path) -> None:
    """Inputs and outputs must be there."""
    problem = problem_of(tmp_path, 'backend: "onnxruntime"\n' + INPUT, auto_complete=False)

    assert "must specify 'input' and 'output' for m" in problem


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { all { } }", ["1", "2", "10"]),
        ("version_policy { specific { versions: [ 1, 7 ] } }", ["1"]),
    ],
)
def test_a_policy_picks_the_versions(tmp_path: Path, policy: str, served: list[str]) -> None:
    """Numbers count, not text; folders with other names, or a leading zero, do not."""
    for version in ("1", "2", "10", "03", "backup"):
        models.write(tmp_path, "m", models.crossed())
        (tmp_path / "m" / version).mkdir(exist_ok=True)
        (tmp_path / "m" / version / "model.onnx").write_bytes(b"")
    (tmp_path / "m" / "config.pbtxt").write_text(policy)

    model = read(tmp_path)

    assert list(model.versions) == served
    assert sorted([*model.versions, *model.others], key=int) == ["1", "2", "10"]


# -- what it means --------------------------------------------------------------------------------


def test_tensors_have_a_batch_axis_where_there_is_a_batch_size(tmp_path: Path) -> None:
    """And are whole shapes where there is none."""
    batched = config_of(tmp_path / "a", HEAD)
    whole = config_of(tmp_path / "b", HEAD.replace("max_batch_size: 8", ""))

    assert (batched.inputs["x"].shape, batched.inputs["x"].batch_axis) == ([1, 3], 0)
    assert (whole.inputs["x"].shape, whole.inputs["x"].batch_axis) == ([3], None)
    assert batched.inputs["x"].from_client


@pytest.mark.parametrize(
    ("body", "delay_ms", "sizes", "live"),
    [
        ("", 0, [], 0),
        ("direct { max_queue_delay_microseconds: 500 }", 0, [], 0),
        (
            "direct { max_queue_delay_microseconds: 500 minimum_slot_utilization: 0.7 }",
            0.5, [6, 7, 8], 0,
        ),
        (
            (
                "oldest { max_candidate_sequences: 6 preferred_batch_size: [ 2, 4 ] "
                "max_queue_delay_microseconds: 100 }"
            ),
            0.1, [2, 4], 12,
        ),
    ],
)  # fmt: skip
def test_a_strategy_says_how_long_a_batch_waits(
    tmp_path: Path, body: str, delay_ms: float, sizes: list[int], live: int
) -> None:
    """Direct's two options only act together; the limit on sequences is that of all instances."""
    config = config_of(tmp_path, sequence(body, "instance_group [ { count: 2 } ]"))

    assert config.max_queue_delay_ms == delay_ms
    assert config.preferred_batch_sizes == sizes
    assert config.sequences.max_live == live
    assert config.sequenced
    assert config.wait_for == "live"


def test_controls_are_inputs_that_the_server_makes(tmp_path: Path) -> None:
    """With the values and the dtype that the config gives."""
    config = config_of(
        tmp_path,
        control(
            '{ name: "S" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 1, -1 ] } ] },'
            '{ name: "C" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] }'
        ),
    )

    start, corrid = config.inputs["S"], config.inputs["C"]
    assert (start.control, start.dtype, start.control_values) == ("start", "float32", [1, -1])
    assert (corrid.control, corrid.dtype, corrid.shape) == ("correlation_id", "object", [1, 1])


def test_states_keep_their_order_whatever_the_config_has(tmp_path: Path) -> None:
    """What is stored of a sequence has it, too."""
    a, b = STATE, STATE.replace('"h', '"a')
    one = config_of(tmp_path / "a", sequence(f"state [ {{ {a} }}, {{ {b} }} ]"))
    two = config_of(tmp_path / "b", sequence(f"state [ {{ {b} }}, {{ {a} }} ]"))

    assert one.states == two.states
    assert one.states is not None
    assert [(s.input, s.output) for s in one.states] == [("a", "a_out"), ("h", "h_out")]


def test_a_first_value_has_the_dims_of_its_own(tmp_path: Path) -> None:
    """Without one, a size that varies begins as 1."""
    first = FIRST.replace("zero_data: true", 'data_file: "f"')
    config = config_of(
        tmp_path,
        sequence(
            f"state [ {{ {STATE} initial_state {{ {first} }} }}, "
            f"{{ {STATE.replace(chr(34) + 'h', chr(34) + 'a')} }} ]"
        ),
    )

    assert config.states is not None
    plain, given = config.states
    assert (plain.shape, plain.first_shape, plain.initial) == ([1, 2, -1], [1, 2, 1], None)
    assert given.first_shape == [1, 2, 5]
    assert given.initial == str(tmp_path / "m" / "initial_state" / "f")


def test_dynamic_batching_sets_queues(tmp_path: Path) -> None:
    """Delays, sizes, order, priorities, and limits of waiting."""
    config = config_of(
        tmp_path,
        HEAD
        + """dynamic_batching {
          preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 250 preserve_ordering: true
          priority_levels: 3 default_priority_level: 2
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 2000
            allow_timeout_override: true max_queue_size: 5 }
          priority_queue_policy { key: 3 value { max_queue_size: 1 } }
        }""",
    )

    assert config.queue is not None
    assert (config.max_queue_delay_ms, config.preferred_batch_sizes) == (0.25, [4])
    assert config.preserve_order
    assert (config.queue.levels, config.queue.default_level) == (3, 2)
    assert config.queue.default.on_timeout == "delay"
    assert config.queue.default.timeout_s == 0.002
    assert config.queue.by_level[3].max_size == 1
    assert not config.sequenced


def test_everything_that_tritons_text_knows_is_read(tmp_path: Path) -> None:
    """Also what means nothing here; comments and both ways to write lists."""
    config = config_of(
        tmp_path,
        """
        # a comment
        platform: "onnxruntime_onnx"
        max_batch_size: 8
        """
        + INPUT
        + OUTPUT
        + """
        sequence_batching {
          oldest { }
          state {
            input_name: "h" output_name: "h_out" data_type: TYPE_FP32 dims: 2
            use_same_buffer_for_input_output: true use_growable_memory: false
          }
        }
        instance_group: { count: 1 kind: KIND_CPU
          rate_limiter { resources [ { name: "R" count: 4 } ] priority: 2 } }
        optimization { graph { level: 1 } cuda { graphs: true }
          execution_accelerators { cpu_execution_accelerator : [ { name : "openvino" } ] }
          input_pinned_memory { enable: true } }
        metric_tags { key: "team" value: "speech" }
        cc_model_filenames { key: "7.5" value: "model.onnx" }
        model_transaction_policy { decoupled: false }
        model_metrics { metric_control: [ { metric_identifier { family: "x" }
          histogram_options { buckets: [ 1, 2 ] } } ] }
        """,
    )

    assert config.states is not None
    assert config.states[0].shape == [1, 2]
    assert config.origin["metric_tags"] == {"team": "speech"}
    assert config.origin["optimization"]["graph"]["level"] == 1


def test_files_that_clients_gave_are_deleted(tmp_path: Path) -> None:
    """With the server, or when the model is wanted no more."""
    repository = TritonRepository(Options(repositories=(tmp_path,), mode="explicit"))
    given = {"1/model.onnx": b""}
    one = repository.ask("one", '{"backend": "onnxruntime"}', given).versions["1"].folder
    two = repository.ask("two", '{"backend": "onnxruntime"}', given).versions["1"].folder
    before = one.is_dir(), two.is_dir()

    repository.forget("one")
    repository.close()

    assert before == (True, True)
    assert not one.exists()
    assert not two.exists()


def test_the_older_name_of_iterative_sequences_is_read(tmp_path: Path) -> None:
    """``generative_sequence`` of 23.11."""
    config = config_of(tmp_path, sequence("generative_sequence: true"))

    assert config.sequences.iterative
    assert config.origin["sequence_batching"]["iterative_sequence"]


def test_our_own_keys_go_by_parameters(tmp_path: Path) -> None:
    """Any key of model.yaml that Triton's fields do not say."""
    config = config_of(
        tmp_path,
        sequence("")
        + 'parameters { key: "legato.sequences.receipts" value { string_value: "4" } }\n'
        + 'parameters { key: "intra_op_thread_count" value { string_value: "3" } }',
    )

    assert config.sequences.receipts == 4
    assert config.sequences.idle_timeout_s == 1.0
    assert config.threads == 3


def test_reshape_and_warm_up_are_read(tmp_path: Path) -> None:
    """The model's own row shape; what the calls at load get."""
    config = config_of(
        tmp_path,
        HEAD.replace(
            "dims: [ 3 ] } ]\noutput", "dims: [ 3 ] reshape { shape: [ 3, 1 ] } } ]\noutput"
        )
        + """model_warmup [ { name: "w" batch_size: 2 count: 3
          inputs { key: "x" value {
            data_type: TYPE_FP32 dims: [ 3 ] input_data_file: "f" } } } ]""",
    )

    (warmup,) = config.warmup
    assert config.inputs["x"].reshape == [1, 3, 1]
    assert (warmup.rows, warmup.calls) == (2, 3)
    assert warmup.inputs["x"].file == tmp_path / "m" / "warmup" / "f"


@pytest.mark.parametrize(
    ("source", "runtime", "entry"),
    [
        ("class TritonPythonModel:\n    pass\n", "triton_python", None),
        ("from legato.model import Model\nclass Sum(Model):\n    pass\n", "python", "model.py:Sum"),
    ],
)
def test_whose_class_it_is_decides_who_runs_it(
    tmp_path: Path, source: str, runtime: str, entry: str | None
) -> None:
    """The source is read, not run."""
    put(tmp_path, 'backend: "python"\nmax_batch_size: 8\n' + INPUT + OUTPUT, file="model.py")
    (tmp_path / "m" / "1" / "model.py").write_text(source + "raise SystemExit\n")
    (tmp_path / "m" / "1" / "helper.py").write_text("")

    config = read(tmp_path).versions["1"]

    assert (config.runtime, config.entry) == (runtime, entry)
    assert [str(path) for path in config.files] == ["helper.py"]


def test_a_python_file_without_a_model_is_refused(tmp_path: Path) -> None:
    """It says what to write."""
    put(tmp_path, 'backend: "python"', file="model.py")

    text = TritonRepository(Options(repositories=(tmp_path,))).read().models["m"].problems["1"]

    assert "has no class 'TritonPythonModel'" in text


# -- what clients ask for -------------------------------------------------------------------------


def test_files_must_stay_in_their_model(tmp_path: Path) -> None:
    """A name that climbs is refused."""
    repository = TritonRepository(Options(repositories=(tmp_path,), mode="explicit"))

    for name in ("../1/model.onnx", "1/../../x", "/1/model.onnx", "model.onnx", "one/model.onnx"):
        with pytest.raises(ConfigError, match="is no name of a model's file"):
            repository.ask("m", "{}", {name: b""})


@pytest.mark.parametrize(
    "config",
    [
        'default_model_filename: "../1/model.onnx"',
        state(FIRST.replace("zero_data: true", 'data_file: "/etc/x"')),
        HEAD
        + """model_warmup [ { name: "w" inputs { key: "x" value {
          data_type: TYPE_FP32 dims: [ 3 ] input_data_file: "../x" } } } ]""",
    ],
)
def test_a_config_names_files_of_its_model_only(tmp_path: Path, config: str) -> None:
    """A client who may give configs may not read the server's files with them."""
    assert "must name a file in" in problem_of(tmp_path, config)


def test_what_was_asked_for_is_remembered_after_a_crash(tmp_path: Path) -> None:
    """And by no server that a person starts anew."""
    put(tmp_path / "models", HEAD)
    put(tmp_path / "models", HEAD, name="other")
    options = Options(repositories=(tmp_path / "models",), mode="explicit", load=("other",))
    notes = tmp_path / "notes.json"
    first = TritonRepository(options, notes=notes)
    first.ask("m", '{"backend": "onnxruntime", "max_batch_size": 3}')
    first.forget("other")

    again = TritonRepository(options, notes=notes, resume=True).read()
    anew = TritonRepository(options, notes=notes).read()

    assert {name: m.versions["1"].max_batch_size for name, m in again.models.items()} == {"m": 3}
    assert list(anew.models) == ["other"]


def test_notes_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    """The command line stands."""
    put(tmp_path / "models", HEAD)
    options = Options(repositories=(tmp_path / "models",), mode="explicit", load=("m",))
    notes = tmp_path / "notes.json"
    notes.write_text("{")

    assert list(TritonRepository(options, notes=notes, resume=True).read().models) == ["m"]


def test_the_stamp_of_a_version_changes_with_its_files(tmp_path: Path) -> None:
    """So that it is loaded again."""
    put(tmp_path, HEAD)
    before = read(tmp_path).stamps["1"]

    (tmp_path / "m" / "1" / "model.onnx").write_bytes(np.zeros(3).tobytes())

    assert read(tmp_path).stamps["1"] != before
