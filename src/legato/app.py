"""The ASGI application: builds the server at start-up and routes requests to protocols.

Every protocol is one line in :func:`_rpc_services` or :func:`_routes`; everything
below them is the engine. :mod:`legato.serving.child` makes the one that is served.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from legato.core.errors import ConfigError
from legato.engine.catalog import Catalog
from legato.engine.control import Controlled
from legato.engine.engine import Engine
from legato.engine.follower import Follower, load_model
from legato.engine.garbage import Garbage
from legato.engine.suspicion import Suspicion
from legato.observe import log as logs
from legato.observe import metrics
from legato.observe import ovms as ovms_metrics
from legato.observe import triton as triton_metrics
from legato.observe.tee import Both
from legato.protocols.kserve import grpc_service, rest
from legato.protocols.kserve.facilities import Facilities
from legato.protocols.kserve.memory import Regions
from legato.protocols.rpc import health, reflection
from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.service import Status
from legato.protocols.sequences import grpc_service as sequences_service
from legato.protocols.sequences import rest as sequences_rest
from legato.protocols.sequences.api import Api
from legato.protocols.tfserving import grpc_service as tfserving_service
from legato.protocols.tfserving import rest as tfserving_rest
from legato.protocols.torchserve import front as torchserve
from legato.recorder.recorder import Recorder
from legato.repository import ovms, triton
from legato.repository.loader import load_paths
from legato.stores.registry import open_store
from legato.ui import status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from legato.protocols.rpc.service import Service
    from legato.settings import ChildSettings, ServerSettings

    Event = dict[str, Any]

log = logs.get_logger()

_SETTLE_S = 0.05
_RETURN_S = 3.0
"""Seconds after a start in which nobody grows idle: clients wait before they connect again."""


class Server:
    """One engine with its models, and the protocols in front of it."""

    def __init__(self, settings: ChildSettings) -> None:
        options = settings.server
        store = open_store(
            options.store,
            options.data,
            level=options.durability,
            clock=time.time,
            segment_bytes=options.segment_size,
            keep_ends_s=options.keep_ends_s,
        )
        self.settings = options
        self.restarts = settings.restarts
        self.died = settings.died
        crash = settings.crash
        suspicion = (
            Suspicion(crash.note, crash.suspects, crash.quarantined)
            if crash.note or crash.quarantined
            else None
        )
        self.engine = Engine(
            store,
            max_resident_bytes=options.max_resident_state,
            suspicion=suspicion,
            return_s=_RETURN_S,
        )
        self.garbage = Garbage()
        self.recorder = Recorder(self.engine, options.data)
        repository = _ovms_repository(options)
        self.catalog = _catalog(self.engine, repository, options, settings.restarts)
        self.ovms_metrics = repository.metrics() if repository is not None else ()
        self.requests = ovms_metrics.Requests() if self.ovms_metrics else None
        self.api = Api(self.engine, self.recorder)
        self.facilities = Facilities(self.catalog, Regions() if options.allow_client_shm else None)
        self.torchserve = (
            torchserve.Front(self.engine, torchserve.Options.model_validate(options.torchserve))
            if options.torchserve is not None
            else None
        )
        self.rpc = RpcApp(_rpc_services(self), max_message_bytes=options.max_message_bytes)
        self.web = Starlette(
            routes=_routes(self), exception_handlers={404: _refused, 405: _refused}
        )

    def ready(self) -> bool:
        """Whether new work is taken: not while the store cannot write."""
        engine = self.engine
        working = engine.ready and not engine.draining and engine.store.statistics().writable
        return working and self.catalog.complete

    async def start(self) -> None:
        """Load every model.

        Raises:
            ConfigError: Something cannot be served.
        """
        configs = await asyncio.to_thread(load_paths, self.settings.models)
        for config in configs:
            await load_model(self.engine, config)
        await self.catalog.load()
        if self.torchserve is not None:
            await self.torchserve.start()
        self.recorder.watch_models()
        await self.engine.start()
        await self.catalog.watch()
        self.garbage.start()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and finish what is in flight; false if time ran out."""
        done = await self.engine.drain(timeout_s)
        await asyncio.to_thread(self.recorder.writer.flush)
        await asyncio.sleep(_SETTLE_S)  # what has just come gets its own answer
        for rpc in (self.rpc, self.torchserve):
            if rpc is not None:
                rpc.close_all(Status.UNAVAILABLE, "the server is stopping")
        await asyncio.sleep(_SETTLE_S)  # the last replies are with Envoy; let it write them
        return done

    async def close(self) -> None:
        """Stop; what was recorded is written."""
        self.garbage.stop()
        await self.catalog.close()
        if self.torchserve is not None:
            self.torchserve.close()
        await self.engine.close()
        await asyncio.to_thread(self.recorder.close)

    def describe(self) -> list[dict[str, Any]]:
        """Return what is served, for the ready line."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "runtime": model.config.runtime,
                "states": len(model.signature.states),
                "batched": model.signature.batching,
            }
            for model in self.engine.models()
        ]

    def describe_store(self) -> dict[str, Any]:
        """Return where sequences are kept, for the ready line."""
        store = self.engine.store
        folder = self.settings.data if self.settings.store != "memory" else None
        return {
            "kind": store.name,
            "folder": None if folder is None else str(folder),
            "level": store.level,
            "sequences": store.statistics().live,
        }

    def health(self) -> dict[str, Any]:
        """Return how the server is, for people and monitors."""
        found = self.engine.store.statistics()
        suspicion = self.engine.suspicion
        return {
            "live": True,
            "ready": self.ready(),
            "draining": self.engine.draining,
            "store": {
                **self.describe_store(),
                "writable": found.writable,
                "problem": found.problem,
            },
            "restarts": self.restarts,
            "died": self.died,
            "quarantined": sorted(suspicion.quarantined, key=repr) if suspicion else [],
        }


def _ovms_repository(options: ServerSettings) -> ovms.OvmsRepository | None:
    if options.ovms is None:
        return None
    return ovms.OvmsRepository(ovms.Options.model_validate(options.ovms))


def _catalog(
    engine: Engine,
    repository: ovms.OvmsRepository | None,
    options: ServerSettings,
    restarts: int,
) -> Catalog:
    """Return what knows the models: the engine, or a repository that is followed."""
    if options.triton is not None:
        asked = triton.Options.model_validate(options.triton)
        kept = options.data if options.store != "memory" else None
        notes = kept / "triton-models.json" if kept is not None else None
        return Controlled(
            engine,
            triton.TritonRepository(asked, notes=notes, resume=restarts > 0),
            strict=asked.exit_on_error and not restarts,
            ready_without=not asked.strict_readiness,
        )
    if repository is None:
        return Catalog(engine)
    return Follower(engine, repository, strict=repository.single)


def _begin_log(options: ServerSettings) -> None:
    """Choose form, level and places of the log.

    Raises:
        ConfigError: Its file cannot be written.
    """
    if options.log_path is None:
        logs.configure(options.log_form, options.log_level)
        return
    try:
        logs.configure(options.log_form, options.log_level, cast("TextIO", Both(options.log_path)))
    except OSError as error:
        raise ConfigError(
            f"cannot write to {options.log_path}: {error.strerror}", key="--log_path"
        ) from None


def _rpc_services(server: Server) -> list[Service]:
    """List the gRPC services."""
    requests = server.requests
    services = [
        grpc_service.service(
            ovms_metrics.counting(server.engine, requests, "gRPC"),
            stream_order=server.settings.stream_order,
            ready=server.ready,
            facilities=server.facilities,
        ),
        sequences_service.service(server.api),
        *tfserving_service.services(
            server.engine, server.catalog, ovms_metrics.tensorflow(requests, "gRPC")
        ),
        health.service(server.ready),
    ]
    return [*services, *reflection.services(services)]


def _routes(server: Server) -> list[Any]:
    """List the HTTP routes."""
    requests = server.requests
    processor = triton_metrics.Processor()

    async def metrics_page(_request: Request) -> Response:
        body, content_type = metrics.render(server.engine, restarts=server.restarts)
        body += triton_metrics.render(server.engine, processor)
        if requests is not None:
            body += ovms_metrics.render(server.engine, server.ovms_metrics, requests)
        return Response(body, media_type=content_type)

    async def status_page(_request: Request) -> Response:
        return HTMLResponse(status.render(server.engine, server.health()))

    async def health_page(_request: Request) -> Response:
        found = server.health()
        return JSONResponse(found, status_code=200 if found["ready"] else 503)

    return [
        Route("/", status_page),
        Route("/health", health_page),
        Route("/metrics", metrics_page),
        *sequences_rest.routes(server.api, max_file_bytes=server.settings.max_message_bytes),
        *rest.routes(
            ovms_metrics.counting(server.engine, requests, "REST"),
            ready=server.ready,
            facilities=server.facilities,
            max_body_bytes=server.settings.max_message_bytes,
        ),
        # The last one: it answers for all of /v1 that no other protocol has.
        *tfserving_rest.routes(
            server.engine,
            server.catalog,
            ovms_metrics.tensorflow(requests, "REST"),
            max_body_bytes=server.settings.max_message_bytes,
        ),
    ]


def _refused(_request: Request, error: Exception) -> Response:
    """Answer for a path that nobody has, or that is not asked this way."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette's promise
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class KeptReceive:
    """``receive()`` for code that cancels: what it waits for is waited for on.

    pyvoy 1.3 logs an exception for every ``receive()`` that is cancelled.
    """

    __slots__ = ("_pending", "_receive")

    def __init__(self, receive: Callable[[], Awaitable[Event]]) -> None:
        self._receive = receive
        self._pending: asyncio.Future[Event] | None = None

    async def __call__(self) -> Event:  # noqa: D102
        if self._pending is None:
            awaitable = self._receive()
            if not asyncio.isfuture(awaitable):
                return await awaitable
            self._pending = awaitable
        event = await asyncio.shield(self._pending)
        self._pending = None
        return event


