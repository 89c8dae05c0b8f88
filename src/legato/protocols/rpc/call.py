"""One gRPC call over ASGI, driven by callbacks.

No task, no lock and no await per message. One ``receive()`` is outstanding for the
whole life of the call and re-armed by its own callback; replies of all calls that
were queued in one turn of the loop are flushed together at its end, one ``send`` a
call. This needs an ASGI server whose ``receive()`` and ``send()`` act when they are
called and return futures, as pyvoy's do; :mod:`legato.protocols.rpc.bridge` makes
the same of any other.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from legato.faults import fault
from legato.observe.log import get_logger
from legato.protocols.rpc import headers as wire
from legato.protocols.rpc.framing import FrameReader, frame_gzip, gunzip
from legato.protocols.rpc.line import Line
from legato.protocols.rpc.service import Handler, Method, RpcError, Status

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    Event = dict[str, Any]
    Receive = Callable[[], asyncio.Future[Event]]
    Send = Callable[[Event], Any]

log = get_logger()

CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
ACCEPT_ENCODING: Final = (b"grpc-accept-encoding", b"identity,gzip")
_GZIP: Final = (b"grpc-encoding", b"gzip")
_OK_TRAILERS: Final = ((b"grpc-status", b"0"),)
_LONGEST_TIMER_S: Final = 30 * 86400.0

_pack_header = struct.Struct(">BI").pack


@dataclass(slots=True)
class Wiring:
    """What the calls of one app share.

    Attributes:
        loop: The loop that everything runs on.
        max_message_bytes: Largest request message, decompressed.
        compress_above: Replies larger than this are compressed for clients that
            accept gzip; ``None`` = never.
        max_unsent_bytes: Replies that a client leaves unread before the server
            stops reading from it.
        dirty: Calls with replies to flush at the end of this turn of the loop.
        open: Calls that are not over.
        half_closed: Open calls whose client has said everything. Their end can only
            be found by asking, see :meth:`poll`.
        lines: Calls that wait for one another, by their connection.
    """

    loop: asyncio.AbstractEventLoop
    max_message_bytes: int
    compress_above: int | None
    max_unsent_bytes: int
    dirty: list[AsgiCall] = field(default_factory=list)
    open: set[AsgiCall] = field(default_factory=set)
    half_closed: set[AsgiCall] = field(default_factory=set)
    lines: dict[Any, Line] = field(default_factory=dict)

    def flush(self) -> None:
        """Send what was queued in this turn."""
        calls = self.dirty[:]
        self.dirty.clear()
        for call in calls:
            call.flush()


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Look at a future's exception, so that nobody logs it as never retrieved."""
    if not future.cancelled():
        future.exception()


