"""The serving process is killed at random moments under load, and nobody notices much."""

from __future__ import annotations

import asyncio
import functools
import random
import signal

import pytest
from tests.fault.server.conftest import KILLS, strike
from tests.fault.server.fleet import Fleet

CLIENTS = 64
RESTARTS = 3
EARLY = 0.15
"""Share of kills that do not wait until the process serves: they meet it while it starts."""

CASES = [
    ("log", "process", KILLS),
    ("log", "disk", max(KILLS // 6, 4)),
    ("sqlite", "process", max(KILLS // 10, 3)),
]


def came_up(served, starts: int) -> bool:
    """Tell whether more than so many processes have been ready."""
    return len(served.lines) > starts


@pytest.mark.timeout(120 + 8 * KILLS)
@pytest.mark.parametrize(("store", "level", "kills"), CASES, ids=str)
async def test_nothing_acknowledged_is_lost_or_done_twice(
    chain, tmp_path, store: str, level: str, kills: int, report
) -> None:
    """Clients finish by themselves; every chain equals a clean replay, bit for bit."""
    served = chain(store=store, durability=level)
    killed: set[int | None] = set()
    starts = 0
    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.more(CLIENTS)
        while len(killed) < kills:
            if random.random() < EARLY:
                await asyncio.sleep(random.uniform(0.0, 1.0))
            else:
                await fleet.until(functools.partial(came_up, served, starts))
                await asyncio.sleep(random.uniform(0.0, 0.8))
            fleet.check()
            killed.add(strike(served, signal.SIGKILL))
            killed.discard(None)
            starts = len(served.lines)
        await fleet.more(CLIENTS)
        await fleet.finish()
    restarts = len(served.lines) - 1
    assert served.stop() == 0

    report(f"{store}/{level}: {len(killed)} kills, {restarts} came up again; {fleet.seen}")
    assert set(fleet.seen.levels) == {level}
    assert fleet.seen.breaks >= kills // 2
    fleet.compare(tmp_path / "data", store)


async def test_a_server_that_is_stopped_and_started_again_is_only_a_pause(chain, tmp_path) -> None:
    """SIGTERM loses nothing: streams are closed with a reason, and clients go on."""
    served = chain()
    port = served.port
    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        for _time in range(RESTARTS):
            await fleet.more(10 * CLIENTS)
            served.process.terminate()
            assert await asyncio.to_thread(served.wait) == 0
            fleet.check()
            served = chain(port=port, ready=False)
            await asyncio.to_thread(served.await_ready)
        await fleet.more(CLIENTS)
        await fleet.finish()
    assert served.stop() == 0

    assert set(fleet.seen.reasons) <= {"draining"}
    assert fleet.seen.pauses
    fleet.compare(tmp_path / "data")
