"""The run with very many sequences, at a size that takes seconds."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Path(__file__).resolve().parents[3] / "bench"
COUNT = 600
ACTIVE = 6


@contextlib.contextmanager
def bench_modules() -> Iterator[None]:
    """The bench folder comes first; the tests have a folder ``models``, too."""
    others = sys.modules.pop("models", None)
    sys.path.insert(0, str(BENCH))
    try:
        yield
    finally:
        sys.path.remove(str(BENCH))
        sys.modules.pop("models", None)
        if others is not None:
            sys.modules["models"] = others


@pytest.fixture(scope="module")
def found() -> dict:
    """What the run finds, with room for 64 sequences in memory."""
    with bench_modules():
        import million

        size = million.Size(
            COUNT, "64K", 200.0, 200.0, rounds=2, window_s=0.5, rush_s=0.5, patience_s=0.0
        )
        return million.measure(size, print)


def test_all_sequences_go_on_after_a_kill(found) -> None:
    """Every answer, also of those that had been parked, is the sum of all that was sent."""
    assert found["known_after_kill"] == COUNT
    assert found["steps"] > COUNT + ACTIVE
    assert (found["failed"], found["wrong"]) == (0, 0)


def test_each_kind_of_window_is_measured(found) -> None:
    """Active sequences have latencies in all of them, the others where there are others."""
    kinds = [window["kind"] for window in found["windows"]]

    assert kinds == ["alone", "beside warm steps", "while others return"] * 2
    assert all(window["active"]["count"] > 50 for window in found["windows"])
    assert [window["extra"] is None for window in found["windows"]] == [True, False, False] * 2


def test_the_page_is_made_of_the_figures(found, tmp_path) -> None:
    """A run of another size stays on it; the largest is told in full."""
    with bench_modules():
        import report

        larger = {**found, "load": "1", "size": {**found["size"], "sequences": 7000}}
        report.keep(tmp_path, {"million": {"7000": larger}})
        report.keep(tmp_path, {"million": {str(COUNT): {**found, "load": "2"}}})

    page = (tmp_path / "benchmarks.md").read_text()
    assert "## 7,000 live sequences" in page
    assert "\n| 600 |" in page
    assert (tmp_path / "benchmarks-million.png").stat().st_size > 0
