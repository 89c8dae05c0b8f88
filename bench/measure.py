"""Measures scenarios: several short windows, each beside the bare runtime's loop.

Other work on a machine comes and goes in seconds: so the two are measured in turns,
and what is reported of each is its median.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bare import BareLoop
from legato.bench.generator import Generator
from legato.bench.load import Check, Load
from legato.bench.target import Target
from models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from legato.bench.result import Result
    from scenarios import Scenario
    from server import Server

WARM_UP_S = 0.6
_BACK_TO_SPEED_S = 0.15


@dataclass(frozen=True)
class Effort:
    """How long each scenario is measured."""

    windows: int
    window_s: float
    bare_s: float


QUICK = Effort(3, 1.2, 0.35)
FULL = Effort(7, 2.0, 0.5)


@dataclass(frozen=True)
class Row:
    """What a scenario gave: medians of its windows."""

    name: str
    model: str
    transport: str
    sequences: int
    steps_per_s: float
    server_us: float
    server_us_range: tuple[float, float]
    client_us: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    bare_us: float
    share: float
    steps: int
    failed: int
    wrong: int
    threads_us: dict[str, float]


def measure(scenario: Scenario, server: Server, models: Path, effort: Effort) -> Row:
    """Measure one scenario on a server that runs."""
    model = MODELS[scenario.model]
    bare = BareLoop(model, models / scenario.model / "model.onnx", scenario.sequences)
    target = Target(server.address, scenario.model)
    load = _load(scenario, server.address, target)
    results: list[Result] = []
    bares: list[float] = []
    try:
        with Generator(load, target, server.pid) as generator:
            generator.go()
            generator.pause(WARM_UP_S)
            for _ in range(effort.windows):
                results.append(generator.measure(effort.window_s))
                generator.hold()
                bares.append(bare.microseconds(effort.bare_s))
                generator.go()
                generator.pause(_BACK_TO_SPEED_S)
    finally:
        target.close()
    return _row(scenario, results, bares)


def _load(scenario: Scenario, address: str, target: Target) -> Load:
    plain = Load(address, scenario.model)
    return Load(
        address,
        scenario.model,
        sequences=scenario.sequences,
        length=scenario.length,
        streaming=scenario.streaming,
        per_stream=scenario.per_stream,
        numbered=scenario.numbered,
        first_id=_first_id(scenario),
        check=target.check(Check.AUTO, plain.data),
        left_out=MODELS[scenario.model].left_out,
    )


def _first_id(scenario: Scenario) -> int:
    """Give each scenario ids of its own: they may share a server."""
    return (1 + sum(scenario.name.encode()) * 1000 + scenario.sequences) * 2**32


def _row(scenario: Scenario, results: list[Result], bares: list[float]) -> Row:
    def median(values: list[Any]) -> float:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else float("nan")

    server = [result.server_us for result in results if result.server_us is not None]
    middle = min(results, key=lambda result: abs((result.server_us or 0) - median(server)))
    bare_us = median(bares)
    return Row(
        name=scenario.name,
        model=scenario.model,
        transport=scenario.transport,
        sequences=scenario.sequences,
        steps_per_s=median([result.steps_per_s for result in results]),
        server_us=median(server),
        server_us_range=(min(server, default=0.0), max(server, default=0.0)),
        client_us=median([result.client_us for result in results]),
        p50_ms=median([result.latency_ms.get("p50") for result in results]),
        p99_ms=median([result.latency_ms.get("p99") for result in results]),
        mean_batch=median([result.mean_batch for result in results]),
        bare_us=bare_us,
        share=bare_us / median(server) if server else float("nan"),
        steps=sum(result.steps for result in results),
        failed=sum(result.failed for result in results),
        wrong=sum(result.wrong for result in results),
        threads_us=dict(middle.threads_us),
    )
