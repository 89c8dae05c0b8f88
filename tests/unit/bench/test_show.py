"""What people read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from legato.bench.load import Check, Load
from legato.bench.result import Result
from legato.bench.show import headline, table

LOAD = Load("h:1", "adder", sequences=8, length=20, check=Check.SUM)
RESULT = Result(
    2.0, 4000, 3, 1, 200, {"p50": 1.0, "p95": 2.0, "p99": 3.0, "max": 4.0}, 6.5, 0.2, 41.0, 20.0,
    {"loop/1": 30.0}, {"unknown sequence #": 3},
)  # fmt: skip


def shown(load: Load, result: Result) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(load, result))
    return " ".join(captured.get().split())


def test_table_tells_every_figure() -> None:
    """Throughput, latencies, batch, CPU, errors by text and wrong answers are there."""
    text = shown(LOAD, RESULT)

    for part in (
        "steps 4,000 in 2.0 s",
        "throughput 2,000 steps/s",
        "latency p99 3.00 ms",
        "mean batch 6.5",
        "server CPU 41.0 us a step",
        "thread loop/1 30.0 us a step",
        "load generator CPU 20.0 us a step",
        "errors 3 3 unknown sequence #",
        "wrong answers 1",
    ):
        assert part in text


def test_table_leaves_out_what_is_not_known() -> None:
    """No row without a figure, and no verdict without a check."""
    text = shown(replace(LOAD, check=Check.NONE), replace(RESULT, mean_batch=None, server_us=None))

    assert "batch" not in text
    assert "server CPU" not in text
    assert "wrong" not in text


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({}, "a stream each, as fast as answers come, answers checked"),
        ({"streaming": False}, "unary calls"),
        ({"per_stream": 4, "rate": 100.0}, "4 a stream, 100 steps/s"),
        ({"check": Check.NONE}, "8 sequences of about 20 steps"),
    ],
)
def test_headline_says_what_is_done(changes: dict, part: str) -> None:
    """Transport, pace and check are named."""
    assert part in headline(replace(LOAD, **changes))
