"""One event loop in a thread, for clients whose users have none.

All synchronous clients of a process share it: it starts with the first and ends with
the last. Threads meet it twice a step, to hand in and to be woken.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Result = TypeVar("Result")

_STOP_S = 5.0


class Background:
    """A loop and its thread, counted by users."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def acquire(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; pair with :meth:`release`."""
        with self._lock:
            self._users += 1
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="legato-client", daemon=True
                )
                self._thread.start()
            return self._loop

    def release(self) -> None:
        """Let go of the loop; the last one ends it."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._end()

    def end(self) -> None:
        """End the loop, whoever uses it: the process is leaving."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_STOP_S)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.set_exception_handler(_report)
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    finally:
        loop.close()


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # With another loop in the process that also runs gRPC, both are woken for an event and
    # one of them finds it taken. That is no error.
    if not isinstance(context.get("exception"), BlockingIOError):
        loop.default_exception_handler(context)


background = Background()
atexit.register(background.end)


def run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the loop and wait for it in this thread."""
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def build(loop: asyncio.AbstractEventLoop, make: Callable[[], Result]) -> Result:
    """Call ``make`` on the loop and wait for what it returns."""

    async def call() -> Result:
        return make()

    return run(loop, call())
