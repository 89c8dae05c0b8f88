"""Everything TorchServe's clients see: which port serves what, who may, and what is kept.

On these ports nothing but TorchServe's APIs is served: what needs no key elsewhere must not be
a way around one here.
"""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict

from legato.observe.log import get_logger
from legato.protocols.rpc.app import RpcApp
from legato.protocols.torchserve import (
    errors,
    grpc_inference,
    grpc_management,
    http,
    open_inference,
)
from legato.protocols.torchserve.handler_metrics import HandlerMetrics
from legato.protocols.torchserve.jobs import Door
from legato.protocols.torchserve.management import Management
from legato.protocols.torchserve.metrics import NAMES, Metrics
from legato.protocols.torchserve.registry import Registry
from legato.protocols.torchserve.rest_inference import InferenceApp
from legato.protocols.torchserve.rest_management import ManagementApp, MetricsApp
from legato.protocols.torchserve.store import ModelStore
from legato.protocols.torchserve.tokens import Tokens
from legato.repository.ts_properties import (
    MAX_REQUEST_SIZE,
    SNAPSHOT_KEY,
    Properties,
    write_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.engine.engine import Engine
    from legato.protocols.rpc.service import Call, Status
    from legato.protocols.torchserve.tokens import Kind

log = get_logger()

_METRICS_PATH: Final = "/metrics"


class Options(BaseModel):
    """What ``legato torchserve`` was asked for.

    Attributes:
        properties: Keys of config.properties, flags included.
        inner: Ports that clients speak TLS on, and those behind them.
        model_store: Folder of archives.
        key_file: Where the keys are; ``None`` = nobody needs one.
        model_api: Clients may register and unregister models.
        snapshots: Folder for snapshots; ``None`` = none are written.
        metrics_log: File that each value of a handler's metrics is written to; ``None`` = none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    properties: dict[str, str] = {}
    inner: dict[int, int] = {}
    model_store: Path
    key_file: Path | None = None
    model_api: bool = False
    snapshots: Path | None = None
    metrics_log: Path | None = None


class Front:
    """ASGI: TorchServe's APIs, by the port that a request came in on.

    Args:
        engine: Serves the models.
        options: What was asked for.
        wall: Wall-clock seconds.
    """

    def __init__(
        self, engine: Engine, options: Options, wall: Callable[[], float] = time.time
    ) -> None:
        properties = Properties.read(options.properties)
        self._options = options
        self._properties = properties
        self._wall = wall
        self._tokens = self._make_tokens()
        store = ModelStore(options.model_store, properties.texts("allowed_urls"))
        self._measured = measured = _handler_metrics(properties, options.metrics_log)
        self.registry = Registry(engine, store, properties, self._snapshot, wall, measured.take)
        metrics = Metrics(engine, measured)
        door = Door(self.registry, metrics, properties.header_keys)
        management = Management(door, model_api=options.model_api)
        limit = properties.number("max_request_size", MAX_REQUEST_SIZE)
        cors = http.Cors(*(properties.values.get(f"cors_allowed_{what}", "") for what in _CORS))
        authorise = partial(self._authorise, "inference")
        services = [grpc_inference.service(door, authorise, limit)]
        if properties.open_inference:
            services.append(open_inference.service(door, authorise, limit))
        inference_rpc = RpcApp(services, max_message_bytes=limit)
        management_rpc = RpcApp(
            [grpc_management.service(management, partial(self._authorise, "management"), limit)],
            max_message_bytes=limit,
        )
        self._rpcs = (inference_rpc, management_rpc)
        self._served: dict[int, list[Any]] = {}
        self._metrics = MetricsApp(metrics, cors)
        allows = partial(self._allows, "inference")
        for address, app in (
            (
                properties.inference,
                InferenceApp(door, allows, limit, cors, open_inference=properties.open_inference),
            ),
            (properties.management, ManagementApp(management, self._tokens, metrics, cors)),
            (properties.metrics, self._metrics),
            (properties.grpc_inference, inference_rpc),
            (properties.grpc_management, management_rpc),
        ):
            if address is not None:
                port = options.inner.get(address.port, address.port)
                self._served.setdefault(port, []).append(app)

    def __repr__(self) -> str:
        return f"<Front ports={sorted(self._served)} {self.registry!r}>"

    def owns(self, scope: Any) -> bool:
        """Whether a request came in on a port of these APIs."""
        return scope["server"][1] in self._served

    # -- life -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Load what the server starts with.

        Raises:
            ConfigError: Something cannot be loaded.
        """
        snapshot = self._properties.mapping(SNAPSHOT_KEY).get("models", {})
        await self.registry.start(
            list(self._properties.texts("load_models")),
            snapshot if isinstance(snapshot, dict) else {},
        )
        self._snapshot("startup")

    def close(self) -> None:
        """Keep what is registered."""
        self._snapshot("shutdown")
        self._measured.close()

    def close_all(self, status: Status, message: str) -> None:
        """End every open gRPC call with this status."""
        for rpc in self._rpcs:
            rpc.close_all(status, message)

    def _snapshot(self, kind: str) -> None:
        folder = self._options.snapshots
        if folder is None:
            return
        # What is loaded now says what is loaded next time.
        left_out = (SNAPSHOT_KEY, "load_models")
        values = {k: v for k, v in self._options.properties.items() if k not in left_out}
        now = datetime.fromtimestamp(self._wall()).astimezone()
        try:
            write_snapshot(folder, kind, values, self.registry.snapshot(), now)
        except OSError as error:
            log.warning("snapshot_not_written", problem=str(error))

    # -- keys -----------------------------------------------------------------------------

    def _make_tokens(self) -> Tokens | None:
        file = self._options.key_file
        if file is None:
            return None
        minutes = self._properties.number("token_expiration_min", 60)
        tokens = Tokens(file, minutes, self._wall)
        tokens.load()
        return tokens

    def _allows(self, kind: Kind, header: str | None) -> bool:
        return self._tokens is None or self._tokens.allows(kind, header)

    def _authorise(self, kind: Kind, call: Call) -> None:
        """Check the key of a gRPC call.

        Raises:
            RpcError: It has none that is good.
        """
        if self._tokens is not None and not self._tokens.allows(
            kind, call.metadata.get("authorization")
        ):
            error = errors.bad_token()
            error.java = ""
            raise error.rpc_error()

    # -- requests -------------------------------------------------------------------------

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Give a request to what its port is for."""
        apps = self._served.get(scope["server"][1], [])
        rpcs = [app for app in apps if isinstance(app, RpcApp)]
        others = [app for app in apps if not isinstance(app, RpcApp)]
        if rpcs and rpcs[0].wants(scope):
            # Where both services share a port, the path says which one is meant.
            app: Any = next((rpc for rpc in rpcs if _has(rpc, scope["path"])), rpcs[0])
        elif self._metrics in others and scope["path"] == _METRICS_PATH:
            app = self._metrics
        elif others:
            app = _by_path(others, scope["path"])
        else:
            await http.answer_failure(send, errors.not_found())
            return
        await app(scope, receive, send)


def _handler_metrics(properties: Properties, file: Path | None) -> HandlerMetrics:
    """Show what is declared; everything where nothing was said of it."""
    declared = {(one.kind, one.name): one.unit for one in properties.declared_metrics()}
    return HandlerMetrics(declared, NAMES, file, everything=properties.shows_all_metrics)


_CORS: Final = ("origin", "methods", "headers")


def _has(rpc: RpcApp, path: str) -> bool:
    return any(path.startswith(f"/{service.name}/") for service in rpc.services)


def _by_path(apps: list[Any], path: str) -> Any:
    """Choose between APIs that share a port: management has ``/models`` and ``/token``."""
    if len(apps) == 1:
        return apps[0]
    words = path.split("/")
    managed = words[1:2] in (["models"], ["token"]) and words[-1] != "invoke"
    wanted = ManagementApp if managed else InferenceApp
    return next((app for app in apps if isinstance(app, wanted)), apps[0])
