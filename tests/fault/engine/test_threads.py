"""The engine with real threads: models and store beside the loop, a hash chain as witness."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from doubles import FAIL_ROW, OK, RAISE_BATCH, ChainRuntime, chain_of, state_of
from legato.core.types import KSERVE, Reply, SequenceKey, Step
from legato.engine import engine as engine_module
from legato.engine.engine import Engine
from legato.repository.config import ModelConfig
from legato.stores.memory import MemoryStore

SEQUENCES, STEPS = 24, 12


class ThreadedStore(MemoryStore):
    """A memory store that is called from the committer's thread."""

    inline = False


@pytest.mark.parametrize("store_class", [MemoryStore, ThreadedStore])
@pytest.mark.parametrize(("execution", "instances"), [("thread", 3), ("auto", 2), ("inline", 1)])
async def test_order_and_isolation_hold_with_real_threads(
    monkeypatch, store_class, execution, instances
) -> None:
    """Every reply is the next link of its own chain, whoever fails beside it."""
    monkeypatch.setattr(engine_module, "content_digest", lambda _config: "d")
    monkeypatch.setattr(engine_module.registry, "build", lambda _config: ChainRuntime())
    store = store_class(clock=time.time)
    engine = Engine(store, max_resident_bytes=200)
    await engine.start()
    await engine.load(
        ModelConfig(name="m", execution=execution, instances=instances, max_batch_size=7)
    )
    wrong: list = []
    done = asyncio.Event()
    running = SEQUENCES

    def begin(cid: int) -> None:
        applied: list[int] = []
        tries = 0

        def send() -> None:
            nonlocal tries
            tries += 1
            mode = {0: RAISE_BATCH, 1: FAIL_ROW}.get((tries + cid) % 9, OK)
            x = len(applied) * cid
            inputs = {"x": np.array([[x]]), "mode": np.array([mode])}
            engine.submit(Step("m", cid, inputs, KSERVE, answer, start=not applied))

        def answer(outcome) -> None:
            nonlocal running
            if isinstance(outcome, Reply):
                applied.append(len(applied) * cid)
                if outcome.data[0] != chain_of(applied):
                    wrong.append((cid, outcome.step))
            if len(applied) < STEPS:
                send()
                return
            running -= 1
            if not running:
                done.set()

        send()

    for cid in range(1, SEQUENCES + 1):
        begin(cid)
    await asyncio.wait_for(done.wait(), 60)
    drained = await engine.drain(10.0)
    stored = {cid: store.read(SequenceKey("m", cid))[1] for cid in range(1, SEQUENCES + 1)}
    await engine.close()

    assert wrong == []
    assert drained
    assert stored == {cid: state_of([n * cid for n in range(STEPS)]) for cid in stored}
