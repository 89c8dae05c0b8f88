"""A Triton Python model that keeps torch tensors in objects of its own, through the engine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

sys.path.insert(0, str(Path(__file__).parents[2]))

from triton_python_kit import Bench  # noqa: E402

COUNT, STEPS = 4, 8


async def test_tensors_in_sessions_outlive_their_worker(capfd) -> None:
    """Answers equal those of a private copy for each sequence, though the worker is killed."""
    inputs = np.random.default_rng(0).standard_normal((STEPS, COUNT, 1, 4)).astype(np.float32)
    bench = Bench()
    handle = await bench.load("gru_sessions")

    found = np.empty((STEPS, COUNT, 8), np.float32)
    for at in range(STEPS):
        if at == STEPS // 2:
            os.kill(bench.pids("gru_sessions")[0], signal.SIGKILL)
        sent = [
            bench.outcome("gru_sessions", n + 1, INPUT=inputs[at, n], start=at == 0)
            for n in range(COUNT)
        ]
        for n, reply in enumerate(await asyncio.gather(*sent)):
            found[at, n] = np.frombuffer(reply.data[0], np.float32)
    batches = handle.statistics.batches
    await bench.engine.close()

    torch.manual_seed(0)
    cell = torch.nn.GRUCell(4, 8)
    hidden = [torch.zeros(1, 8)] * COUNT
    with torch.no_grad():
        for at in range(STEPS):
            hidden = [cell(torch.from_numpy(inputs[at, n]), h) for n, h in enumerate(hidden)]
            wanted = torch.cat(hidden).numpy()
            assert np.allclose(found[at], wanted, atol=1e-6), f"step {at}"
    assert batches < STEPS * COUNT
    assert "the model changes" not in capfd.readouterr().err
