"""The parts of the ASGI app that need no server."""

from __future__ import annotations

import asyncio

import pytest

from legato.app import KeptReceive


async def test_a_cancelled_receive_is_waited_for_on() -> None:
    """The event that came after the cancellation goes to the next one who asks."""
    asked = []

    def receive() -> asyncio.Future:
        asked.append(asyncio.get_running_loop().create_future())
        return asked[-1]

    kept = KeptReceive(receive)
    first = asyncio.create_task(kept())
    await asyncio.sleep(0)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not asked[0].cancelled()
    asked[0].set_result({"type": "http.disconnect"})

    assert await kept() == {"type": "http.disconnect"}
    assert len(asked) == 1


async def test_coroutines_pass_through() -> None:
    """Other servers' receive is called as it is."""

    async def receive() -> dict:
        return {"type": "http.request"}

    assert await KeptReceive(receive)() == {"type": "http.request"}