class Watcher(Protocol):
    """Who wants to know how the start went: the supervisor's end, or a test."""

    async def started(self, server: Server) -> None:
        """The server takes work from now on."""

    def failed(self, problem: str) -> None:
        """It does not, and this is why."""


class App:
    """The ASGI callable; a :class:`Server` exists from start-up to shutdown.

    Args:
        settings: Called at start-up.
        watcher: Told how the start went.
    """

    def __init__(self, settings: Callable[[], ChildSettings], watcher: Watcher) -> None:
        self._settings = settings
        self._watcher = watcher
        self._server: Server | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: D102
        server = self._server
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif server is None:
            raise RuntimeError("a request came before start-up")
        elif scope["type"] == "http":
            if server.torchserve is not None and server.torchserve.owns(scope):
                await server.torchserve(scope, receive, send)
            elif server.rpc.wants(scope):
                await server.rpc(scope, receive, send)
            else:
                await server.web(scope, KeptReceive(receive), send)

    async def _live(self, receive: Any, send: Any) -> None:
        """Follow the lifespan protocol: start, wait, stop."""
        await receive()
        try:
            await self._start()
        except ConfigError as error:
            await self._refuse(send, str(error))
            return
        except Exception as error:
            log.exception("start_failed")
            await self._refuse(send, f"{type(error).__name__}: {error}")
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if self._server is not None:
            await self._server.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        settings = self._settings()
        _begin_log(settings.server)
        server = Server(settings)
        await server.start()
        self._server = server
        await self._watcher.started(server)

    async def _refuse(self, send: Any, problem: str) -> None:
        self._watcher.failed(problem)
        await send({"type": "lifespan.startup.failed", "message": problem})
