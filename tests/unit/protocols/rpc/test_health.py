"""The standard health service."""

from __future__ import annotations

from tests.unit.protocols.rpc.fake import FakeStream, turn

from legato.protocols.rpc import health
from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.gen.health_pb2 import HealthCheckRequest, HealthCheckResponse


class Switch:
    on = True

    def __call__(self) -> bool:
        return self.on


def statuses(stream: FakeStream) -> list[int]:
    return [HealthCheckResponse.FromString(data).status for data in stream.replies]


async def ask(ready: Switch, method: str) -> FakeStream:
    app = RpcApp([health.service(ready)])
    stream = FakeStream(f"/grpc.health.v1.Health/{method}")
    await app(stream.scope, stream.receive, stream.send)
    stream.say(HealthCheckRequest(service="any").SerializeToString(), more=False)
    await turn()
    return stream


async def test_check_tells_whether_work_is_taken() -> None:
    """One answer for all services."""
    ready = Switch()

    first = await ask(ready, "Check")
    ready.on = False
    second = await ask(ready, "Check")

    assert statuses(first) == [HealthCheckResponse.SERVING]
    assert statuses(second) == [HealthCheckResponse.NOT_SERVING]
    assert first.status == second.status == 0


async def test_watch_tells_again_only_what_has_changed(monkeypatch) -> None:
    """The stream stays open."""
    monkeypatch.setattr(health, "_WATCH_S", 0.0)
    ready = Switch()

    stream = await ask(ready, "Watch")
    await turn()
    ready.on = False
    while len(stream.replies) < 2:
        await turn()
    await turn()

    assert statuses(stream) == [HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING]
    assert stream.sent[-1]["more_body"]
