"""An engine that leaves no process behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from triton_python_kit import Bench, lives, until


@pytest.fixture
async def bench():
    """An engine on a memory store; none of its workers outlives it."""
    one = Bench()
    yield one
    started = [worker.pid for handle in one.engine.models() for worker in handle.workers()]
    await one.engine.close()
    await until(lambda: not any(pid and lives(pid) for pid in started))
