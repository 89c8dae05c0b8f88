"""The standard health service, ``grpc.health.v1.Health``.

One answer for the whole server: the service name in a request is ignored, as
Triton does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from legato.protocols.rpc.gen import health_pb2
from legato.protocols.rpc.service import Call, Handler, Method, Service, unary

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = "grpc.health.v1.Health"
_WATCH_S: Final = 0.5

_SERVING: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.SERVING
).SerializeToString()
_NOT_SERVING: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.NOT_SERVING
).SerializeToString()


def service(ready: Callable[[], bool]) -> Service:
    """Return the health service of a server that takes work when ``ready()``."""

    def check(call: Call, _request: bytes) -> None:
        call.send(_SERVING if ready() else _NOT_SERVING)
        call.finish()

    def watch(call: Call) -> Handler:
        return _Watcher(call, ready)

    return Service(
        NAME,
        {
            "Check": unary(check),
            "Watch": Method(watch, client_streaming=False, server_streaming=True),
        },
        (health_pb2.DESCRIPTOR.serialized_pb,),
    )


class _Watcher:
    """Tells the answer, and again when it has changed."""

    __slots__ = ("_call", "_ready", "_timer", "_told")

    def __init__(self, call: Call, ready: Callable[[], bool]) -> None:
        self._call = call
        self._ready = ready
        self._told: bool | None = None
        self._timer: asyncio.TimerHandle | None = None

    def message(self, data: bytes) -> None:
        del data  # names a service; there is one answer for all
        self._look()

    def half_close(self) -> None:
        """A watcher goes on until its client leaves."""

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._ready()
        if now is not self._told:
            self._told = now
            self._call.send(_SERVING if now else _NOT_SERVING)
        self._timer = asyncio.get_running_loop().call_later(_WATCH_S, self._look)
