"""One loop in a thread serves all who share it, and ends with the last of them."""

from __future__ import annotations

import asyncio
import threading

import pytest

from legato.client.background import Background, build, run


def test_users_share_a_loop_that_ends_with_the_last() -> None:
    """The next user after that gets another one."""
    background = Background()

    first, second = background.acquire(), background.acquire()
    background.release()
    still = first.is_running()
    background.release()
    third = background.acquire()
    background.end()

    assert first is second
    assert (still, first.is_closed(), third.is_closed()) == (True, True, True)
    assert first is not third


def test_work_runs_in_the_thread_of_the_loop_and_its_outcome_comes_back() -> None:
    """Results and errors alike."""
    background = Background()
    loop = background.acquire()

    async def fail() -> None:
        raise ValueError("no")

    name = build(loop, lambda: threading.current_thread().name)
    with pytest.raises(ValueError, match="no"):
        run(loop, fail())
    background.release()

    assert name == "legato-client"


def test_tasks_that_are_left_are_cancelled_with_the_loop() -> None:
    """Nothing outlives its users."""
    background = Background()
    loop = background.acquire()
    seen: list[str] = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def begin() -> None:
        started.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)

    started: list[asyncio.Task] = []
    run(loop, begin())
    background.release()

    assert seen == ["cancelled"]


def test_end_without_a_beginning_is_no_trouble() -> None:
    """A process that never used a client leaves in peace."""
    background = Background()

    background.end()

    assert background._users == 0


@pytest.mark.parametrize(("error", "told"), [(BlockingIOError(), 0), (ValueError("x"), 1)])
def test_event_that_another_loop_took_is_no_error(monkeypatch, error, told) -> None:
    """Every loop of a process is woken by gRPC; whatever else goes wrong is told."""
    background = Background()
    loop = background.acquire()
    seen: list[object] = []
    monkeypatch.setattr(loop, "default_exception_handler", seen.append)

    build(loop, lambda: loop.call_exception_handler({"message": "m", "exception": error}))
    background.release()

    assert len(seen) == told
