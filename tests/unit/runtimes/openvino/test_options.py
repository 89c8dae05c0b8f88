"""Options of OpenVINO models: every spelling that Model Server takes, and clear refusals."""

import pytest

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig
from legato.runtimes.openvino.options import Layout, read_options


def options(**given):
    return read_options(ModelConfig(name="m", runtime="openvino", file="m.xml", options=given))


def test_nothing_said_is_f32_on_the_cpu_with_one_stream():
    """The defaults are exact, and leave cores to others."""
    found = options()

    assert found.target_device == "CPU"
    assert not found.low_latency
    assert found.properties(threads=2) == {
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_NUM_THREADS": 2,
        "NUM_STREAMS": 1,
    }


def test_the_users_properties_hold_over_ours():
    """``plugin_config`` is passed on as it is."""
    found = options(
        plugin_config={"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": "4", "LOG_LEVEL": 1}
    )

    properties = found.properties(threads=0)

    assert properties["INFERENCE_PRECISION_HINT"] == "bf16"
    assert properties["NUM_STREAMS"] == "4"
    assert properties["LOG_LEVEL"] == 1
    assert "INFERENCE_NUM_THREADS" not in properties


def test_a_performance_hint_decides_the_streams():
    """Streams are not fixed beside a hint that is to choose them."""
    assert "NUM_STREAMS" not in options(plugin_config={"PERFORMANCE_HINT": "LATENCY"}).properties(1)


def test_other_devices_get_no_properties_of_the_cpu():
    """A GPU would refuse them."""
    assert options(target_device="GPU").properties(threads=2) == {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(None, 1e-4), ("f32", 1e-4), ("bf16", 2e-2), ("f16", 2e-2)]
)
def test_the_tolerance_goes_with_the_precision(precision, tolerance):
    """What a precision explains is no influence between rows."""
    hint = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}

    assert options(plugin_config=hint).tolerance == tolerance


@pytest.mark.parametrize(
    ("written", "shapes"),
    [
        ("(1,3,-1)", {"": (1, 3, -1)}),
        ("1, 3", {"": (1, 3)}),
        ("[1,1:8]", {"": (1, (1, 8))}),
        ([1, 40], {"": (1, 40)}),
        ("auto", {"": None}),
        ({"x": "(1,3)", "y": "AUTO"}, {"x": (1, 3), "y": None}),
    ],
)
def test_shapes_are_read_in_every_spelling(written, shapes):
    """Text as in Model Server, or lists as in YAML; one for the only input, or one a name."""
    assert options(shape=written).shapes == shapes


@pytest.mark.parametrize(
    ("written", "size"), [(0, 0), (4, 4), ("4", 4), ("-1", -1), ("auto", -1), ("1:8", (1, 8))]
)
def test_batch_sizes_are_read_in_every_spelling(written, size):
    """A number, a number as text, a range, or auto."""
    assert options(batch_size=written).batch_size == size


def test_a_shape_wins_over_a_batch_size():
    """As in Model Server."""
    assert options(shape="(2,3)", batch_size=4).batch_size == 0


@pytest.mark.parametrize(
    ("written", "layouts"),
    [
        ("NCHW", {"": Layout("NCHW", "NCHW")}),
        ("nhwc:nchw", {"": Layout("NHWC", "NCHW")}),
        ({"x": "N..."}, {"x": Layout("N...", "N...")}),
    ],
)
def test_layouts_are_read_in_every_spelling(written, layouts):
    """As clients send it, and after a colon as the model has it."""
    assert options(layout=written).layouts == layouts


def test_names_are_mapped():
    """The content of Model Server's ``mapping_config.json``."""
    found = options(mapping={"inputs": {"Parameter": "frames"}, "outputs": {"Result": "scores"}})

    assert found.renamed_inputs == {"Parameter": "frames"}
    assert found.renamed_outputs == {"Result": "scores"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("low_latency_transformation", "yes"),
        ("stateful", 1),
        ("plugin_config", "x"),
        ("plugin_config", {"A": [1]}),
        ("target_device", ""),
        ("nireq", -1),
        ("nireq", 100_001),
        ("nireq", True),
        ("shape", 5),
        ("shape", "(1,x)"),
        ("shape", "(1,-2)"),
        ("shape", [True]),
        ("shape", {"x": "8:1"}),
        ("batch_size", "many"),
        ("batch_size", -3),
        ("layout", "N-C"),
        ("layout", 3),
        ("mapping", []),
        ("mapping", {"sides": {}}),
        ("mapping", {"inputs": {"a": 1}}),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key, value):
    """The message names the key; nothing is guessed."""
    with pytest.raises(ConfigError, match=rf"m\.xml: options\.{key}"):
        options(**{key: value})


def test_a_misspelt_key_is_refused_with_the_near_one():
    """Silently ignored options are the hardest to find."""
    with pytest.raises(ConfigError, match="did you mean 'low_latency_transformation'"):
        options(low_latency_transform=True)
