"""The serving process is stopped for a while, as by a debugger, a snapshot or swapping."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.fault.server.conftest import serving_pid
from tests.fault.server.fleet import Fleet

FREEZES = 4
FROZEN_S = 1.0


async def test_a_frozen_process_goes_on_where_it_was(chain, tmp_path) -> None:
    """Nobody starts a second one beside it, and no step is lost or done twice."""
    served = chain()
    pid = serving_pid(served)

    async with Fleet(served.address, range(1, 65)) as fleet:
        for _time in range(FREEZES):
            await fleet.more(1000)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)
            os.kill(pid, signal.SIGCONT)
        await fleet.more(1000)
        await fleet.finish()
    assert served.stop() == 0

    assert len(served.lines) == 1
    fleet.compare(tmp_path / "data")
