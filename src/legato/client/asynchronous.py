"""The client for asyncio."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from legato.client.errors import SequenceError
from legato.client.handle import Handle, lookahead
from legato.client.hub import Hub
from legato.client.settings import (
    ClientSettings,
    SequenceSettings,
    StartSettings,
    options,
    target,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    import numpy.typing as npt

    from legato.client.hub import Target
    from legato.client.pilot import Pilot
    from legato.client.tensors import ModelInfo, Outputs


log = logging.getLogger("legato.client")


class AsyncClient:
    """A client for asyncio; see :class:`~legato.Client`, which does the same for threads.

    It belongs to the loop on which it is first used.

    Args:
        address: ``host:port``.
        settings: See :class:`~legato.client.settings.ClientSettings`.
    """

    def __init__(self, address: str, **settings: Unpack[ClientSettings]) -> None:
        self._options = options(address, settings)
        self._made: Hub | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncClient {self._options.address}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def sequence(
        self,
        model: str,
        id: int | str | None = None,  # noqa: A002 - its name everywhere
        **settings: Unpack[StartSettings],
    ) -> AsyncSequence:
        """Begin a sequence; see :meth:`legato.Client.sequence`."""
        aim = target(model, id, **settings)
        return AsyncSequence(self, aim, settings.get("inputs", {}))

    def resume(
        self,
        model: str,
        id: int | str,  # noqa: A002 - its name everywhere
        step: int | None = None,
        *,
        incarnation: str = "",
        **settings: Unpack[SequenceSettings],
    ) -> AsyncSequence:
        """Go on with a sequence after ``step``; see :meth:`legato.Client.resume`."""
        aim = target(model, id, step, incarnation, **settings)
        return AsyncSequence(self, aim, settings.get("inputs", {}))

    async def model(self, name: str, version: str = "") -> ModelInfo:
        """Return what the server tells of a model.

        Raises:
            SequenceError: It is not served, or the server does not answer.
        """
        return await self._hub().model(name, version)

    async def close(self) -> None:
        """Close all connections. Sequences live on at the server."""
        made, self._made, self._closed = self._made, None, True
        if made is not None:
            await made.close()

    async def _release(self, pilot: Pilot) -> None:
        """Close a sequence's stream, unless all are closed already."""
        if self._made is not None:
            await self._made.release(pilot)

    async def _end(self, pilot: Pilot, aim: Target) -> None:
        """End a sequence and close its stream."""
        await self._hub().end(pilot, aim)

    def _hub(self) -> Hub:
        if self._closed:
            raise SequenceError(f"{self!r} is closed", reason="closed")
        if self._made is None:
            self._made = Hub(self._options)
        return self._made


class AsyncSequence(Handle):
    """One sequence; made by :class:`AsyncClient`. See :class:`~legato.client.Sequence`."""

    def __init__(
        self, client: AsyncClient, aim: Target, constants: Mapping[str, npt.ArrayLike]
    ) -> None:
        super().__init__(aim, constants)
        self._client = client
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stays(error):
            await self.close()
            return
        try:
            await self.end()
        except SequenceError as problem:  # all answers are there: not worth an exception
            log.warning("not ended: %s", problem)

    @overload
    async def step(self, x: Mapping[str, npt.ArrayLike]) -> Outputs: ...

    @overload
    async def step(self, x: npt.ArrayLike) -> Any: ...

    async def step(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> Any:
        """Take one step; see :meth:`legato.client.Sequence.step`.

        Cancelling the wait does not take the step back: it is applied, its answer dropped.
        """
        await self._open()
        return await self._answer(*self._send(x, end=False))

    @overload
    async def end(self, x: None = None) -> None: ...

    @overload
    async def end(self, x: Mapping[str, npt.ArrayLike]) -> Outputs: ...

    @overload
    async def end(self, x: npt.ArrayLike) -> Any: ...

    async def end(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None) -> Any:
        """End the sequence; see :meth:`legato.client.Sequence.end`."""
        if x is not None:
            await self._open()
            return await self._answer(*self._send(x, end=True))
        if not self._ended:
            if self._pilot is None:
                await self._open()
            self._close()
            if self._pilot is not None:
                await self._client._end(self._pilot, self._target)  # noqa: SLF001 - its own client
            self._ended = True
        return None

    async def stream(
        self, chunks: AsyncIterable[Any] | Iterable[Any], *, end: bool = False
    ) -> AsyncIterator[Any]:
        """Take a step for every chunk; see :meth:`legato.client.Sequence.stream`."""
        await self._open()
        under_way: deque[tuple[asyncio.Future[Any], bool]] = deque()
        try:
            async for x, last in _lookahead(chunks, hold=end):
                under_way.append(self._send(x, end=last))
                while under_way and (len(under_way) >= self._window or under_way[0][0].done()):
                    yield await self._answer(*under_way.popleft())
            while under_way:
                yield await self._answer(*under_way.popleft())
        finally:
            for sink, _bare in under_way:  # nobody waits for these any more
                sink.cancel()

    async def retry(self) -> list[Outputs]:
        """Send given-up steps again; see :meth:`legato.client.Sequence.retry`."""
        await self._open()
        sink = asyncio.get_running_loop().create_future()
        self._pilot_now.retry(sink)
        return self._received_again(await sink)

    async def close(self) -> None:
        """Let go of the sequence. It lives on at the server until it ends or expires."""
        pilot = self._close()
        if pilot is not None:
            await self._client._release(pilot)  # noqa: SLF001 - its own client

    async def _open(self) -> None:
        if self._pilot is None:
            async with self._opening:
                if self._pilot is None:
                    self._refuse_if_closed()
                    hub = self._client._hub()  # noqa: SLF001 - its own client
                    info = await hub.model(self.model, self._target.version)
                    self._learnt(info)
                    if self._target.step is None:
                        self._target = await hub.find(self._target)
                    self._opened(hub, info)

    def _send(
        self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike], *, end: bool
    ) -> tuple[asyncio.Future[Any], bool]:
        payload, bare = self._packer_now.pack(x)
        sink: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pilot_now.submit(payload, sink, end=end)
        return sink, bare

    async def _answer(self, sink: asyncio.Future[Any], bare: bool) -> Any:
        return self._received(await sink, bare)


async def _lookahead(
    chunks: AsyncIterable[Any] | Iterable[Any], *, hold: bool
) -> AsyncIterator[tuple[Any, bool]]:
    """Yield each chunk and whether it is the last; only with ``hold`` is that found out."""
    if not isinstance(chunks, AsyncIterable):
        for pair in lookahead(chunks, hold=hold):
            yield pair
        return
    held: list[Any] = []
    async for chunk in chunks:
        if not hold:
            yield chunk, False
            continue
        if held:
            yield held.pop(), False
        held.append(chunk)
    for chunk in held:
        yield chunk, True
