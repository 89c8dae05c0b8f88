"""An engine that only notes what it is given, and answers when a test says so."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from legato.core.types import OutputHeader, Reply
from legato.protocols.torchserve.jobs import Door
from legato.protocols.torchserve.limits import Limits
from legato.protocols.torchserve.metrics import Metrics
from legato.protocols.torchserve.registry import Registered, _Versions
from legato.repository.config import ModelConfig
from legato.runtimes.torchserve.exchange import DATA, unpack
from legato.stores.memory import MemoryStore

HEADERS = (OutputHeader("response", "object", (1,)), OutputHeader("meta", "object", (1,)))
KEYS = ("ts_request_sequence_id", "ts_request_sequence_start", "ts_request_sequence_end")


def element(value: bytes) -> bytes:
    return struct.pack("<I", len(value)) + value


class FakeHandle:
    """A loaded version."""

    def __init__(self, *, stateful: bool = True) -> None:
        self.stateful = stateful
        self.ready = True
        self.instances = [SimpleNamespace(runtime=None)]
        self.free = list(self.instances)
        self.scheduler: list[Any] = []


class FakeEngine:
    """Notes steps; ``reply`` and ``fail`` answer them."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.cancelled: list[Any] = []
        self.ready, self.draining = True, False
        self.swept = 0
        self.preferred: list[tuple[str, str]] = []
        self.store = MemoryStore(clock=lambda: 0.0)

    def submit(self, step) -> None:
        self.steps.append(step)

    def cancel(self, step) -> None:
        self.cancelled.append(step)

    def models(self):
        return []

    def prefer(self, name, version) -> None:
        self.preferred.append((name, version))

    async def sweep(self) -> None:
        self.swept += 1

    def reply(self, body: bytes, at: int = -1, number: int = 1, **meta: Any) -> None:
        step = self.steps[at]
        found = {"status": 200, "phrase": "", "content_type": None, "headers": {}, **meta}
        data = (element(body), element(orjson.dumps(found)))
        step.done(Reply(HEADERS, data, step.correlation_id or 0, number, "1"))

    def fail(self, error: Exception, at: int = -1) -> None:
        self.steps[at].done(error)

    def row(self, at: int = -1) -> dict[str, bytes]:
        """What the handler would find in its row."""
        return {part.name: part.value for part in unpack(self.steps[at].inputs[DATA][0])}

    def shown(self, at: int = -1) -> dict[str, str]:
        """What the handler's context would show."""
        return self.steps[at].parameters["headers"]


class FakeManager:
    def __init__(self) -> None:
        self.ended: list[Any] = []

    async def end(self, key, *, incarnation: bytes) -> None:
        self.ended.append(key)


class Bench:
    """A door with models behind it."""

    def __init__(self) -> None:
        from legato.protocols.torchserve.registry import Registry

        self.engine = FakeEngine()
        self.manager = FakeManager()
        properties = SimpleNamespace(values={})
        self.registry = Registry(self.engine, None, properties, wall=lambda: 0.0)
        self.registry.manager = self.manager
        self.door = Door(self.registry, Metrics(self.engine), KEYS)

    def add(self, name="adder", version="1", *, stateful=True, workers=1, **keys) -> Registered:
        keys.setdefault("sequenceBatching", stateful)
        config = ModelConfig(
            name=name, version=version, runtime="torchserve", instance="process", instances=workers,
            options={"keys": keys},
        )  # fmt: skip
        one = Registered(f"{name}.mar", config, Limits.of(config), workers, workers, True)
        one.handle = FakeHandle(stateful=stateful) if workers else None
        versions = self.registry._models.setdefault(name, _Versions(version))
        versions.by_name[version] = one
        return one


@pytest.fixture
def bench() -> Bench:
    return Bench()


class FakeCall:
    """A gRPC call that keeps what is sent."""

    def __init__(self, **metadata: str) -> None:
        self.metadata = metadata
        self.deadline = None
        self.sent: list[bytes] = []
        self.status: int | None = None
        self.message = ""
        self.trailers: tuple[Any, ...] = ()
        self.paused = 0
        self.resumed = 0

    @property
    def closed(self) -> bool:
        return self.status is not None

    def send(self, message: bytes) -> None:
        assert self.status is None
        self.sent.append(message)

    def finish(self, status=0, message="", trailers=()) -> None:
        if self.status is None:
            self.status, self.message, self.trailers = int(status), message, trailers

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1


@pytest.fixture
def make_call():
    return FakeCall


class Http:
    """One request to an ASGI app, and its answer."""

    def __init__(self, method="GET", path="/", body=b"", query="", **headers: str) -> None:
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
            "server": ("127.0.0.1", 8080),
        }
        self._body = body
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.complete = False
        self.gone = False

    def header(self, name: str, value: str) -> Http:
        self.scope["headers"].append((name.encode(), value.encode()))
        return self

    async def receive(self):
        return {"type": "http.request", "body": self._body, "more_body": False}

    async def send(self, event) -> None:
        if self.gone:
            raise OSError("the client is gone")
        if event["type"] == "http.response.start":
            self.status = event["status"]
            self.headers = {k.decode(): v.decode() for k, v in event["headers"]}
        else:
            self.chunks.append(event["body"])
            self.complete = not event["more_body"]

    async def ask(self, app) -> Http:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self):
        return orjson.loads(self.body)


@pytest.fixture
def http():
    return Http
