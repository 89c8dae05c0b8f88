"""The benchmark of growing caches: what it claims is what it measures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture(scope="module")
def moonshine():
    sys.path.insert(0, str(BENCH))
    try:
        spec = importlib.util.spec_from_file_location("moonshine", BENCH / "moonshine.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["moonshine"] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCH))
        sys.modules.pop("moonshine", None)


def test_a_step_writes_what_it_adds_at_any_length(moonshine) -> None:
    """26,624 bytes of entries, and a little to say so; the state itself has ten times that."""
    short, long = (moonshine.cost("log", 2, length, 4) for length in (40, 80))

    for found in (short, long):
        assert moonshine.ENTRY_BYTES < found.written_bytes < moonshine.ENTRY_BYTES + 2000
    assert moonshine.cost("memory", 2, 40, 2).written_bytes == 0


def test_the_page_sets_the_server_beside_the_bare_model(moonshine) -> None:
    """As a ratio, for the same number of sequences."""
    rows = [moonshine.Row("bare ONNX Runtime", 5, 2.0, 12.0), moonshine.Row("Legato, log", 5, 3, 9)]
    cost = moonshine.Cost("log", 8, 1000, 49.6, 44.4, 27504.0)

    page = moonshine.page(rows, [cost], 31, {"CPU": "fast"})

    assert "| Legato, log | 5 | 3.00 | 1.50 | 9.0 |" in page
    assert "| log | 8 | 1,000 | 50 | 44 | 27,504 |" in page
    assert "- CPU: fast" in page
