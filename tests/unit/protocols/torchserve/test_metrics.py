"""TorchServe's metrics."""

from __future__ import annotations

import pytest

from legato.protocols.torchserve import metrics as module
from legato.protocols.torchserve.metrics import Metrics


@pytest.fixture
def metrics(bench, monkeypatch) -> Metrics:
    monkeypatch.setattr(module.own, "render", lambda _engine: (b"own 1\n", "text/plain"))
    return Metrics(bench.engine)


def test_requests_are_counted_by_model_and_version(metrics) -> None:
    """``default`` where no version was asked for; latencies are sums of microseconds."""
    metrics.count("m", "", 0.5)
    metrics.count("m", "", 0.25)
    metrics.count('m"x', "2", 1.0)

    page = metrics.render().decode()

    assert 'ts_inference_requests_total{model_name="m",model_version="default"' in page
    assert "} 2.0\n" in page
    assert "} 750000.0\n" in page
    assert 'model_name="m\\"x",model_version="2"' in page


def test_answers_are_counted_by_class(metrics) -> None:
    """And are there from the start."""
    metrics.answered(200)
    metrics.answered(404)
    metrics.answered(404)

    page = metrics.render(["Requests2XX", "Requests4XX", "Requests5XX"]).decode()

    values = [line.rpartition(" ")[2] for line in page.splitlines() if not line.startswith("#")]
    assert values == ["1.0", "2.0", "0.0"]


def test_legatos_own_come_behind_unless_some_are_picked(metrics) -> None:
    """``name[]`` picks TorchServe's."""
    assert metrics.render().endswith(b"own 1\n")
    assert b"own" not in metrics.render(["CPUUtilization"])
    assert metrics.render(["nope"]) == b""
