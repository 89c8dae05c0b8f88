"""Looking at a server from outside, and waiting for what it should show."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 30.0
POLL_S = 0.05


def get(url: str) -> tuple[int, str]:
    """Return status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - our own server
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric(served, name: str, label: str = "") -> float:
    """Return the sum of a metric's values whose labels contain this text."""
    lines = get(f"{served.url}/metrics")[1].splitlines()
    found = [line for line in lines if line.startswith((name + "{", name + " ")) and label in line]
    return sum(float(line.rpartition(" ")[2]) for line in found)


async def until(check: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Wait until something holds; it is looked at in a thread."""
    end = time.monotonic() + timeout_s
    while not await asyncio.to_thread(check):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(POLL_S)