class AsgiCall:
    """The :class:`~legato.protocols.rpc.service.Call` that services get.

    Args:
        wiring: What the calls of the app share.
        scope: ASGI scope of the request.
        receive, send: As in ASGI, but acting when called and returning futures.
        method: The method called.
    """

    __slots__ = (
        "_accepts_gzip",
        "_armed",
        "_congested",
        "_ended",
        "_extra",
        "_gunzip",
        "_handler",
        "_held",
        "_last",
        "_limit",
        "_line",
        "_metadata",
        "_method",
        "_on_gone",
        "_out",
        "_over",
        "_paused",
        "_reader",
        "_receive",
        "_scope",
        "_send",
        "_started",
        "_timer",
        "_unsent",
        "_wiring",
        "deadline",
        "has_come",
    )

    def __init__(
        self, wiring: Wiring, scope: Mapping[str, Any], receive: Receive, send: Send, method: Method
    ) -> None:
        self._wiring = wiring
        self._scope = scope
        self._receive = receive
        self._send = send
        self._method = method
        self._limit = method.max_message_bytes or wiring.max_message_bytes
        self._reader = FrameReader(self._limit)
        self._handler: Handler | None = None
        self._out: list[bytes] = []
        self._extra: list[tuple[bytes, bytes]] = []
        self._held: bytes | None = None  # the one message of a call that has one
        self._last: asyncio.Future[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._metadata: wire.Metadata | None = None
        self._on_gone: Callable[[], None] | None = None
        self._line: Line | None = None
        self.has_come = False
        self._unsent = 0
        self._armed = True  # by whoever begins the call
        self._gunzip = self._accepts_gzip = False
        self._over = self._ended = self._paused = self._congested = self._started = False
        self.deadline: float | None = None

    def __repr__(self) -> str:
        state = "over" if self._over else "half-closed" if self._ended else "open"
        return f"<AsgiCall {self.path} {state} unsent={self._unsent}>"

    # -- what a service sees ----------------------------------------------------------

    @property
    def path(self) -> str:
        """``/package.Service/Method``."""
        return str(self._scope["path"])

    @property
    def metadata(self) -> Mapping[str, str]:
        """Request headers as text."""
        if self._metadata is None:
            self._metadata = wire.Metadata(self._scope["headers"])
        return self._metadata

    @property
    def closed(self) -> bool:
        """The call is over; replies go nowhere."""
        return self._over

    @property
    def congested(self) -> bool:
        """The client does not read its replies."""
        return self._congested

    def binary_metadata(self, name: str) -> bytes | None:
        """Return the decoded value of a ``-bin`` header."""
        value = self.metadata.get(name)
        return None if value is None else wire.decode_binary(value)

    def set_header(self, name: str, value: str) -> None:
        """Add initial metadata, as long as none has left."""
        if not self._started:
            self._extra.append(wire.encode_metadata(name, value))

    def send(self, message: bytes) -> None:
        """Queue a reply; it leaves at the end of this turn of the loop."""
        if self._over:
            return
        out = self._out
        if not out:
            wiring = self._wiring
            if not wiring.dirty:
                wiring.loop.call_soon(wiring.flush)
            wiring.dirty.append(self)
        if self._accepts_gzip and len(message) > (self._wiring.compress_above or 0):
            out.append(frame_gzip(message))
        else:
            out.append(_pack_header(0, len(message)) + message)

    def finish(
        self,
        status: Status = Status.OK,
        message: str = "",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Send what is queued and end the call."""
        if self._over:
            return
        self._close()
        body = b"".join(self._out)
        self._out.clear()
        ending: Sequence[tuple[bytes, bytes]] = _OK_TRAILERS
        if status or message or trailers:
            ending = [(b"grpc-status", b"%d" % status)]
            if message:
                ending.append((b"grpc-message", wire.encode_message(message)))
            ending += [wire.encode_metadata(*pair) for pair in trailers]
        send = self._send
        if status and not body and not self._started:
            self._start(ending, trailers=False)
            send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if not self._started:
            self._start((), trailers=True)
        send({"type": "http.response.body", "body": body, "more_body": False})
        send({"type": "http.response.trailers", "headers": ending, "more_trailers": False})

    def pause(self) -> None:
        """Take no further messages until :meth:`resume`."""
        self._paused = True

    def resume(self) -> None:
        """Take messages again, those that have come already first."""
        if self._paused:
            self._paused = False
            if not self._congested and self._handler is not None:
                self._wiring.loop.call_soon(self._go_on)

    # -- life -------------------------------------------------------------------------

    def begin(self, on_gone: Callable[[], None] | None = None) -> bool:
        """Read the call's headers and make its handler; whether the call goes on.

        ``on_gone`` is called if the client leaves before the call was finished.
        """
        self._on_gone = on_gone
        found = dict(self._scope["headers"])
        try:
            timeout = found.get(b"grpc-timeout")
            if timeout is not None:
                self._set_deadline(wire.parse_timeout(timeout))
            encoding = found.get(b"grpc-encoding", b"identity")
            if encoding != b"identity":
                self._accept_encoding(encoding)
            if self._wiring.compress_above is not None:
                accepted = found.get(b"grpc-accept-encoding", b"").split(b",")
                self._accepts_gzip = b"gzip" in (name.strip() for name in accepted)
            if not self._over:
                self._handler = self._method.factory(self)
        except RpcError as error:
            self.finish(error.status, error.message, error.trailers)
        except Exception as error:  # noqa: BLE001 - the outermost of this call: logged, INTERNAL
            self._broke(error)
        if self._over:
            self._handler = None
        else:
            self._wiring.open.add(self)
        return not self._over

    def close(self, status: Status, message: str) -> None:
        """End the call from the server's side; its handler is told by ``cancel``."""
        if not self._over:
            self._fail(status, message)

    def received(self, future: asyncio.Future[Event]) -> None:
        """Take what ``receive()`` gave: callback of its future."""
        self._armed = False
        if future.cancelled() or future.exception() is not None:
            self._gone()
            return
        event = future.result()
        if event["type"] != "http.request":
            self._gone()
            return
        if self._over:
            return
        body = event.get("body")
        if body:
            self._reader.push(body)
        if not event.get("more_body"):
            self._ended = True
            if self._line is not None:
                self._line.came(self)
                return
        if not (self._paused or self._congested):
            self._go_on()

    def line_up(self) -> None:
        """Take the message of a call that has one after those begun before it; see ``line``."""
        client = self._scope.get("client")
        if client is not None:
            lines = self._wiring.lines
            line = lines.get(client)
            if line is None:
                line = Line(self._wiring.loop, lines, client)
            line.join(self)
            self._line = line

    def next_in_line(self, *, come: bool) -> None:
        """Leave the line, and take the message if it has come."""
        self._line = None
        if come:
            self._go_on()

    def poll(self) -> None:
        """Ask whether the client of a half-closed call is still there."""
        self._receive().add_done_callback(self.received_late)

    def received_late(self, future: asyncio.Future[Event]) -> None:
        """Take the answer of :meth:`poll`; only a disconnect is news."""
        if not future.cancelled() and future.exception() is None:
            if future.result()["type"] == "http.disconnect":
                self._gone()
        else:
            self._gone()

    def flush(self) -> None:
        """Send the queued replies as one chunk."""
        out = self._out
        if not out:
            return  # finished or gone since it was queued
        body = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        if fault("reply.before_send") == "drop":
            self._fail(Status.UNAVAILABLE, "the reply was lost")
            return
        if not self._started:
            self._start((), trailers=True)
        last = self._last
        if last is None or last.done():
            if last is not None and (last.cancelled() or last.exception() is not None):
                self._gone()
                return
            self._unsent = len(body)
        else:
            last.add_done_callback(_retrieve)
            self._unsent += len(body)
        sent = self._send({"type": "http.response.body", "body": body, "more_body": True})
        if not hasattr(sent, "add_done_callback"):
            self._gone()  # the server refuses: the client is gone
            return
        self._last = sent
        fault("reply.after_send")
        if self._unsent > self._wiring.max_unsent_bytes and not self._congested:
            self._congested = True
            sent.add_done_callback(self._unsent_gone)

    # -- inside -------------------------------------------------------------------------

    def _start(self, ending: Sequence[tuple[bytes, bytes]], *, trailers: bool) -> None:
        """Send the response's head; it leaves with the first body."""
        self._started = True
        found = [CONTENT_TYPE, *self._extra, *ending]
        if self._accepts_gzip:
            found.append(_GZIP)
        self._send(
            {"type": "http.response.start", "status": 200, "headers": found, "trailers": trailers}
        )

    def _set_deadline(self, timeout_s: float) -> None:
        self.deadline = time.monotonic() + timeout_s
        if timeout_s < _LONGEST_TIMER_S:
            self._timer = self._wiring.loop.call_later(timeout_s, self._expired)

    def _accept_encoding(self, encoding: bytes) -> None:
        if encoding != b"gzip":
            self._extra.append(ACCEPT_ENCODING)
            name = encoding.decode("latin-1")[:40]
            raise RpcError(
                Status.UNIMPLEMENTED,
                f"message encoding '{name}' is not known here; use identity or gzip",
            )
        self._gunzip = True

    def _go_on(self) -> None:
        """Hand over the messages that have come; then wait for more, or half-close."""
        try:
            self._deliver()
        except RpcError as error:
            self._fail(error.status, error.message, error.trailers)
        except Exception as error:  # noqa: BLE001 - the outermost of this call: logged, INTERNAL
            self._broke(error)
        if not (self._armed or self._over or self._ended):
            self._armed = True
            self._receive().add_done_callback(self.received)

    def _deliver(self) -> None:
        pop, handler = self._reader.pop, self._handler
        streaming = self._method.client_streaming
        while not (self._over or self._paused or self._congested):
            popped = pop()
            if popped is None or handler is None:
                break
            flag, message = popped
            if flag:
                message = self._decompress(message)
            if streaming:
                handler.message(message)
            elif self._held is None:
                self._held = message
            else:
                raise RpcError(Status.UNIMPLEMENTED, "the method takes one message, more came")
        else:
            return
        if self._ended:
            self._half_closed()

    def _half_closed(self) -> None:
        handler = self._handler
        if handler is None:
            return
        if self._reader.pending:
            raise RpcError(
                Status.INTERNAL,
                f"the request ends within a message: {self._reader.pending} bytes are left over",
            )
        if not self._method.client_streaming:
            message = self._held
            if message is None:
                raise RpcError(Status.UNIMPLEMENTED, "the method takes one message, none came")
            self._held = None
            handler.message(message)
            if self._over:
                return
        handler.half_close()
        if not self._over:
            self._wiring.half_closed.add(self)

    def _decompress(self, message: bytes) -> bytes:
        if not self._gunzip:
            raise RpcError(
                Status.INTERNAL, "a message has its compressed flag set, but no grpc-encoding came"
            )
        return gunzip(message, self._limit)

    def _close(self) -> None:
        """Nothing happens on this call any more, apart from what the caller still sends."""
        self._over = True
        self._handler = None
        line = self._line
        if line is not None:
            self._line = None
            line.leave(self)
        self._wiring.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._ended:
            self._wiring.half_closed.discard(self)
        last = self._last
        if last is not None:
            self._last = None
            last.add_done_callback(_retrieve)

    def _fail(self, status: Status, message: str, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the call with an error and tell the handler."""
        handler = self._handler
        self.finish(status, message, trailers)
        if handler is not None:
            self._tell(handler)

    def _broke(self, error: Exception) -> None:
        """End the call because of an exception that its service did not expect."""
        log.error("a gRPC handler failed", path=self.path, exc_info=error)
        self._fail(Status.INTERNAL, "internal error; the server's log tells more")

    def _expired(self) -> None:
        self._timer = None
        self._fail(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _gone(self) -> None:
        """The client has left."""
        if self._over:
            return
        handler, on_gone = self._handler, self._on_gone
        self._close()
        self._out.clear()
        if on_gone is not None:
            on_gone()
        if handler is not None:
            self._tell(handler)

    def _tell(self, handler: Handler) -> None:
        try:
            handler.cancel()
        except Exception:
            log.exception("a gRPC handler failed to cancel", path=self.path)

    def _unsent_gone(self, _sent: asyncio.Future[Any]) -> None:
        """The client reads again, or has left: callback of the last send."""
        last = self._last
        if last is not None and not last.done():
            last.add_done_callback(self._unsent_gone)
            return
        self._congested = False
        if last is not None and (last.cancelled() or last.exception() is not None):
            self._gone()
        elif not self._over and not self._paused:
            self._go_on()
