"""Histograms count by upper bound."""

from __future__ import annotations

from legato.engine.statistics import Histogram, ModelStatistics


def test_values_are_counted_under_their_bound() -> None:
    """Bounds are inclusive; the last count is above all."""
    histogram = Histogram((1, 2, 4))

    for value in (0, 1, 2, 3, 4, 5):
        histogram.observe(value)
    histogram.observe(4, times=3)

    assert histogram.counts == [2, 1, 5, 1]
    assert (histogram.count, histogram.total) == (9, 27)
    assert repr(histogram) == "<Histogram count=9 mean=3>"


def test_an_empty_histogram_has_a_mean() -> None:
    """Zero, for display."""
    assert repr(Histogram((1,))) == "<Histogram count=0 mean=0>"


def test_statistics_of_two_models_share_nothing() -> None:
    """Each has its own counters."""
    one, other = ModelStatistics(), ModelStatistics()

    one.failed["x"] += 1
    one.batch_size.observe(1)

    assert other.failed == {}
    assert other.batch_size.count == 0
