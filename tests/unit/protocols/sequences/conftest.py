"""A real engine with a model that remembers everything, and the API in front of it."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from doubles import ChainRuntime
from legato.core.types import KSERVE, Reply, Step
from legato.engine import engine as engine_module
from legato.engine.engine import Engine
from legato.protocols.sequences import grpc_service, rest
from legato.protocols.sequences.api import Api
from legato.protocols.sequences.operations import ROOT
from legato.recorder.recorder import Recorder
from legato.repository.config import ModelConfig
from legato.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Call:
    """One gRPC call in memory."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.over: asyncio.Future = asyncio.get_running_loop().create_future()

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status=0, message="", trailers=()) -> None:
        self.over.set_result((status, message, dict(trailers)))


@dataclass
class Front:
    """An engine, its API, and clients of both wires."""

    engine: Engine
    api: Api
    web: httpx.AsyncClient

    async def step(self, cid, x: int, **options):
        """Take a step; the reply, or the error."""
        answer = asyncio.get_running_loop().create_future()
        inputs = {"x": np.array([[x]], np.int64)}
        self.engine.submit(Step("m", cid, inputs, KSERVE, answer.set_result, **options))
        return await answer

    async def begin(self, cid, *xs: int) -> Reply:
        """Begin a sequence with these steps; the last reply."""
        reply = await self.step(cid, xs[0], start=True)
        for x in xs[1:]:
            reply = await self.step(cid, x)
        return reply

    async def get(self, path: str, **query):
        return await self.web.get(ROOT + path, params=query)

    async def post(self, path: str, fields=None, **query):
        return await self.web.post(ROOT + path, json=fields or {}, params=query)

    async def delete(self, path: str, **query):
        return await self.web.delete(ROOT + path, params=query)

    async def rpc(self, name: str, request):
        """Call a gRPC method: the answer, or status, text and trailers."""
        call = Call()
        method = grpc_service.service(self.api).methods[name]
        method.factory(call).message(request.SerializeToString())
        over = await call.over
        return call.sent[0] if call.sent else over


@pytest.fixture
async def front(tmp_path, monkeypatch) -> AsyncIterator[Front]:
    monkeypatch.setattr(engine_module, "content_digest", lambda config: config.version * 16)
    monkeypatch.setattr(engine_module.registry, "build", lambda _config: ChainRuntime())
    engine = Engine(MemoryStore(clock=time.time))
    await engine.start()
    await engine.load(ModelConfig(name="m", execution="inline"))
    recorder = Recorder(engine, tmp_path)
    api = Api(engine, recorder)
    app = Starlette(routes=rest.routes(api, max_file_bytes=4096))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://legato") as web:
        yield Front(engine, api, web)
    await engine.close()
    recorder.close()
