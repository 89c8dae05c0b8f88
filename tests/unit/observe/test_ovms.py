"""Model Server's metrics: its names, labels and bounds, in valid Prometheus text."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from legato.core.errors import UnknownModelError, UnknownSequenceError
from legato.core.types import KSERVE, Reply, Step
from legato.engine.statistics import ModelStatistics
from legato.observe import ovms
from legato.repository.ovms_schema import DEFAULT_METRICS, METRICS

PREDICT = {"api": "TensorFlowServing", "method": "Predict", "name": "m", "version": "1"}


@dataclass
class FakeModel:
    name: str = "m"
    version: str = "1"
    statistics: ModelStatistics = field(default_factory=ModelStatistics)
    instances: tuple[str, ...] = ("one",)


class FakeEngine:
    def __init__(self, *models):
        self.served = models or (FakeModel(),)
        self.submitted = []

    def models(self):
        return self.served

    def model(self, name, version=""):
        for model in self.served:
            if name == model.name and version in ("", model.version):
                return model
        raise UnknownModelError(name, version)

    def submit(self, step):
        self.submitted.append(step)


def page(requests=None, families=METRICS, engine=None):
    """Render, and flatten to (name, labels) -> number."""
    text = ovms.render(engine or FakeEngine(), families, requests or ovms.Requests()).decode()
    assert "_total" not in text, "Model Server's counters have no suffix"
    return {  # the parser gives them one
        (sample.name.removesuffix("_total"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found, metric, **labels):
    return found[metric, frozenset(labels.items())]


def test_requests_are_told_by_interface_and_method():
    """Counters are called as Model Server calls them: without a suffix."""
    requests = ovms.Requests()
    grpc, rest = (requests.of(ovms.TENSORFLOW, kind) for kind in ovms.INTERFACES)
    grpc.count("Predict", "m", "1", ok=True)
    grpc.count("Predict", "m", "1", ok=True)
    rest.count("Predict", "m", "1", ok=False)

    found = page(requests)

    assert of(found, "ovms_requests_success", interface="gRPC", **PREDICT) == 2
    assert of(found, "ovms_requests_success", interface="REST", **PREDICT) == 0
    assert of(found, "ovms_requests_fail", interface="REST", **PREDICT) == 1


def test_a_status_is_asked_of_no_version():
    """So it is counted without one."""
    requests = ovms.Requests()
    requests.of(ovms.TENSORFLOW, "REST").count("GetModelStatus", "m", "1", ok=True)

    labels = {"api": "TensorFlowServing", "interface": "REST", "method": "GetModelStatus"}
    assert of(page(requests), "ovms_requests_success", name="m", **labels) == 1


def test_times_are_in_microseconds_with_model_servers_bounds():
    """33 of them, each 1.8 times the one before."""
    requests = ovms.Requests()
    requests.of(ovms.TENSORFLOW, "gRPC").took("m", "1", 0.000_011)
    labels = {"interface": "gRPC", "name": "m", "version": "1"}

    found = page(requests)

    bounds = {dict(keys)["le"] for name, keys in found if name == "ovms_request_time_us_bucket"}
    assert len(bounds) == 34
    assert {"10", "18", "32", "58", "104", "1474755971", "+Inf"} <= bounds
    assert of(found, "ovms_request_time_us_bucket", le="10", **labels) == 0
    assert of(found, "ovms_request_time_us_bucket", le="18", **labels) == 1
    assert of(found, "ovms_request_time_us_sum", **labels) == pytest.approx(11)


def test_the_rest_is_read_from_what_the_engine_counts():
    """Calls and waiting as histograms, the present as gauges."""
    counts = ModelStatistics(queued=3, running=2)
    counts.compute_s.observe(0.001)
    counts.queue_s.observe(0.002)
    labels = {"name": "m", "version": "1"}

    found = page(engine=FakeEngine(FakeModel(statistics=counts, instances=("one", "two"))))

    told = {
        name: of(found, name, **labels)
        for name in ("ovms_streams", "ovms_current_requests", "ovms_infer_req_queue_size",
                     "ovms_infer_req_active", "ovms_inference_time_us_sum",
                     "ovms_wait_for_infer_req_time_us_sum")
    }  # fmt: skip
    assert list(told.values()) == [2, 5, 2, 2, 1000, 2000]


def test_only_wanted_families_are_told():
    """The two optional ones are not among the usual ones."""
    one = page(families=("ovms_streams",))
    usual = {name for name, _labels in page(families=DEFAULT_METRICS)}

    assert {name for name, _labels in one} == {"ovms_streams"}
    assert not {"ovms_infer_req_active", "ovms_infer_req_queue_size"} & usual


@pytest.mark.parametrize(
    ("model", "outcome", "success", "fail"),
    [
        ("m", Reply((), (), 7, 1, "1"), 1, 0),
        ("m", UnknownSequenceError(7), 0, 1),
        ("nobody", UnknownModelError("nobody"), 0, 0),
    ],
)
def test_steps_of_kserve_are_counted_on_their_way_back(model, outcome, success, fail):
    """The protocol gets its answer all the same; an unknown model has no count."""
    answers, requests, engine = [], ovms.Requests(), FakeEngine()
    step = Step(model, 7, {}, KSERVE, answers.append)

    ovms.counting(engine, requests, "gRPC").submit(step)
    engine.submitted[0].done(outcome)

    labels = {"api": "KServe", "interface": "gRPC", "method": "ModelInfer", "name": "m",
              "version": "1"}  # fmt: skip
    found = page(requests)
    assert answers == [outcome]
    assert of(found, "ovms_requests_success", **labels) == success
    assert of(found, "ovms_requests_fail", **labels) == fail


def test_an_engine_that_nobody_counts_for_is_left_alone():
    """No layer, no cost."""
    engine = SimpleNamespace()

    assert ovms.counting(engine, None, "gRPC") is engine
    assert ovms.tensorflow(None, "gRPC") is None


def test_a_counting_engine_is_the_engine_in_all_else():
    """What is not asked of it goes through."""
    engine = FakeEngine()

    assert ovms.counting(engine, ovms.Requests(), "REST").models() is engine.served
