"""What holds for every test: no task is left behind, and random tests can be repeated."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Time limits belong to pytest-timeout: a slow machine is no counterexample. CI takes the
# same examples every time, so that a change is judged by itself; elsewhere they vary.
hypothesis.settings.register_profile("legato", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "legato")

TURNS_TO_END = 20
GRACE_S = 2


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail a test that leaves tasks running on its loop; torn down after all its fixtures."""
    before = asyncio.all_tasks()
    yield
    for _turn in range(TURNS_TO_END):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            return
        await asyncio.sleep(0)
    # gRPC ends its own tasks from a thread, which a busy machine lets wait.
    _ended, left = await asyncio.wait(left, timeout=GRACE_S)
    if not left:
        return
    names = "\n  ".join(sorted(repr(task.get_coro()) for task in left))
    pytest.fail(f"tasks left behind:\n  {names}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Watch every asynchronous test for tasks left behind."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.function):
            # First of all fixtures, so that it is the last to be torn down.
            item.fixturenames.insert(0, "no_task_left")
