"""What a gRPC service is made of: statuses, errors, calls, handlers, methods.

A service says for each method how to make a :class:`Handler` for a new
:class:`Call`. Everything is synchronous and runs on the event loop: messages are
handed in by calls, replies are handed out by calls, and nothing is awaited. That
is what keeps the cost of a streamed message small.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Status(enum.IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """Ends the call it is raised in with a status other than OK."""

    def __init__(
        self, status: Status, message: str, trailers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.trailers = tuple(trailers)


class Call(Protocol):
    """One call in progress, as its handler sees it. Used on the event loop only."""

    @property
    def path(self) -> str:
        """``/package.Service/Method``."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Request headers: lower-case names, repeated values joined by ``,``."""

    @property
    def deadline(self) -> float | None:
        """Seconds of ``time.monotonic`` at which the call ends, if the client set a timeout."""

    @property
    def closed(self) -> bool:
        """The call is finished or the client is gone; replies go nowhere."""

    @property
    def congested(self) -> bool:
        """The client does not read; no messages are taken from it until it does."""

    def binary_metadata(self, name: str) -> bytes | None:
        """Return the decoded value of a ``-bin`` header, ``None`` if it did not come."""

    def set_header(self, name: str, value: str) -> None:
        """Add initial metadata; without effect once the first reply has left."""

    def send(self, message: bytes) -> None:
        """Queue a reply; those queued in one turn of the loop leave together."""

    def finish(
        self,
        status: Status = Status.OK,
        message: str = "",
        trailers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """End the call after the replies queued so far; later calls are ignored."""

    def pause(self) -> None:
        """Take no further messages from this client for now."""

    def resume(self) -> None:
        """Take messages again."""


class Handler(Protocol):
    """The service's side of one call. Every method is called on the event loop."""

    def message(self, data: bytes) -> None:
        """Take one request message.

        Raises:
            RpcError: The call is finished with it, and ``cancel`` follows.
        """

    def half_close(self) -> None:
        """Note that the client will send no more. May raise :class:`RpcError`."""

    def cancel(self) -> None:
        """Note that the call is over before its time: nothing can be sent any more."""


class Method(NamedTuple):
    """How to serve one method.

    Attributes:
        factory: Makes the handler of a new call; may raise :class:`RpcError`.
        client_streaming, server_streaming: Any number of messages that way, else one.
        max_message_bytes: Largest request message; ``None`` = the app's limit.
    """

    factory: Callable[[Call], Handler]
    client_streaming: bool
    server_streaming: bool
    max_message_bytes: int | None = None


class Service(NamedTuple):
    """A service to register.

    Attributes:
        name: Full name, ``package.Service``.
        methods: Method name to method.
        file_descriptors: Serialized FileDescriptorProtos for reflection; their package
            may be our own, reflection shows it under that of ``name``.
    """

    name: str
    methods: Mapping[str, Method]
    file_descriptors: tuple[bytes, ...] = ()


class _Single:
    """Handler of a method with one request, made from a function."""

    __slots__ = ("_call", "_fn")

    def __init__(self, fn: Callable[[Call, bytes], None], call: Call) -> None:
        self._fn = fn
        self._call = call

    def message(self, data: bytes) -> None:
        self._fn(self._call, data)

    def half_close(self) -> None:
        """Nothing is left to do: the one message was handed over."""

    def cancel(self) -> None:
        """Nothing to stop: answering a closed call has no effect."""


def unary(fn: Callable[[Call, bytes], None]) -> Method:
    """Make a unary method of ``fn(call, request)``, which answers now or later.

    It answers by ``call.send(...)`` and ``call.finish()``, or raises :class:`RpcError`.
    """

    def factory(call: Call) -> Handler:
        return _Single(fn, call)

    return Method(factory, client_streaming=False, server_streaming=False)
