"""An ASGI app with an echo service, loaded by Envoy in the tests beside."""

from __future__ import annotations

import asyncio

from legato.protocols.rpc import health, reflection
from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary

CANCELLED: list[str] = []


class Echo:
    """Sends back what it gets; a few words have a meaning."""

    def __init__(self, call):
        self.call = call
        self.held = []
        call.set_header("x-path", call.path)

    def message(self, data):
        if data == b"fail":
            raise RpcError(Status.ABORTED, "as you wish: 100% \u00e9", [("x-why", "asked")])
        if data == b"bug":
            raise ZeroDivisionError
        if data == b"pause":
            self.call.pause()
            asyncio.get_running_loop().call_later(0.5, self.call.resume)
        elif data.startswith(b"flood "):
            for _ in range(int(data[6:])):
                self.call.send(bytes(1_000_000))
        self.call.send(data)

    def half_close(self):
        raw = self.call.binary_metadata("x-raw-bin")
        trailers = [] if raw is None else [("x-raw-bin", raw[::-1].decode("latin-1"))]
        self.call.finish(trailers=trailers)

    def cancel(self):
        CANCELLED.append(self.call.metadata.get("x-name", "?"))


class Collect(Echo):
    """Answers once, with everything joined."""

    def message(self, data):
        self.held.append(data)

    def half_close(self):
        self.call.send(b"".join(self.held))
        self.call.finish()


class Count(Echo):
    """Answers one number with as many messages."""

    def message(self, data):
        for number in range(int(data)):
            self.call.send(b"%d" % number)
        self.call.finish()

    def half_close(self):
        pass


class Never(Echo):
    """Takes one message and never answers."""

    def message(self, data):
        pass

    def half_close(self):
        pass


def double(call, data):
    call.send(data * 2)
    call.finish()


def cancelled(call, _data):
    call.send(",".join(CANCELLED).encode())
    call.finish()


services = [
    Service(
        "test.Echo",
        {
            "Stream": Method(Echo, client_streaming=True, server_streaming=True),
            "Collect": Method(Collect, client_streaming=True, server_streaming=False),
            "Count": Method(Count, client_streaming=False, server_streaming=True),
            "Never": Method(Never, client_streaming=False, server_streaming=False),
            "Double": unary(double),
            "Cancelled": unary(cancelled),
        },
    ),
    health.service(lambda: True),
]
rpc = RpcApp(
    [*services, *reflection.services(services)],
    max_message_bytes=32_000_000,
    compress_above=1000,
)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
    else:
        await rpc(scope, receive, send)
