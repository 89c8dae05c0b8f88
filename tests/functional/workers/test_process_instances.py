"""``instance: process`` for ONNX and Python models: the same answers, from another process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from legato.core.errors import ConfigError
from legato.core.types import NATIVE, Reply, Step
from legato.engine.engine import Engine
from legato.repository.config import ModelConfig
from legato.repository.loader import load_paths
from legato.stores.registry import open_store
from models import tiny
from torchserve_kit import lives, until

COUNTER = """
import os
from legato.model import Input, Model, Output, Result, State

class Counter(Model):
    inputs = (Input("x", "float32", (1, -1)),)
    outputs = (Output("y", "float32", (1, -1)), Output("pid", "int64", (1, 1)))
    states = (State("sum", "float32", (1, 1)),)
    ended = []

    def step(self, batch):
        import numpy as np
        x = batch.inputs["x"]
        total = batch.state["sum"] + x.sum(axis=1, keepdims=True)
        pid = np.full((len(batch), 1), os.getpid(), np.int64)
        return Result({"y": x + total, "pid": pid}, {"sum": total})

    def sequence_ended(self, correlation_id, reason):
        with open(self.folder / "ended", "a") as file:
            file.write(f"{correlation_id} {reason.name}\\n")
"""


@pytest.fixture
async def engine():
    """An engine on a memory store; no worker outlives it."""
    one = Engine(open_store("memory", None, level="none", clock=time.time))
    await one.start()
    yield one
    pids = [worker.pid for handle in one.models() for worker in handle.workers()]
    await one.close()
    await until(lambda: not any(lives(pid) for pid in pids))


async def ask(engine, model: str, cid: int, inputs, **options) -> list[np.ndarray]:
    future = asyncio.get_running_loop().create_future()
    engine.submit(Step(model, cid, inputs, NATIVE, future.set_result, **options))
    reply = await asyncio.wait_for(future, 60)
    assert isinstance(reply, Reply), repr(reply)
    return [
        np.frombuffer(data, header.dtype).reshape(header.shape)
        for header, data in zip(reply.headers, reply.data, strict=True)
    ]


def write(folder: Path, text: str) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(COUNTER)
    (folder / "model.yaml").write_text(text)
    return load_paths([folder])[0]


async def test_onnx_model_answers_as_in_the_server(engine, tmp_path) -> None:
    """Bit for bit, state and outputs, step by step."""
    tiny.save(tiny.lstm(), tmp_path)
    near = ModelConfig(name="near", file=tmp_path / "model.onnx", folder=tmp_path)
    far = near.model_copy(update={"name": "far", "instance": "process"})
    handles = [await engine.load(near), await engine.load(far)]
    rng = np.random.default_rng(0)
    spec = handles[0].signature.inputs[0]
    shape = tuple(4 if size == -1 else size for size in spec.shape)

    for number in range(1, 6):
        x = {spec.name: rng.standard_normal(shape).astype(spec.dtype)}
        one, other = [await ask(engine, m, 1, x, start=number == 1) for m in ("near", "far")]
        for mine, theirs in zip(one, other, strict=True):
            assert np.array_equal(mine, theirs)

    assert handles[0].signature == handles[1].signature
    assert not handles[1].inline


@pytest.mark.parametrize("size", [1, 1_000, 300_000])
async def test_arrays_of_any_size_go_both_ways(engine, tmp_path, size: int) -> None:
    """Inline and by shared memory, in batches too."""
    await engine.load(write(tmp_path / "c", "entry: model.py:Counter\ninstance: process\n"))
    rows = [np.full((1, size), number, np.float32) for number in range(1, 5)]

    for turn in (1, 2):
        answers = await asyncio.gather(
            *[ask(engine, "c", n, {"x": x}, start=turn == 1) for n, x in enumerate(rows, 1)]
        )
        for x, (y, pid) in zip(rows, answers, strict=True):
            assert np.array_equal(y, x + np.float32(x.sum() * turn))
            assert pid[0, 0] != os.getpid()


@pytest.mark.parametrize(("sticky", "apart"), [(True, 2), (False, 1)])
async def test_sticky_sequences_stay_with_their_workers(engine, tmp_path, sticky, apart) -> None:
    """Steps that come together share a call, unless ``options.sticky`` keeps them apart."""
    text = "entry: model.py:Counter\ninstance: process\ninstances: 2\nmax_batch_size: 8\n"
    await engine.load(write(tmp_path / "c", f"{text}options: {{sticky: {str(sticky).lower()}}}\n"))

    async def step(cid: int, size: int, **options) -> int:
        _y, pid = await ask(engine, "c", cid, {"x": np.ones((1, size), np.float32)}, **options)
        return int(pid[0, 0])

    # Of different lengths, they cannot share a call: each begins in a worker of its own.
    homes = await asyncio.gather(*[step(cid, cid, start=True) for cid in (1, 2)])
    rounds = [await asyncio.gather(step(1, 1), step(2, 1)) for _ in range(5)]

    assert len(set(homes)) == 2
    assert {len(set(pids)) for pids in rounds} == {apart}
    if sticky:
        assert rounds == [homes] * 5


async def test_worker_is_told_of_ended_sequences(engine, tmp_path) -> None:
    """Also when no further step comes."""
    folder = tmp_path / "c"
    await engine.load(write(folder, "entry: model.py:Counter\ninstance: process\n"))
    x = {"x": np.ones((1, 1), np.float32)}

    await ask(engine, "c", 7, x, start=True, end=True)
    await until((folder / "ended").exists)

    assert (folder / "ended").read_text() == "7 ENDED\n"


async def test_model_that_cannot_be_loaded_says_why(engine, tmp_path) -> None:
    """The error comes over from the worker as it is."""
    config = write(tmp_path / "c", "entry: model.py:Missing\ninstance: process\n")

    with pytest.raises(ConfigError, match="no class 'Missing'") as caught:
        await engine.load(config)

    assert caught.value.fix


def test_inline_does_not_go_with_a_process() -> None:
    """A call that may take its whole time limit must not hold up the loop."""
    with pytest.raises(ValueError, match="does not go with"):
        ModelConfig(name="m", instance="process", execution="inline")


SERVER = """
import asyncio, sys, time
from pathlib import Path
from legato.engine.engine import Engine
from legato.repository.loader import load_paths
from legato.stores.registry import open_store

async def main():
    engine = Engine(open_store("memory", None, level="none", clock=time.time))
    await engine.start()
    handle = await engine.load(load_paths([Path(sys.argv[1])])[0])
    print(handle.workers()[0].pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_worker_dies_with_its_server(tmp_path) -> None:
    """Kill -9 of the server leaves no process behind."""
    write(tmp_path / "c", "entry: model.py:Counter\ninstance: process\n")
    source = str(Path(__file__).parents[3] / "src")
    server = subprocess.Popen(  # noqa: ASYNC220 - it is killed, not awaited
        [sys.executable, "-c", SERVER, tmp_path / "c"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
        text=True,
    )
    with server:
        line = await asyncio.to_thread(server.stdout.readline)
        while "model_loaded" in line:
            line = await asyncio.to_thread(server.stdout.readline)
        worker = int(line)
        alive_before = lives(worker)

        server.send_signal(signal.SIGKILL)

    await until(lambda: not lives(worker))
    assert alive_before
