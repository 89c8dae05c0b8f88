"""PyTorch models on a real engine: batches form, and hidden state does not leak."""

import asyncio

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.assets import asset, recording  # noqa: E402
from tests.functional.models.conftest import bench  # noqa: E402
from tests.models import torch_models as models  # noqa: E402

from legato.core.errors import InputError  # noqa: E402
from legato.repository.config import ModelConfig  # noqa: E402

__all__ = ["bench"]


async def test_sequences_share_calls(bench, tmp_path):
    """32 sequences at once form batches, and answer as private copies."""
    subject = models.seeded(models.Recurrent)
    path = models.export(subject, tmp_path, torch.zeros(1, 8))
    await bench.engine.load(
        ModelConfig(name="m", runtime="torch", file=path, folder=tmp_path, execution="thread")
    )
    rows = np.random.default_rng(1).standard_normal((32, 40, 1, 8)).astype(np.float32)
    private = models.Private(subject)

    async def run(sequence):
        return [(await bench.step("m", sequence + 1, x=row))["y"] for row in rows[sequence]]

    got = await asyncio.gather(*map(run, range(32)))

    for sequence in range(32):
        want = [private.step(sequence, row)["y"].numpy() for row in rows[sequence]]
        np.testing.assert_allclose(got[sequence], want, atol=2e-5)
    assert bench.mean_batch("m") > 4


async def test_silero_keeps_its_state_through_other_peoples_calls(bench, tmp_path):
    """Where the bare module falls from 0.9998 to 0.0986, a sequence here does not notice."""
    await bench.engine.load(
        ModelConfig(
            name="vad",
            runtime="torch",
            file=asset("silero", "silero_vad.jit"),
            folder=tmp_path,
            inputs={"x": {"shape": [1, 512]}},
        )
    )
    samples = recording("silero", "test.wav")
    frames = samples[: len(samples) // 512 * 512].reshape(-1, 1, 512)
    told = 0.0
    for at in range(40, 101):
        told = float((await bench.step("vad", 1, x=frames[at]))["out"][0, 0])
        await bench.step("vad", 2, x=frames[0])
        with pytest.raises(InputError):
            await bench.step("vad", 1000 + at, x=np.zeros((2, 512), np.float32))

    assert told == pytest.approx(0.9998, abs=5e-4)
