"""What handlers import works as they expect it, without torch."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import legato.runtimes.torchserve.path as own_path
from legato.runtimes.torchserve.base_handler import BaseHandler
from legato.runtimes.torchserve.context import Context
from legato.runtimes.torchserve.metrics import Dimension, Metrics, MetricTypes

IMPORTS = """
ts.context:Context ts.context:RequestProcessor ts.torch_handler.base_handler:BaseHandler
ts.handler_utils.timer:timed ts.handler_utils.micro_batching:MicroBatching
ts.handler_utils.utils:send_intermediate_predict_response ts.handler_utils.utils:import_class
ts.protocol.otf_message_handler:send_intermediate_predict_response
ts.utils.util:map_class_to_label ts.utils.util:load_label_mapping
ts.utils.util:list_classes_from_module ts.utils.util:check_valid_pt2_backend
ts.utils.util:get_yaml_config ts.utils.util:PredictionException ts.utils.util:CLEANUP_REGEX
ts.utils.util:PT2Backend ts.metrics.dimension:Dimension ts.metrics.metric:Metric
ts.metrics.metric_type_enum:MetricTypes ts.metrics.metrics_store:MetricsStore
ts.version:__version__ ts:__version__
""".split()


def context(folder: Path, **model) -> Context:
    manifest = {"model": model}
    return Context("m", str(folder), manifest, 4, None, "0.12.0", metrics=Metrics(model_name="m"))


@pytest.mark.parametrize("name", IMPORTS)
def test_what_handlers_import_is_there(name: str, monkeypatch) -> None:
    """On the path of workers only."""
    monkeypatch.syspath_prepend(str(Path(own_path.__file__).parent))
    module, _, member = name.partition(":")

    try:
        assert hasattr(importlib.import_module(module), member)
    finally:
        for loaded in [one for one in sys.modules if one == "ts" or one.startswith("ts.")]:
            del sys.modules[loaded]


def test_initialize_without_a_model_file_gets_ready(tmp_path) -> None:
    """Labels are read; there is nothing else to load."""
    (tmp_path / "index_to_name.json").write_text(json.dumps({"0": "cat"}))
    handler = BaseHandler()

    handler.initialize(context(tmp_path))

    assert handler.initialized
    assert handler.mapping == {"0": "cat"}


def test_model_of_unknown_kind_is_refused(tmp_path) -> None:
    """It is named."""
    with pytest.raises(RuntimeError, match=r"weights\.bin"):
        BaseHandler().initialize(context(tmp_path, serializedFile="weights.bin"))


def test_handle_goes_through_the_three_stages(tmp_path) -> None:
    """And notes how long that took."""

    class Handler(BaseHandler):
        def preprocess(self, data):
            return [row["data"] for row in data]

        def inference(self, data, *args, **kwargs):
            return [value + 1 for value in data]

        def postprocess(self, data):
            return data

    ctx = context(tmp_path)

    assert Handler().handle([{"data": 1}, {"data": 2}], ctx) == [2, 3]
    assert [metric.name for metric in ctx.metrics.store] == ["HandlerTime"]


def test_describe_is_asked_by_header(tmp_path) -> None:
    """The first element is what the handler says of itself."""
    ctx = context(tmp_path)
    ctx.begin(["r"], [{"describe": "True"}], [None])

    assert BaseHandler().handle([{}], ctx) == [{}]


def test_context_answers_each_request_by_itself(tmp_path) -> None:
    """By index; HTTP's header names have no case; assigned attributes stay."""
    ctx = context(tmp_path)
    ctx.cache = {"mine": 1}
    ctx.begin(
        ["r0", "r1"], [{"A": "b", "x-own": "c"}, {"ts_request_sequence_id": "s"}], [None, None]
    )

    ctx.set_response_status(404, "No", idx=1)
    ctx.set_response_content_type(0, "text/plain")
    ctx.set_response_header(1, "k", "v")

    assert [ctx.get_request_id(at) for at in (0, 1)] == ["r0", "r1"]
    assert [ctx.get_request_header(0, key) for key in ("A", "X-Own", "x-own")] == ["b", "c", "c"]
    assert ctx.get_request_header(0, "nope") is None
    assert (ctx.get_sequence_id(0), ctx.get_sequence_id(1)) == (None, "s")
    assert [ctx.get_response_status(at) for at in (0, 1)] == [(200, None), (404, "No")]
    assert ctx.get_response_content_type(0) == "text/plain"
    assert ctx.get_response_headers(1) == {"k": "v"}
    ctx.begin(["r2"], [{}], [None])
    assert ctx.get_response_status(0) == (200, None)
    assert ctx.cache == {"mine": 1}


def test_declared_metrics_are_found_again() -> None:
    """By name and kind."""
    metrics = Metrics(model_name="m")
    declared = metrics.add_metric_to_cache("n", "count", ["d"], MetricTypes.GAUGE)

    declared.add_or_update(3, ["x"])

    assert metrics.get_metric("n", MetricTypes.GAUGE) is declared
    assert str(metrics.store[-1]).startswith("n.Count:3|#d:x|#hostname:")
    with pytest.raises(KeyError, match="metrics_config"):
        metrics.get_metric("n")


def test_measured_values_are_taken_once_as_plain_data() -> None:
    """With the labels that all have, the request's id, and numpy's numbers made plain."""
    metrics = Metrics(model_name="m")
    metrics.set_request_ids({0: "r0", 1: "r1"})

    metrics.add_counter("c", np.int64(2), 1)
    metrics.add_time("t", np.float32(0.5), unit="s", dimensions=[Dimension("a", "b")])
    metrics.add_error("e", "text")
    taken = metrics.take()

    usual = [("ModelName", "m"), ("Level", "Model")]
    assert taken == [
        ("counter", "c", "Count", 2, usual, "r1"),
        ("gauge", "t", "Seconds", 0.5, [("a", "b"), *usual], "r0,r1"),
        ("counter", "e", "unit", 1, [("Level", "Error")], "r0,r1"),
    ]
    assert type(taken[0][3]) is int
    assert metrics.take() == []


@pytest.mark.parametrize(
    ("value", "labels"), [(-1, ["x"]), ("many", ["x"]), (1, []), (1, ["x", "y"])]
)
def test_a_value_that_cannot_be_is_dropped(value, labels) -> None:
    """Counters do not go down, values are numbers, labels are as declared."""
    metrics = Metrics(model_name="m")

    metrics.add_metric_to_cache("n", "count", ["d"]).add_or_update(value, labels)

    assert metrics.take() == []


def test_units_of_times_and_sizes_are_checked() -> None:
    """As in TorchServe."""
    metrics = Metrics()

    with pytest.raises(ValueError, match="ms or s"):
        metrics.add_time("t", 1, unit="GB")
    with pytest.raises(ValueError, match="kB"):
        metrics.add_size("t", 1, unit="ms")


def test_metrics_of_the_servers_file_are_declared() -> None:
    """Handlers find them by kind and name."""
    metrics = Metrics()

    metrics.declare([["histogram", "h", "ms", ["d"]]])

    assert metrics.get_metric("h", MetricTypes.HISTOGRAM).dimension_names == ["d"]
