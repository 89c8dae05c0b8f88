"""OpenVINO models on a real engine, beside OpenVINO's own stateful requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
from tests.functional.models.conftest import Bench, bench
from tests.models.openvino_models import Native, save

from legato.repository.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

__all__ = ["bench", "compare", "config_of", "rows_of"]

SEQUENCES, STEPS = 32, 200


def config_of(made: Any, folder: Path, **more: Any) -> ModelConfig:
    """Write a model and return its config."""
    path = save(made, folder)
    return ModelConfig(name="model", runtime="openvino", file=path, folder=folder, **more)


def rows_of(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Callable[[int, int], dict]:
    """Return what sequence ``n`` sends with its step ``k``; the same whenever it is asked."""

    def row(sequence: int, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((seed, sequence, step))
        return {
            name: (rng.standard_normal(shape) * 0.25).astype(np.float32)
            for name, shape in shapes.items()
        }

    return row


async def compare(
    bench: Bench,
    native: Native,
    row: Callable[[int, int], dict],
    *,
    sequences: int = SEQUENCES,
    steps: int = STEPS,
) -> tuple[float, float]:
    """Run sequences through the engine, raggedly and all at once, and natively one by one.

    Returns:
        Largest difference of any output, and the largest output.
    """
    rng = np.random.default_rng(1)
    got: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    async def stream(sequence: int) -> None:
        for step in range(steps):
            got[sequence, step] = await bench.feed("model", sequence, row(sequence, step))
            for _ in range(int(rng.integers(0, 3))):
                await asyncio.sleep(0)  # gives way, so that arrivals are ragged

    await asyncio.gather(*(stream(n) for n in range(1, sequences + 1)))
    off, largest = 0.0, 0.0
    for (sequence, step), mine in sorted(got.items()):
        theirs = native.step(sequence, **row(sequence, step))
        for name, value in mine.items():
            off = max(off, float(np.abs(value - theirs[name]).max()))
            largest = max(largest, float(np.abs(theirs[name]).max()))
    assert len(got) == sequences * steps
    return off, largest
