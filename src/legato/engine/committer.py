"""The way to the store: on the loop for quick stores, through one thread for the others.

A store has one caller at a time. With a thread, commits that arrive while one is
under way share the next (group commit).
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from legato.stores.base import Commit, CommitResult, Store

    Done = Callable[[Any], None]


class Committer:
    """Calls the store and hands each result (or exception) to a callback on the loop."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self._loop = loop
        self._items: queue.SimpleQueue[tuple[Callable[[], Any] | list[Commit] | None, Done]] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        if not store.inline:
            self.use_thread()

    def use_thread(self) -> None:
        """Call the store in a thread from now on; called on the loop, between two calls."""
        if self._thread is None:
            self.store.inline = False
            self._thread = threading.Thread(target=self._work, name="legato-store", daemon=True)
            self._thread.start()

    def commit(
        self, batch: list[Commit], done: Callable[[list[CommitResult] | Exception], None]
    ) -> None:
        """Commit a batch; ``done`` gets its results, or the exception that it raised."""
        if self._thread is not None:
            self._items.put((batch, done))
            return
        result: list[CommitResult] | Exception
        try:
            result = self.store.commit(batch)
        except Exception as error:  # noqa: BLE001 - handed to the engine, which tells them apart
            result = error
        done(result)

    def call(self, function: Callable[[], Any], done: Done) -> None:
        """Run any other store call; ``done`` gets its result or exception."""
        if self._thread is not None:
            self._items.put((function, done))
        else:
            done(_outcome(function))

    async def run(self, function: Callable[[], Any]) -> Any:
        """Run a store call and wait for it; for management, not for steps."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: Any) -> None:
            if not future.done():  # the caller may have been cancelled meanwhile
                future.set_result(result)

        self.call(function, done)
        result = await future
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """Finish what is queued."""
        if self._thread is not None:
            self._items.put((None, lambda _result: None))
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        pending: list[tuple[Any, Done]] = []
        while True:
            item, done = pending.pop(0) if pending else self._items.get()
            if item is None:
                return
            if callable(item):
                self._tell(done, _outcome(item))
                continue
            group = [(item, done)]
            while not pending:
                try:
                    following = self._items.get_nowait()
                except queue.Empty:
                    break
                if isinstance(following[0], list):
                    group.append((following[0], following[1]))
                else:
                    pending.append(following)
            self._commit_group(group)

    def _commit_group(self, group: list[tuple[list[Commit], Done]]) -> None:
        # Entries of one group are of different sequences: each has one step in flight.
        together = [entry for batch, _ in group for entry in batch]
        result = _outcome(lambda: self.store.commit(together))
        at = 0
        for batch, done in group:
            if isinstance(result, Exception):
                self._tell(done, result)
            else:
                self._tell(done, result[at : at + len(batch)])
                at += len(batch)

    def _tell(self, done: Done, result: Any) -> None:
        self._loop.call_soon_threadsafe(done, result)


def _outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - handed to the engine, which tells them apart
        return error
