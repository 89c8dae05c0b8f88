"""What is refused before a handler is made, and servers that give coroutines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.protocols.rpc.fake import FakeStream, turn

from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary


class Echo:
    def __init__(self, call: Any) -> None:
        self.call = call
        self.cancelled = False
        ECHOES.append(self)

    def message(self, data: bytes) -> None:
        self.call.send(data)

    def half_close(self) -> None:
        self.call.finish()

    def cancel(self) -> None:
        self.cancelled = True


ECHOES: list[Echo] = []


def refuse(_call: Any) -> Any:
    raise RpcError(Status.UNAUTHENTICATED, "who are you?")


@pytest.fixture
def app() -> RpcApp:
    return RpcApp(
        [
            Service(
                "t.S",
                {
                    "Echo": Method(Echo, client_streaming=True, server_streaming=True),
                    "Refuse": Method(refuse, client_streaming=True, server_streaming=True),
                    "Never": unary(lambda _call, _data: None),
                },
            )
        ]
    )


@pytest.mark.parametrize("path", ["/t.S/Nope", "/x.Y/Echo", "/", "/t.S/Echo/more"])
async def test_unknown_methods_are_unimplemented(app: RpcApp, path: str) -> None:
    """The message names the method."""
    stream = FakeStream(path)

    await app(stream.scope, _eager(stream.receive), _waiting(stream))

    assert stream.status == Status.UNIMPLEMENTED
    assert path in stream.trailers["grpc-message"]


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [("POST", "application/json", 415), ("POST", "application/grpc-web", 415), ("GET", "x", 405)],
)
async def test_what_is_not_grpc_gets_an_http_error(
    app: RpcApp, method: str, content_type: str, status: int
) -> None:
    """A known path with another content type or verb is refused in HTTP's words."""
    stream = FakeStream("/t.S/Echo", {"content-type": content_type}, method)

    await app(stream.scope, _eager(stream.receive), _waiting(stream))

    assert stream.sent[0]["status"] == status
    assert b"application/grpc" in stream.sent[1]["body"]


async def test_a_factory_may_refuse(app: RpcApp) -> None:
    """Its error is the status of the call."""
    stream = FakeStream("/t.S/Refuse")

    await app(stream.scope, stream.receive, stream.send)

    assert stream.status == Status.UNAUTHENTICATED


def test_requests_for_grpc_are_recognised(app: RpcApp) -> None:
    """By content type, or by a known path with any content type."""
    assert app.wants(FakeStream("/anything").scope)
    assert app.wants(FakeStream("/t.S/Echo", {"content-type": "text/plain"}).scope)
    assert not app.wants(FakeStream("/v2", {"content-type": "text/plain"}).scope)


# -- servers whose receive and send are coroutines -------------------------------------------


def _eager(receive: Any) -> Any:
    async def call() -> Any:
        return await receive()

    return call


def _waiting(stream: FakeStream) -> Any:
    async def call(event: Any) -> None:
        try:
            await stream.send(event)
        except Exception as error:
            raise OSError("client left") from error

    return call


async def test_any_asgi_server_will_do(app: RpcApp) -> None:
    """The call runs to its end while the server awaits the app."""
    stream = FakeStream("/t.S/Echo")
    serving = asyncio.create_task(app(stream.scope, _eager(stream.receive), _waiting(stream)))

    stream.say(b"a", b"b")
    await turn()
    stream.say(b"c", more=False)
    await serving

    assert stream.replies == [b"a", b"b", b"c"]
    assert stream.status == 0


async def test_on_any_server_a_client_that_leaves_ends_the_app(app: RpcApp) -> None:
    """The app's coroutine returns, and the handler is told."""
    stream = FakeStream("/t.S/Echo")
    serving = asyncio.create_task(app(stream.scope, _eager(stream.receive), _waiting(stream)))
    await turn()

    stream.leave()
    await serving

    assert ECHOES[-1].cancelled
