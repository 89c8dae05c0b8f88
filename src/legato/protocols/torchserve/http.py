"""Small HTTP answers, and how a request is read, without a framework in the way."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from legato.protocols.http.body import ClientGoneError, TooLargeError, read_body
from legato.protocols.torchserve.errors import Failure, pretty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    Send = Callable[[dict[str, Any]], Awaitable[None]]
    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Header = tuple[bytes, bytes]

JSON: Final = (b"content-type", b"application/json")
FIXED: Final = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
_MOST_DRAINED: Final = 64 * 1024 * 1024
_HOP: Final = frozenset(
    b"connection content-length keep-alive te trailer transfer-encoding upgrade".split()
)


async def answer(send: Send, status: int, body: bytes, headers: Iterable[Header] = (JSON,)) -> None:
    """Send a whole answer."""
    made = [*headers, *FIXED, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": made})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def answer_json(send: Send, status: int, value: object) -> None:
    """Send a JSON answer."""
    await answer(send, status, pretty(value))


async def answer_failure(send: Send, error: Failure, headers: Iterable[Header] = ()) -> None:
    """Send an error."""
    extra = encoded(dict(error.headers))
    await answer(send, error.status, error.body(), (JSON, *extra, *headers))


async def body_of(scope: Mapping[str, Any], receive: Receive, limit: int) -> bytes | None:
    """Return the body of a request; ``None`` if the client left.

    Raises:
        Failure: It is too large; the answer has no body.
    """
    declared = next((v for n, v in scope["headers"] if n == b"content-length"), None)
    try:
        return await read_body(receive, declared.decode() if declared else None, limit)
    except TooLargeError as error:
        await _drain(receive)
        raise TooLong(str(error)) from None
    except ClientGoneError:
        return None


async def _drain(receive: Receive) -> None:
    """Take the rest of a body: a client that still sends would not see the answer."""
    size = 0
    while size < _MOST_DRAINED:
        event = await receive()
        size += len(event.get("body", b""))
        if event["type"] != "http.request" or not event.get("more_body"):
            return


class TooLong(Failure):
    """The body is longer than ``max_request_size``."""

    def __init__(self, text: str) -> None:
        super().__init__(413, "RequestEntityTooLargeException", text)

    def body(self) -> bytes:
        """Return what TorchServe sends: nothing."""
        return b""


def encoded(headers: Mapping[str, str]) -> list[Header]:
    """Return headers for the wire; those that belong to the connection are left out."""
    made = []
    for name, value in headers.items():
        key = name.lower().encode("latin-1", "replace")
        if key not in _HOP:
            made.append((key, _one_line(value)))
    return made


def _one_line(value: str) -> bytes:
    return " ".join(value.splitlines()).encode("latin-1", "replace")


def texts(scope: Mapping[str, Any]) -> dict[str, str]:
    """Return the request headers as text; of repeated ones the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


class Chunks:
    """Answers on their way from callbacks to one coroutine that sends them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue()

    def put(self, item: Any) -> None:
        """Add one; called on the loop."""
        self._queue.put_nowait(item)

    async def get(self) -> Any:
        """Wait for the next one."""
        return await self._queue.get()


class Cors:
    """Headers for browsers of other origins; none unless they are configured."""

    def __init__(self, origin: str, methods: str, headers: str) -> None:
        self.headers: Sequence[Header] = tuple(
            (name, value.encode())
            for name, value in (
                (b"access-control-allow-origin", origin),
                (b"access-control-allow-methods", methods),
                (b"access-control-allow-headers", headers),
            )
            if value
        )
