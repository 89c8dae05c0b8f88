"""Packs TorchServe handlers and drives them through an engine, for tests of worker processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import yaml

from legato.core.types import TORCHSERVE, Reply, Step
from legato.engine.engine import Engine
from legato.repository.torchserve import load_archive
from legato.runtimes.torchserve.exchange import Answer, Part, from_reply, to_step
from legato.stores.registry import open_store

HANDLERS = Path(__file__).parent / "models" / "torchserve"
SEQUENCES = {
    "minWorkers": 1,
    "maxWorkers": 1,
    "batchSize": 4,
    "sequenceBatching": True,
    "sequenceMaxIdleMSec": 60_000,
    "maxNumSequence": 64,
    "maxSequenceJobQueueSize": 100,
    "handler": {"cache": {"capacity": 4}},
}


def pack(folder: Path, handler: str, keys: dict[str, Any], *, form: str = "default") -> Path:
    """Pack a handler with torch-model-archiver, as its users do."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "model-config.yaml"
    config.write_text(yaml.safe_dump(keys))
    name = handler.removesuffix("_handler")
    subprocess.run(
        [
            sys.executable, "-m", "model_archiver.model_packaging", "--model-name", name,
            "--version", "1.0", "--handler", HANDLERS / f"{handler}.py", "--config-file", config,
            "--export-path", folder, "--archive-format", form, "--force",
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    suffix = {"default": ".mar", "tgz": ".tar.gz", "no-archive": ""}[form]
    return folder / f"{name}{suffix}"


class Bench:
    """An engine with one store, and steps sent to it."""

    def __init__(self, store: Any = None) -> None:
        self.engine = Engine(store or open_store("memory", None, level="none", clock=time.time))
        self.requests = 0

    async def load(self, archive: Path, name: str = "m", **settings: Any) -> Any:
        """Start the engine, if need be, and serve an archive."""
        if not self.engine.ready:
            await self.engine.start()
        config = await asyncio.to_thread(load_archive, archive, name=name, settings=settings)
        return await self.engine.load(config)

    def send(
        self, sequence: str | None, body: object, name: str = "m", **options: Any
    ) -> asyncio.Future[Any]:
        """Send a step; gives a Reply or an error."""
        self.requests += 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        raw = body if isinstance(body, bytes) else str(body).encode()
        inputs, parameters = to_step([Part("data", raw)], {}, f"request-{self.requests}")
        step = Step(
            name, sequence, inputs, TORCHSERVE, future.set_result, parameters=parameters, **options
        )
        self.engine.submit(step)
        return future

    async def ask(self, sequence: str | None, body: object, **options: Any) -> Answer:
        """Send a step that must be answered."""
        outcome = await asyncio.wait_for(self.send(sequence, body, **options), 60)
        assert isinstance(outcome, Reply), repr(outcome)
        return from_reply(outcome)

    async def total(self, sequence: str, number: int, *, tries: int = 30) -> int:
        """Add to a running sum; an error means that nothing was added, so it is sent again."""
        for _ in range(tries):
            outcome = await asyncio.wait_for(self.send(sequence, number), 60)
            if isinstance(outcome, Reply):
                return int(from_reply(outcome).body)
        raise AssertionError(f"no answer after {tries} tries: {outcome!r}")

    async def fails(self, sequence: str | None, body: object, **options: Any) -> Any:
        """Send a step that must fail."""
        outcome = await asyncio.wait_for(self.send(sequence, body, **options), 60)
        assert not isinstance(outcome, Reply), "it was answered"
        return outcome

    async def facts(self, sequence: str | None, body: object, **options: Any) -> Any:
        """Send a step whose answer is JSON."""
        return orjson.loads((await self.ask(sequence, body, **options)).body)

    def pids(self, name: str = "m") -> list[int]:
        """Processes of the model's workers that live."""
        return [worker.pid for worker in self.engine.model(name).workers() if worker.alive]


def lives(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


async def until(condition: Any, within_s: float = 20.0) -> None:
    """Wait until something holds; a test that waits for other processes must."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.02)
