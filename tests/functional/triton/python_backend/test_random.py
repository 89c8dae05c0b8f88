"""Random lives of sequences, against sums kept here: exceptions, restarts, ends, killed workers."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import numpy as np
import pytest

from legato.core.errors import UnknownSequenceError
from legato.core.types import EndReason, Reply
from triton_python_kit import number, until

STEPS = 80
KILLS = 2


class Life:
    """One client of one sequence, and the sum that it should have."""

    def __init__(self, bench, model: str, name: int) -> None:
        self.bench, self.model, self.name = bench, model, name
        self.dice = random.Random(name)
        self.total: int | None = None
        self.lost = 0

    async def live(self) -> None:
        for _ in range(STEPS):
            value = self.dice.choice([0, 1, 2, 3, 5, 666])
            start = self.total is None or self.dice.random() < 0.05
            end = self.dice.random() < 0.1
            if start and not value:
                value = 1  # a sum of nothing looks like none, where it is kept by slot
            outcome = await self.bench.outcome(
                self.model, self.name, INPUT=np.int32([[value]]), start=start, end=end
            )
            if isinstance(outcome, Reply):
                self.total = (0 if start else self.total) + value
                assert number(outcome) == self.total
                self.total = None if end else self.total
            elif isinstance(outcome, UnknownSequenceError):
                assert outcome.ending.reason is EndReason.LOST
                self.total = None
                self.lost += 1
            else:
                assert value == 666, outcome.message  # which raises; nothing was applied


@pytest.mark.parametrize(
    ("model", "instances", "keeps"),
    [("adder_by_id", 2, True), ("adder_by_slot", 1, True), ("adder_hidden", 2, False)],
)
async def test_sums_are_right_whatever_happens(bench, model: str, instances: int, keeps) -> None:
    """Each answer is the sum of what was acknowledged; what is lost is said to be."""
    handle = await bench.load(model, instances=instances)
    lives = [Life(bench, model, name) for name in range(1, 9)]

    running = asyncio.gather(*[life.live() for life in lives])
    for part in range(1, KILLS + 1):
        enough = part * len(lives) * STEPS // 8
        await until(lambda n=enough: handle.statistics.applied >= n or running.done(), 60)
        for pid in bench.pids(model)[:1]:
            os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(running, 100)

    lost = sum(life.lost for life in lives)
    assert handle.statistics.ended["lost"] == lost
    assert not (keeps and lost)
