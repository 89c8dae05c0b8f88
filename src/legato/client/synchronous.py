"""The client for threads: its sequences run on one loop in the background."""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

from legato.client.background import background, build, run
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
    import asyncio
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

    import numpy.typing as npt

    from legato.client.hub import Target
    from legato.client.pilot import Pilot
    from legato.client.tensors import ModelInfo, Outputs


log = logging.getLogger("legato.client")


class Client:
    """Steps the sequences of a server; for any number of threads.

    Every step carries its number and a request id of its own and is kept until it is
    answered. When the connection or the server dies, steps without an answer are sent
    again until they have one: the server applies each once.

    Args:
        address: ``host:port``.
        settings: See :class:`~legato.client.settings.ClientSettings`.
    """

    def __init__(self, address: str, **settings: Unpack[ClientSettings]) -> None:
        self._options = options(address, settings)
        self._lock = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._made: Hub | None = None

    def __repr__(self) -> str:
        return f"<Client {self._options.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def sequence(
        self,
        model: str,
        id: int | str | None = None,  # noqa: A002 - its name everywhere
        **settings: Unpack[StartSettings],
    ) -> Sequence:
        """Begin a sequence. Nothing is sent before it is entered or stepped.

        Args:
            model: Model name.
            id: Correlation id, unique for the model; ``None`` = a UUID.
            settings: See :class:`~legato.client.settings.SequenceSettings` and
                :class:`~legato.client.settings.StartSettings`.
        """
        aim = target(model, id, **settings)
        return Sequence(self, aim, settings.get("inputs", {}))

    def resume(
        self,
        model: str,
        id: int | str,  # noqa: A002 - its name everywhere
        step: int | None = None,
        *,
        incarnation: str = "",
        **settings: Unpack[SequenceSettings],
    ) -> Sequence:
        """Go on with a live sequence, from this or another process.

        Args:
            model: Model name.
            id: Correlation id.
            step: Number of the last step whose answer is known (``step_number``). If the
                server is elsewhere, the next step is refused with ``expected_step``.
                ``None`` = wherever the server is; it is asked on entering.
            incarnation: Refuse a later sequence that has the same id.
            settings: See :class:`~legato.client.settings.SequenceSettings`; with the
                ``prefix`` that the sequence had before, a step that was under way may be
                sent once more, with the same input.
        """
        aim = target(model, id, step, incarnation, **settings)
        return Sequence(self, aim, settings.get("inputs", {}))

    def model(self, name: str, version: str = "") -> ModelInfo:
        """Return what the server tells of a model.

        Raises:
            SequenceError: It is not served, or the server does not answer.
        """
        loop, hub = self._hub()
        return run(loop, hub.model(name, version))

    def close(self) -> None:
        """Close all connections. Sequences live on at the server."""
        with self._lock:
            loop, hub = self._loop, self._made
            self._loop = self._made = None
            self._closed = True
        if loop is not None:
            try:
                if hub is not None and loop.is_running():
                    run(loop, hub.close())
            finally:
                background.release()

    def _release(self, pilot: Pilot) -> None:
        """Close a sequence's stream, unless all are closed already."""
        with self._lock:
            loop, hub = self._loop, self._made
        if loop is not None and hub is not None and loop.is_running():
            run(loop, hub.release(pilot))

    def _end(self, pilot: Pilot, aim: Target) -> None:
        """End a sequence and close its stream."""
        loop, hub = self._hub()
        run(loop, hub.end(pilot, aim))

    def _hub(self) -> tuple[asyncio.AbstractEventLoop, Hub]:
        with self._lock:
            if self._closed:
                raise SequenceError(f"{self!r} is closed", reason="closed")
            if self._loop is None:
                self._loop = background.acquire()
            if self._made is None:
                self._made = build(self._loop, lambda: Hub(self._options))
            return self._loop, self._made


