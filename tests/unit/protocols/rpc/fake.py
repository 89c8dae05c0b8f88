"""An ASGI server and a client in memory, for calls under test."""

from __future__ import annotations

import asyncio
from typing import Any

from legato.protocols.rpc.framing import FrameReader, frame

TURNS = 6


class GoneError(Exception):
    """What a server raises from ``send`` when the client has left."""


class FakeStream:
    """One request: ``say`` and ``leave`` are the client, ``receive`` and ``send`` the server.

    ``hold`` keeps replies unwritten, as a client does that does not read.
    """

    def __init__(
        self, path: str, headers: dict[str, str] | None = None, method: str = "POST"
    ) -> None:
        fields = {"content-type": "application/grpc", "te": "trailers", **(headers or {})}
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in fields.items()],
        }
        self.events: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.waiting: asyncio.Future[dict[str, Any]] | None = None
        self.receives = 0
        self.hold = False
        self.gone = False
        self.unwritten: list[asyncio.Future[None]] = []

    def receive(self) -> asyncio.Future[dict[str, Any]]:
        assert self.waiting is None, "two receives are outstanding"
        self.receives += 1
        self.waiting = asyncio.get_running_loop().create_future()
        self._serve()
        return self.waiting or self._last

    def send(self, event: dict[str, Any]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent.append(event)
        if self.gone:
            future.set_exception(GoneError())
        elif self.hold:
            self.unwritten.append(future)
        else:
            future.set_result(None)
        return future

    def say(self, *messages: bytes, more: bool = True, raw: bytes = b"") -> None:
        body = b"".join(map(frame, messages)) + raw
        self.events.append({"type": "http.request", "body": body, "more_body": more})
        self._serve()

    def leave(self) -> None:
        self.gone = True
        self.events.append({"type": "http.disconnect"})
        self._serve()

    def write(self) -> None:
        """Let the client read what was held."""
        self.hold = False
        for future in self.unwritten:
            future.set_result(None)
        self.unwritten.clear()

    def _serve(self) -> None:
        if self.waiting is not None and self.events:
            self._last = self.waiting
            self.waiting = None
            self._last.set_result(self.events.pop(0))

    # -- what the client sees -----------------------------------------------------------

    @property
    def replies(self) -> list[bytes]:
        reader = FrameReader(1 << 30)
        found = []
        for event in self.sent:
            if event["type"] == "http.response.body":
                reader.push(event["body"])
        while (popped := reader.pop()) is not None:
            found.append(popped[1])
        return found

    @property
    def head(self) -> dict[str, str]:
        return _text(self.sent[0]["headers"])

    @property
    def trailers(self) -> dict[str, str]:
        """The status headers, whether they came as trailers or with the head."""
        last = self.sent[-1]
        if last["type"] == "http.response.trailers":
            return _text(last["headers"])
        return self.head if not last["more_body"] else {}

    @property
    def status(self) -> int:
        return int(self.trailers["grpc-status"])


def _text(headers: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


async def turn() -> None:
    """Let everything that is ready happen."""
    for _ in range(TURNS):
        await asyncio.sleep(0)
