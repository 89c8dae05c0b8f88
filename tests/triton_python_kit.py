"""Serves Triton's Python models from files through an engine, for tests of their workers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from legato.core.parts import from_part
from legato.core.types import KSERVE, Reply, Step
from legato.engine.engine import Engine
from legato.repository.triton.options import Options
from legato.repository.triton.repository import TritonRepository
from legato.stores.registry import open_store
from torchserve_kit import lives, until

__all__ = ["MODELS", "Bench", "lives", "until"]

MODELS = Path(__file__).parent / "models" / "triton_python"


class Bench:
    """An engine with one store, and steps sent to it; ``last`` is the last of them."""

    last: Step

    def __init__(self, store: Any = None) -> None:
        self.engine = Engine(store or open_store("memory", None, level="none", clock=time.time))

    async def load(self, name: str, folder: Path = MODELS, **changes: Any) -> Any:
        """Start the engine, if need be, and serve a model of a repository."""
        if not self.engine.ready:
            await self.engine.start()
        options = Options(repositories=(folder,), mode="explicit", load=(name,))
        wanted = await asyncio.to_thread(TritonRepository(options).read)
        assert not wanted.problems, wanted.problems
        (config,) = wanted.models[name].versions.values()
        return await self.engine.load(config.model_copy(update=changes))

    def send(self, model: str, sequence: int | str | None, **inputs: Any) -> asyncio.Future[Any]:
        """Send a step; gives a Reply or an error. Arguments that are no arrays are the step's."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        arrays = {name: inputs.pop(name) for name in list(inputs) if name.isupper()}
        self.last = Step(model, sequence, arrays, KSERVE, future.set_result, **inputs)
        self.engine.submit(self.last)
        return future

    async def outcome(self, model: str, sequence: int | str | None, **inputs: Any) -> Any:
        """Send a step and wait for what becomes of it."""
        return await asyncio.wait_for(self.send(model, sequence, **inputs), 60)

    async def add(self, model: str, sequence: int | str, value: int, **options: Any) -> int:
        """Add to a sequence's sum and return it; the step must be answered."""
        inputs = {"INPUT": np.array([[value]], np.int32), **options}
        outcome = await self.outcome(model, sequence, **inputs)
        assert isinstance(outcome, Reply), repr(outcome)
        return number(outcome)

    async def fails(self, model: str, sequence: int | str, value: int, **options: Any) -> Any:
        """Send a number that must be refused."""
        inputs = {"INPUT": np.array([[value]], np.int32), **options}
        outcome = await self.outcome(model, sequence, **inputs)
        assert not isinstance(outcome, Reply), "it was answered"
        return outcome

    def pids(self, name: str) -> list[int]:
        """Processes of the model's workers that live."""
        return [worker.pid for worker in self.engine.model(name).workers() if worker.alive]


class Parts:
    """Takes the answers of a decoupled model that are not its last."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    def __call__(self, body: bytes, meta: dict[str, Any]) -> None:
        self.taken += from_part(body, meta)

    def numbers(self, output: int = 0) -> list[int]:
        """The first number of one output of each answer."""
        return [int(np.frombuffer(part.data[output], np.int32)[0]) for part in self.taken]


def number(reply: Reply, output: int = 0) -> int:
    """Return the number in an output of a reply."""
    return int(np.frombuffer(reply.data[output], np.int32)[0])


def texts(reply: Reply) -> list[str]:
    """Return the strings in the first output of a reply."""
    raw, found, at = reply.data[0], [], 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        found.append(raw[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found