class Sequence(Handle):
    """One sequence; made by :class:`~legato.Client`. Usable from several threads.

    Entering it checks the model, leaving it ends the sequence. With ``keep``, or if an
    exception leaves the block, it lives on at the server until its idle limit, and can
    be resumed.
    """

    def __init__(self, client: Client, aim: Target, constants: Mapping[str, npt.ArrayLike]) -> None:
        super().__init__(aim, constants)
        self._client = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = threading.Lock()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._stays(error):
            self.close()
            return
        try:
            self.end()
        except SequenceError as problem:  # all answers are there: not worth an exception
            log.warning("not ended: %s", problem)

    @overload
    def step(self, x: Mapping[str, npt.ArrayLike]) -> Outputs: ...

    @overload
    def step(self, x: npt.ArrayLike) -> Any: ...

    def step(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike]) -> Any:
        """Take one step and wait for its answer.

        Args:
            x: Inputs by name; or the bare array of a model that needs only one. A
                missing batch axis is added, numbers are cast where only precision is lost.

        Returns:
            The outputs by name; for a bare array and a model with one output, that array.
            ``last`` holds the whole answer.

        Raises:
            InvalidInputError: ``x`` does not fit the model.
            UnavailableError: No answer within ``retry_for_s``; see :meth:`retry`.
            SequenceError: The step was refused; the next one takes its number.
        """
        return self._collect(*self._send(x, end=False))

    @overload
    def end(self, x: None = None) -> None: ...

    @overload
    def end(self, x: Mapping[str, npt.ArrayLike]) -> Outputs: ...

    @overload
    def end(self, x: npt.ArrayLike) -> Any: ...

    def end(self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None) -> Any:
        """End the sequence: the server forgets its state.

        Args:
            x: Input of a last step, whose answer is returned, as by :meth:`step`. Without
                it no step is taken, and those still under way are dropped; that may be
                repeated, and never ends a later sequence that has the id by now.

        Raises:
            SequenceError: As :meth:`step`.
        """
        if x is not None:
            return self._collect(*self._send(x, end=True))
        if not self._ended:
            if self._pilot is None:
                self._open()
            self._close()
            if self._pilot is not None:
                self._client._end(self._pilot, self._target)  # noqa: SLF001 - its own client
            self._ended = True
        return None

    def stream(self, chunks: Iterable[Any], *, end: bool = False) -> Iterator[Any]:
        """Take a step for every chunk and yield its answer, in order.

        With a ``window`` of 1 each answer comes before the next chunk is taken; with
        more, steps are sent ahead. A chunk that was sent counts, also if the iteration
        is left before its answer.

        Args:
            chunks: What :meth:`step` takes, one after the other.
            end: The last chunk ends the sequence. Chunks of an iterator are then sent one
                chunk late, since only the next one shows that one was not the last.

        Raises:
            SequenceError: As :meth:`step`.
        """
        under_way: deque[tuple[Future[Any], bool]] = deque()
        for x, last in lookahead(chunks, hold=end):
            under_way.append(self._send(x, end=last))
            while under_way and (len(under_way) >= self._window or under_way[0][0].done()):
                yield self._collect(*under_way.popleft())
        while under_way:
            yield self._collect(*under_way.popleft())

    def retry(self) -> list[Outputs]:
        """Send the steps again that were given up with :class:`~legato.UnavailableError`.

        Returns:
            Their answers, oldest first; empty if none was given up.

        Raises:
            SequenceError: As :meth:`step`.
        """
        self._open()
        sink: Future[Any] = Future()
        self._call(self._pilot_now.retry, sink)
        return self._received_again(sink.result())

    def close(self) -> None:
        """Let go of the sequence. It lives on at the server until it ends or expires."""
        pilot = self._close()
        if pilot is not None:
            self._client._release(pilot)  # noqa: SLF001 - its own client

    def _open(self) -> None:
        if self._pilot is None:
            with self._opening:
                if self._pilot is None:
                    self._refuse_if_closed()
                    self._loop, hub = self._client._hub()  # noqa: SLF001 - its own client
                    info = run(self._loop, hub.model(self.model, self._target.version))
                    self._learnt(info)
                    if self._target.step is None:
                        self._target = run(self._loop, hub.find(self._target))
                    build(self._loop, lambda: self._opened(hub, info))

    def _send(
        self, x: npt.ArrayLike | Mapping[str, npt.ArrayLike], *, end: bool
    ) -> tuple[Future[Any], bool]:
        self._open()
        payload, bare = self._packer_now.pack(x)
        sink: Future[Any] = Future()
        self._call(lambda: self._pilot_now.submit(payload, sink, end=end))
        return sink, bare

    def _call(self, work: Any, *arguments: Any) -> None:
        if self._loop is None or self._loop.is_closed():
            raise SequenceError(f"{self!r} is closed at this end", reason="closed")
        self._loop.call_soon_threadsafe(work, *arguments)

    def _collect(self, sink: Future[Any], bare: bool) -> Any:
        return self._received(sink.result(), bare)
