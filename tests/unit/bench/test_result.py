"""Figures are differences of two marks."""

from __future__ import annotations

from collections import Counter

import pytest

from legato.bench.generator import Mark
from legato.bench.result import Result, percentiles_ms
from legato.bench.target import Counts


def mark(at: float, steps: int, *, server: float = 0.0, counts: Counts | None = None) -> Mark:
    threads = Counter({"loop/1": server * 0.9, "other/2": server * 0.1, "idle/3": 5.0})
    return Mark(
        at, steps, steps // 10, steps // 20, steps // 5, server / 2, server, threads, counts
    )


def test_result_is_the_difference_of_two_marks() -> None:
    """Rates, CPU a step and mean batch come from what happened in between."""
    first = mark(10.0, 100, server=1.0, counts=Counts(100, 50, 100, 1.0))
    last = mark(12.0, 1100, server=1.1, counts=Counts(1100, 150, 1100, 1.5))

    result = Result.of(first, last, [0.001, 0.002, 0.003], Counter(a=2), measured_cpu=True)

    assert (result.steps, result.failed, result.wrong, result.sequences) == (1000, 100, 50, 200)
    assert result.steps_per_s == pytest.approx(500)
    assert result.server_us == pytest.approx(100)
    assert result.client_us == pytest.approx(50)
    assert result.mean_batch == pytest.approx(10)
    assert result.queue_ms == pytest.approx(0.5)
    assert result.latency_ms["p50"] == pytest.approx(2)
    assert result.threads_us == {"loop/1": pytest.approx(90), "other/2": pytest.approx(10)}
    assert result.errors == {"a": 2}


def test_unknown_figures_are_none() -> None:
    """A server far away that keeps no counts still has steps and latencies."""
    result = Result.of(mark(0, 0), mark(1, 10), [], {}, measured_cpu=False)

    assert (result.mean_batch, result.queue_ms, result.server_us) == (None, None, None)
    assert result.latency_ms == {}


def test_no_steps_is_no_division_by_zero() -> None:
    """A server that answers nothing has no CPU a step."""
    counts = Counts(5, 5, 5, 0.1)

    result = Result.of(
        mark(1, 3, server=1, counts=counts), mark(1, 3, server=2, counts=counts), [], {},
        measured_cpu=True,
    )  # fmt: skip

    assert (result.steps_per_s, result.server_us, result.mean_batch) == (0.0, None, None)


def test_percentiles_are_in_milliseconds() -> None:
    """p99 of 1..100 ms lies just under 100 ms, the largest value is named too."""
    found = percentiles_ms([number / 1000 for number in range(1, 101)])

    assert found["p50"] == pytest.approx(50.5)
    assert found["p99"] == pytest.approx(99.01)
    assert found["max"] == pytest.approx(100)
