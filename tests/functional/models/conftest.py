"""An engine on a memory store, and steps on it that can be awaited."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from legato.core.types import NATIVE, Reply, Step
from legato.engine.engine import Engine
from legato.stores.registry import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


class Bench:
    """Steps sequences on a real engine and returns arrays."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._begun: set[tuple[str, int]] = set()

    async def step(self, model: str, sequence: int, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run the next step of a sequence; the first one begins it."""
        return await self.feed(model, sequence, inputs)

    async def feed(
        self, model: str, sequence: int, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        answer = asyncio.get_running_loop().create_future()
        start = (model, sequence) not in self._begun
        self._begun.add((model, sequence))
        step = Step(model, sequence, inputs, NATIVE, done=answer.set_result, start=start)
        self.engine.submit(step)
        reply = await answer
        if not isinstance(reply, Reply):
            raise reply
        return {
            header.name: np.frombuffer(data, header.dtype).reshape(header.shape)
            for header, data in zip(reply.headers, reply.data, strict=True)
        }

    def mean_batch(self, model: str) -> float:
        sizes = self.engine.model(model).statistics.batch_size
        return sizes.total / sizes.count


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    engine = Engine(open_store("memory", None, level="process", clock=time.time))
    await engine.start()
    yield Bench(engine)
    await engine.close()
