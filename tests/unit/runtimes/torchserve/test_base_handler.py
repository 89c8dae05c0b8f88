"""What handlers import works as they expect it, without torch."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import legato.runtimes.torchserve.path as own_path
from legato.runtimes.torchserve.base_handler import BaseHandler
from legato.runtimes.torchserve.context import Context
from legato.runtimes.torchserve.helpers import CLEANUP_REGEX, import_class
from legato.runtimes.torchserve.memory import check_process_mem_usage, get_cpu_usage
from legato.runtimes.torchserve.metrics import Dimension, Metrics, MetricTypes
from legato.runtimes.torchserve.micro_batching import MicroBatching
from legato.runtimes.torchserve.mock_context import MockContext
from legato.runtimes.torchserve.needs import refuse_the_rest

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
ts.metrics.process_memory_metric:check_process_mem_usage
ts.torch_handler.text_handler:TextHandler ts.torch_handler.text_classifier:TextClassifier
ts.torch_handler.contractions:CONTRACTION_MAP ts.handler_utils.text_utils:ngrams_iterator
ts.torch_handler.request_envelope.base:BaseEnvelope
ts.torch_handler.request_envelope.body:BodyEnvelope
ts.torch_handler.request_envelope.json:JSONEnvelope
ts.torch_handler.request_envelope.kserve:KServeEnvelope
ts.torch_handler.request_envelope.kservev2:KServev2Envelope
ts.torch_handler.unit_tests.test_utils.mock_context:MockContext
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


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ts.torch_handler.vllm_handler", "vLLM's own server"),
        ("ts.torch_handler.distributed.base_pippy_handler", "a worker is one process"),
        ("ts.handler_utils.distributed.deepspeed", "a worker is one process"),
        ("ts.service", "context.metrics"),
        ("ts.model_loader", "docs/torchserve-handlers.md"),
    ],
)
def test_what_is_not_there_says_so(name: str, text: str, monkeypatch) -> None:
    """With what to do instead, where there is something."""
    monkeypatch.syspath_prepend(str(Path(own_path.__file__).parent))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    refuse_the_rest()

    try:
        with pytest.raises(ModuleNotFoundError, match="is not part of Legato") as caught:
            importlib.import_module(name)
    finally:
        for loaded in [one for one in sys.modules if one == "ts" or one.startswith("ts.")]:
            del sys.modules[loaded]

    assert text in str(caught.value)


@pytest.mark.parametrize("name", ["image_classifier", "image_segmenter", "object_detector"])
def test_a_handler_of_images_names_the_package_that_is_missing(name: str, monkeypatch) -> None:
    """And how to get it."""
    monkeypatch.syspath_prepend(str(Path(own_path.__file__).parent))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "legato.runtimes.torchserve.vision", raising=False)

    try:
        with pytest.raises(ModuleNotFoundError, match="pip install torchvision") as caught:
            importlib.import_module(f"ts.torch_handler.{name}")
    finally:
        for loaded in [one for one in sys.modules if one == "ts" or one.startswith("ts.")]:
            del sys.modules[loaded]

    assert caught.value.name == "torchvision"


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


class Doubles(BaseHandler):
    """Three stages, in lists."""

    def preprocess(self, data):
        return [row["data"] for row in data]

    def inference(self, data, *args, **kwargs):
        return [value * 2 for value in data]

    def postprocess(self, data):
        return data


@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batching_stands_for_handle(tmp_path, size: int) -> None:
    """Answers come in the order of the rows, and its time is measured once."""
    handler, ctx = Doubles(), context(tmp_path)
    ctx.begin([str(at) for at in range(5)], [{}] * 5, [None] * 5)
    handler.handle = MicroBatching(handler, size, {"inference": 2})

    answers = handler.handle([{"data": at} for at in range(5)], ctx)
    handler.handle.shutdown()

    assert answers == [0, 2, 4, 6, 8]
    assert handler.handle.parallelism == {"inference": 2}
    assert [metric.name for metric in ctx.metrics.store] == ["HandlerTime"]


def test_micro_batching_tells_a_stage_which_part_it_is_at() -> None:
    """And raises what a stage raises."""
    seen = []

    class Handler(Doubles):
        def inference(self, data, *args, **kwargs):
            seen.append(batches.get_micro_batch_idx())
            return [1 // value for value in data]

    batches = MicroBatching(Handler())

    with pytest.raises(ZeroDivisionError):
        batches.handle([{"data": 1}, {"data": 0}])

    batches.shutdown()
    assert seen == [0, 1]
    assert batches.get_micro_batch_idx() is None
    with pytest.raises(ValueError, match="postprocess"):
        batches.parallelism = {"infer": 2}


def test_classes_are_imported_by_name() -> None:
    """As TorchServe does: the module before the class, or by itself."""
    assert import_class("pathlib.Path") is Path
    assert import_class("Path", "pathlib") is Path
    for name, prefix in (("Path", None), ("", None), ("Nope", "pathlib")):
        with pytest.raises(ImportError):
            import_class(name, prefix)


def test_text_is_rid_of_tags_and_entities() -> None:
    """Both are what a page has and its text has not."""
    assert CLEANUP_REGEX.sub("", "<b>fish</b>&nbsp;&#38;chips") == "fishchips"


def test_memory_of_processes_is_logged(caplog) -> None:
    """One line a process; one that is not there has none."""
    caplog.set_level("INFO", "ts.metrics")

    check_process_mem_usage(io.StringIO(f"{os.getpid()},,0\n"))

    assert get_cpu_usage(os.getpid()) > 1_000_000
    assert caplog.messages[-1] == "0:0"


def test_a_mock_context_is_enough_for_a_handler(tmp_path) -> None:
    """Its folder, its YAML, its metrics."""
    (tmp_path / "c.yaml").write_text("handler: {profile: true}\n")
    mock = MockContext(None, str(tmp_path), None, None, "mine", "c.yaml")
    handler = Doubles()

    handler.initialize(mock)

    assert handler.initialized
    assert handler.handle([{"data": 4}], mock) == [8]
    assert mock.model_yaml_config == {"handler": {"profile": True}}
    assert [one.name for one in mock.metrics.store] == ["HandlerTime"]
    assert MockContext("m.pt", "d", "n.py").manifest == {
        "model": {"serializedFile": "m.pt", "modelFile": "n.py"}
    }


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ("inductor", {"backend": "inductor"}),
        ({"mode": "reduce-overhead"}, {"mode": "reduce-overhead"}),
        ({"compile": {"enable": True, "backend": "eager"}}, {"backend": "eager"}),
        ({"compile": {"enable": False, "backend": "eager"}}, None),
        ({"export": {"aot_compile": True}}, None),
        ("nonesuch", None),
        (None, None),
    ],
)
def test_a_model_is_compiled_as_its_yaml_says(tmp_path, monkeypatch, asked, options) -> None:
    """By ``torch.compile``, with what the section holds."""
    compiled = []
    torch = SimpleNamespace(
        compile=lambda model, **told: compiled.append(told) or model,
        cuda=SimpleNamespace(is_available=lambda: False),
        device=str,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    model = SimpleNamespace(to=lambda _device: None, eval=lambda: None)
    monkeypatch.setattr(BaseHandler, "_load_pickled_model", lambda *_arguments: model)
    ctx = context(tmp_path, modelFile="net.py")
    ctx.model_yaml_config = {} if asked is None else {"pt2": asked}

    BaseHandler().initialize(ctx)

    assert compiled == ([] if options is None else [options])


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
