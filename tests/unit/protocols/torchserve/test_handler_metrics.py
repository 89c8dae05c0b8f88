"""What handlers measure, summed up and bounded."""

from __future__ import annotations

import re

import pytest

from legato.protocols.torchserve import handler_metrics as module
from legato.protocols.torchserve.handler_metrics import HandlerMetrics
from legato.protocols.torchserve.metrics import Metrics

LABELS = [("ModelName", "m"), ("Level", "Model")]


def measured(kind: str, name: str, value: float, labels=LABELS, request: str = "r"):
    return (kind, name, "Count", value, labels, request)


def values(metrics: HandlerMetrics) -> dict[str, float]:
    """Samples by name, where there is one series of each."""
    return {
        sample: value
        for _name, _kind, _unit, samples in metrics.families()
        for sample, _labels, value in samples
    }


def test_counters_add_up_and_gauges_are_replaced() -> None:
    """As Prometheus has them."""
    metrics = HandlerMetrics()

    metrics.take([measured("counter", "c", 2), measured("gauge", "g", 2)])
    metrics.take([measured("counter", "c", 3), measured("gauge", "g", 1.5)])

    assert values(metrics) == {"c": 5.0, "g": 1.5}


def test_histograms_are_buckets_with_sum_and_count() -> None:
    """Buckets count what is not above their edge."""
    metrics = HandlerMetrics()

    metrics.take([measured("histogram", "h", value) for value in (0.005, 0.3, 20.0)])
    ((_name, _kind, _unit, samples),) = metrics.families()
    buckets = {dict(labels)["le"]: value for name, labels, value in samples if "bucket" in name}

    assert [buckets[edge] for edge in ("0.005", "0.25", "0.5", "10.0", "+Inf")] == [1, 1, 2, 2, 3]
    assert samples[-2][0::2] == ("h_sum", 20.305)
    assert samples[-1][0::2] == ("h_count", 3)


def test_only_what_is_declared_is_shown() -> None:
    """Of the kind that it was declared with."""
    declared = {("counter", "c"): "count", ("gauge", "g"): "ms"}
    metrics = HandlerMetrics(declared, everything=False)

    metrics.take([measured("counter", name, 1) for name in "cdg"])

    assert values(metrics) == {"c": 1}


@pytest.mark.parametrize(
    "entry",
    [
        measured("counter", "Requests2XX", 1),
        measured("counter", "legato_steps_total", 1),
        measured("counter", "no name", 1),
        measured("counter", "c", 1, [("no label", "x")]),
        measured("gauge", "there", 1),
        measured("counter", "there", 1, [("other", "x")]),
    ],
    ids=["the server's", "Legato's", "name", "label", "other kind", "other labels"],
)
def test_what_cannot_be_shown_is_left_out(entry) -> None:
    """One wrong name must not make a page that Prometheus refuses."""
    metrics = HandlerMetrics(taken=["Requests2XX"])
    metrics.take([measured("counter", "there", 1)])

    metrics.take([entry])

    assert values(metrics) == {"there": 1}


def test_the_number_of_series_is_bounded(monkeypatch) -> None:
    """Those that are there go on."""
    monkeypatch.setattr(module, "MOST_SERIES", 3)
    metrics = HandlerMetrics()

    for turn in range(2):
        metrics.take([measured("counter", "c", 1, [("n", str(at))]) for at in range(5)])
        metrics.take([measured("histogram", f"more{turn}", 1)])

    ((_name, _kind, _unit, samples),) = metrics.families()
    assert [value for _sample, _labels, value in samples] == [2, 2, 2]


def test_each_value_is_written_as_torchserve_writes_it(tmp_path) -> None:
    """Declared or not; with the declared unit where there is one."""
    file = tmp_path / "logs" / "model_metrics.log"
    metrics = HandlerMetrics({("counter", "d"): "pieces"}, file=file, everything=False)

    metrics.take([measured("counter", "c", 2), measured("counter", "d", 1, [], "")])
    metrics.close()

    line = (
        r"[\d-]{10}T[\d:]{8},\d{3} - c\.Count:2\|#ModelName:m,Level:Model"
        r"\|#hostname:[^,]+,requestID:r,timestamp:\d+\n"
        r"\S+ - d\.pieces:1\|#\|#hostname:[^,]+,timestamp:\d+\n"
    )
    assert re.fullmatch(line, file.read_text())
    assert values(metrics) == {"d": 1}


def test_the_page_shows_them_behind_the_servers(bench) -> None:
    """In text that Prometheus reads, with the host as a label."""
    handlers = HandlerMetrics()
    handlers.take([measured("gauge", "g", 1, [("kind", 'a"b\n')])])

    page = Metrics(bench.engine, handlers).render(["g"]).decode()

    assert "# TYPE g gauge\n" in page
    assert re.search(r'^g\{kind="a\\"b\\n",Hostname="[^"]+"\} 1\.0$', page, re.MULTILINE)
