"""Measures what a store adds to a step: servers side by side, in turns, at two sizes of state.

All servers run at once and one of them has load at a time, for a short window. Each window
of a store has one of the memory store beside it, before or behind it in turn, and the ratio
is taken within the pair: what else the machine does lasts longer than a pair and hits both.
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
    """What a store cost at one size of state: medians over its windows.

    Attributes:
        state: Size of a sequence's state.
        store: Kind and level.
        server_us: CPU microseconds a step of the whole server.
        ratio: The same, divided by that of the memory store in the window beside it, and
        quartiles: between which the middle half of the ratios lie.
        pairs: How many ratios that are.
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
    pairs: int
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    failed: int
    wrong: int


_Pair = tuple["Result", "Result"]
"""A window of the memory store and the one of another store beside it."""


def measure(models: Path, rounds: int, window_s: float, *, ahead: bool = False) -> list[StoreRow]:
    """Measure every store at every size.

    Args:
        models: An empty folder.
        rounds: Pairs of windows of each store at each size.
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
            memory = [pair[0] for pairs in found for pair in pairs]
            rows += [_row(state, STORES[0], [(one, one) for one in memory])]
            rows += [
                _row(state, store, pairs)
                for store, pairs in zip(STORES[1:], found, strict=True)
            ]  # fmt: skip
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


def _turns(generators: list[Generator], rounds: int, window_s: float) -> list[list[_Pair]]:
    """Return the pairs of windows of each store but the first, which is the other in each."""
    memory, *others = generators
    pairs: list[list[_Pair]] = [[] for _ in others]
    for number in range(rounds):
        for at, generator in enumerate(others):
            if (number + at) % 2:
                mine = _window(generator, window_s)
                pairs[at].append((_window(memory, window_s), mine))
            else:
                base = _window(memory, window_s)
                pairs[at].append((base, _window(generator, window_s)))
    return pairs


def _window(generator: Generator, window_s: float) -> Result:
    generator.go()
    generator.pause(_BACK_TO_SPEED_S)
    result = generator.measure(window_s)
    generator.hold()
    return result


def _row(state: str, store: ServerOptions, pairs: list[_Pair]) -> StoreRow:
    nan = float("nan")
    mine = [pair[1] for pair in pairs]
    ratios = [(ours.server_us or nan) / (base.server_us or nan) for base, ours in pairs]
    median = statistics.median
    low, _middle, high = statistics.quantiles(ratios, n=4)
    return StoreRow(
        state=state,
        store=store.store if store.store == "memory" else f"{store.store}, {store.durability}",
        server_us=median([result.server_us or nan for result in mine]),
        ratio=median(ratios),
        quartiles=(low, high),
        pairs=len(pairs),
        steps_per_s=median([result.steps_per_s for result in mine]),
        p50_ms=median([result.latency_ms["p50"] for result in mine]),
        p99_ms=median([result.latency_ms["p99"] for result in mine]),
        mean_batch=median([result.mean_batch or nan for result in mine]),
        failed=sum(result.failed for result in mine),
        wrong=sum(result.wrong for result in mine),
    )
