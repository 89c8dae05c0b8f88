"""Time a bare model on made-up rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from legato.runtimes.rehearsal import Rehearsal, RehearsalError, find_size

if TYPE_CHECKING:
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime

BATCHES = (1, 8, 32)
_SECONDS = 0.25
_MOST_CALLS = 2000


class Cost(NamedTuple):
    """Best time of a model call with ``batch`` sequences, and its share of one step."""

    batch: int
    call_us: float

    @property
    def step_us(self) -> float:
        """Microseconds a step of one sequence."""
        return self.call_us / self.batch


def costs(runtime: Runtime, config: ModelConfig) -> list[Cost] | None:
    """Time second steps at a few batch sizes; ``None`` if made-up rows do not run.

    The best of the calls is taken: on a shared machine it is the steady one.
    """
    try:
        size = find_size(runtime)
    except RehearsalError:
        return None
    rehearsal = Rehearsal(runtime, np.random.default_rng(0), size=size)
    batches = BATCHES if runtime.signature.batching else BATCHES[:1]
    return [
        Cost(batch, _best_us(rehearsal, batch))
        for batch in batches
        if batch <= config.max_batch_size or batch == 1
    ]


def _best_us(rehearsal: Rehearsal, batch: int) -> float:
    row = rehearsal.row()
    states = [rehearsal.first_state() for _ in range(batch)]
    _, states = rehearsal.step([row] * batch, states, 1)
    prepared, _ = rehearsal.batch([row] * batch, states, 2)
    step = rehearsal.runtime.step
    best = float("inf")
    until = time.perf_counter() + _SECONDS
    for _ in range(_MOST_CALLS):
        begun = time.perf_counter()
        step(prepared)
        ended = time.perf_counter()
        best = min(best, ended - begun)
        if ended > until:
            break
    return best * 1e6
