"""Measures what a store adds to a step: servers side by side, in turns, at two sizes of state.

All servers run at once and one of them has load at a time, for a short window; the order
turns round from one round to the next. So what else the machine does hits all alike, and
the ratio to the memory store is taken within a round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from legato.bench.generator import Generator
from legato.bench.load import Check, Load
from legato.bench.target import Target
from machine import prefer
from models import MODELS
from scenarios import ServerOptions
from server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from legato.bench.result import Result

SIZES = {"1 KB": "accumulator-1k", "16 KB": "accumulator-16k"}
STORES = (
    ServerOptions(),
    ServerOptions("log"),
    ServerOptions("log", "disk"),
    ServerOptions("sqlite"),
)
SEQUENCES = 32
LENGTH = 200
LIMIT = 1.3
_WARM_UP_S, _BACK_TO_SPEED_S = 0.5, 0.2


@dataclass(frozen=True)
class StoreRow:
    """What a store cost at one size of state: medians over the rounds.

    Attributes:
        state: Size of a sequence's state.
        store: Kind and level.
        server_us: CPU microseconds a step of the whole server.
        ratio: The same, divided by that of the memory store in the same round, and
        quartiles: between which the middle half of the rounds lie.
        steps_per_s: Steps answered.
        p50_ms: Latency,
        p99_ms: of which one step in a hundred takes longer.
        mean_batch: Rows a model call.
        failed: Steps without an answer.
        wrong: Answers that are not the sum of what was sent.
    """

    state: str
    store: str
    server_us: float
    ratio: float
    quartiles: tuple[float, float]
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    failed: int
    wrong: int


def measure(models: Path, rounds: int, window_s: float, *, ahead: bool = False) -> list[StoreRow]:
    """Measure every store at every size.

    Args:
        models: An empty folder.
        rounds: Windows of each server at each size.
        window_s: Length of a window.
        ahead: Servers and load go before other work; takes root.
    """
    for name in SIZES.values():
        MODELS[name].install(name, models / name)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(models, store.arguments)) for store in STORES]
        if ahead:  # the load's processes inherit it
            prefer(os.getpid(), *[server.pid for server in servers])
        rows = []
        for state, name in SIZES.items():
            with contextlib.ExitStack() as generators:
                found = _turns(
                    [generators.enter_context(_generator(server, name)) for server in servers],
                    rounds,
                    window_s,
                )
            rows += [_row(state, at, found) for at in range(len(STORES))]
        return rows


@contextlib.contextmanager
def _generator(server: Server, model: str) -> Iterator[Generator]:
    target = Target(server.address, model)
    with contextlib.closing(target):
        load = Load(
            server.address, model, sequences=SEQUENCES, length=LENGTH, check=Check.SUM
        )  # fmt: skip
        with Generator(load, target, server.pid) as generator:
            generator.go()
            generator.pause(_WARM_UP_S)
            generator.hold()
            yield generator


def _turns(generators: list[Generator], rounds: int, window_s: float) -> list[list[Result]]:
    """Give each its window in every round; return the results of each generator."""
    results: list[list[Result]] = [[] for _ in generators]
    for number in range(rounds):
        order = list(range(len(generators)))
        for at in reversed(order) if number % 2 else order:
            generators[at].go()
            generators[at].pause(_BACK_TO_SPEED_S)
            results[at].append(generators[at].measure(window_s))
            generators[at].hold()
    return results


def _row(state: str, at: int, results: list[list[Result]]) -> StoreRow:
    mine = results[at]
    cost = [result.server_us or float("nan") for result in mine]
    memory = [result.server_us or float("nan") for result in results[0]]
    ratios = [ours / base for ours, base in zip(cost, memory, strict=True)]
    median = statistics.median
    low, _middle, high = statistics.quantiles(ratios, n=4)
    return StoreRow(
        state=state,
        store=f"{STORES[at].store}" if not at else f"{STORES[at].store}, {STORES[at].durability}",
        server_us=median(cost),
        ratio=median(ratios),
        quartiles=(low, high),
        steps_per_s=median([result.steps_per_s for result in mine]),
        p50_ms=median([result.latency_ms["p50"] for result in mine]),
        p99_ms=median([result.latency_ms["p99"] for result in mine]),
        mean_batch=median([result.mean_batch or float("nan") for result in mine]),
        failed=sum(result.failed for result in mine),
        wrong=sum(result.wrong for result in mine),
    )
