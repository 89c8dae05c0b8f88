"""gRPC as an ASGI application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from legato.protocols.rpc.bridge import Bridge
from legato.protocols.rpc.call import CONTENT_TYPE, AsgiCall, Wiring
from legato.protocols.rpc.headers import encode_message, is_grpc
from legato.protocols.rpc.service import Method, Service, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
MAX_UNSENT_BYTES: Final = 4 * 1024 * 1024
_POLL_S: Final = 1.0


class RpcApp:
    """Serves gRPC services to requests with ``content-type: application/grpc``.

    Args:
        services: What to serve.
        max_message_bytes: Largest request message, also after decompression.
        compress_above: Compress replies above this size with gzip, if the client
            accepts it; ``None`` = never.
        max_unsent_bytes: Replies that a client may leave unread before the server
            stops reading from it.
    """

    def __init__(
        self,
        services: Iterable[Service],
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        compress_above: int | None = None,
        max_unsent_bytes: int = MAX_UNSENT_BYTES,
    ) -> None:
        self.services: tuple[Service, ...] = tuple(services)
        self._methods: dict[str, Method] = {
            f"/{service.name}/{name}": method
            for service in self.services
            for name, method in service.methods.items()
        }
        self._limits = (max_message_bytes, compress_above, max_unsent_bytes)
        self._wiring: Wiring | None = None

    def __repr__(self) -> str:
        return f"<RpcApp services={len(self.services)} methods={len(self._methods)}>"

    def wants(self, scope: Any) -> bool:
        """Whether a request is for gRPC: by its path, or by its content type."""
        return scope["path"] in self._methods or any(
            name == b"content-type" and is_grpc(value) for name, value in scope["headers"]
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: D102
        method = self._methods.get(scope["path"])
        if method is None or not _acceptable(scope):
            for event in _refusal(scope):
                await send(event)
            return
        wiring = self._wiring or self._begin()
        first = receive()
        if hasattr(first, "add_done_callback"):
            # The server acts when called and needs no coroutine to stay: this one
            # returns at once, and the call lives on in callbacks.
            call = AsgiCall(wiring, scope, receive, send, method)
            if call.begin() and not method.client_streaming:
                call.line_up()
            first.add_done_callback(call.received)
            return
        bridge = Bridge(first, receive, send)
        call = AsgiCall(wiring, scope, bridge.receive, bridge.send, method)
        if call.begin(bridge.close):
            bridge.receive().add_done_callback(call.received)
        await bridge.run()

    def close_all(self, status: Status, message: str) -> None:
        """End every open call with this status; call it on the event loop."""
        if self._wiring is not None:
            for call in list(self._wiring.open):
                call.close(status, message)

    def _begin(self) -> Wiring:
        """Learn the loop from the first call."""
        loop = asyncio.get_running_loop()
        self._wiring = Wiring(loop, *self._limits)
        loop.call_later(_POLL_S, self._poll, frozenset())
        return self._wiring

    def _poll(self, older: frozenset[AsgiCall]) -> None:
        """Look after half-closed calls that were there a while ago already.

        Once a request is complete, pyvoy does not announce that its client left;
        it says so only when asked.
        """
        wiring = self._wiring
        if wiring is None:
            return
        for call in older & wiring.half_closed:
            call.poll()
        wiring.loop.call_later(_POLL_S, self._poll, frozenset(wiring.half_closed))


def _acceptable(scope: Any) -> bool:
    if scope["method"] != "POST":
        return False
    for name, value in scope["headers"]:
        if name == b"content-type":
            return value == b"application/grpc" or is_grpc(value)
    return False


def _refusal(scope: Any) -> Sequence[dict[str, Any]]:
    """Return the answer to what is not a call of a known method."""
    head: dict[str, Any] = {"type": "http.response.start", "status": 200}
    body = b""
    if _acceptable(scope):
        text = f"unknown method '{scope['path'][:200]}'"
        head["headers"] = [
            CONTENT_TYPE,
            (b"grpc-status", b"%d" % Status.UNIMPLEMENTED),
            (b"grpc-message", encode_message(text)),
        ]
    else:
        head["status"] = 405 if scope["method"] != "POST" else 415
        body = b"gRPC wants POST with content-type application/grpc\n"
        head["headers"] = [(b"content-type", b"text/plain; charset=utf-8")]
    return [head, {"type": "http.response.body", "body": body, "more_body": False}]
