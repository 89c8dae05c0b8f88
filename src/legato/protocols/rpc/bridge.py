"""Makes any ASGI server look like one that acts when called.

:class:`~legato.protocols.rpc.call.AsgiCall` wants ``receive()`` and ``send()`` to
act at once and to return futures. Most servers give coroutines instead; here they
are run, events in the order in which they were sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Event = dict[str, Any]


class Bridge:
    """Adapter for one request.

    Args:
        first: What the server's ``receive()`` gave when it was asked the first time.
        receive, send: The server's callables.
    """

    def __init__(
        self,
        first: Awaitable[Event],
        receive: Callable[[], Awaitable[Event]],
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._first: Awaitable[Event] | None = first
        self._receive = receive
        self._send = send
        self._queue: asyncio.Queue[tuple[Event, asyncio.Future[None]] | None] = asyncio.Queue()
        self._reading: asyncio.Task[Event] | None = None

    def receive(self) -> asyncio.Future[Event]:
        """Ask for the next event."""
        awaitable = self._first or self._receive()
        self._first = None
        self._reading = asyncio.ensure_future(_run(awaitable))
        return self._reading

    def send(self, event: Event) -> asyncio.Future[None]:
        """Queue an event; the future is resolved when the server has taken it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((event, future))
        return future

    def close(self) -> None:
        """Stop after what is queued: the client has left."""
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Send what is queued until the response is complete."""
        with_trailers = False
        try:
            while (item := await self._queue.get()) is not None:
                event, future = item
                try:
                    await self._send(event)
                except OSError as error:
                    future.set_exception(error)
                    continue
                if not future.done():
                    future.set_result(None)
                with_trailers = event.get("trailers", with_trailers)
                if _is_last(event, with_trailers=with_trailers):
                    return
        finally:
            if self._reading is not None:
                self._reading.cancel()


def _is_last(event: Event, *, with_trailers: bool) -> bool:
    if event["type"] == "http.response.trailers":
        return True
    return event["type"] == "http.response.body" and not (event["more_body"] or with_trailers)


async def _run(awaitable: Awaitable[Event]) -> Event:
    return await awaitable
