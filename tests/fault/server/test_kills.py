"""The serving process is killed at random moments under load, and nobody notices much."""

from __future__ import annotations

import asyncio
import random
import signal

import pytest
from tests.fault.server.conftest import KILLS, strike
from tests.fault.server.fleet import Fleet

CLIENTS = 64
EARLY = 0.15
"""Share of kills that do not wait until the process serves: they meet it while it starts."""

CASES = [
    ("log", "process", KILLS),
    ("log", "disk", max(KILLS // 6, 4)),
    ("sqlite", "process", max(KILLS // 10, 3)),
]


@pytest.mark.timeout(120 + 8 * KILLS)
@pytest.mark.parametrize(("store", "level", "kills"), CASES, ids=lambda value: str(value))
async def test_nothing_acknowledged_is_lost_or_done_twice(
    chain, tmp_path, store: str, level: str, kills: int, record_property
) -> None:
    """Clients finish by themselves; every chain equals a clean replay, bit for bit."""
    served = chain(store=store, durability=level)
    killed = set()
    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.more(CLIENTS)
        while len(killed) < kills:
            if random.random() < EARLY:
                await asyncio.sleep(random.uniform(0.0, 1.0))
            else:
                starts = len(served.lines)
                await fleet.until(lambda: len(served.lines) > starts or not killed)
                await asyncio.sleep(random.uniform(0.0, 0.8))
            fleet.check()
            killed.add(strike(served, signal.SIGKILL))
            killed.discard(None)
        await fleet.more(CLIENTS)
        await fleet.finish()
    restarts = len(served.lines) - 1
    assert served.stop() == 0

    print(f"\n{store}/{level}: {len(killed)} kills, {restarts} came up again; {fleet.seen}")
    record_property("kills", len(killed))
    assert set(fleet.seen.levels) == {level}
    assert fleet.seen.breaks >= kills // 2
    fleet.compare(tmp_path / "data", store)
