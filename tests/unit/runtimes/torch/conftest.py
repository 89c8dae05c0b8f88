"""Runtimes made from modules of the test models, and sequences run on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from legato.repository.config import ModelConfig
from legato.runtimes.base import RowInfo, StepBatch
from legato.runtimes.registry import build

if TYPE_CHECKING:
    from legato.core.types import Array
    from legato.runtimes.base import Runtime, StepResult

MODULES = Path(__file__).parents[3] / "models" / "torch_models.py"


class Sequences:
    """Steps sequences on a runtime, several in a call, as the engine does."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.states: dict[Any, dict[str, Array]] = {}

    def step(self, rows: dict[Any, dict[str, Array]]) -> dict[Any, dict[str, Array]]:
        """Run a step of several sequences in one call; return each one's outputs."""
        signature = self.runtime.signature
        ids = list(rows)
        held = {i: self.states.setdefault(i, self._first()) for i in ids}
        axes = {spec.name: spec.batch_axis for spec in signature.inputs}
        inputs = {
            name: rows[ids[0]][name]
            if axes[name] is None
            else np.concatenate([rows[i][name] for i in ids], axes[name])
            for name in rows[ids[0]]
        }
        state = {
            spec.name: np.concatenate([held[i][spec.name] for i in ids], spec.batch_axis)
            for spec in signature.states
        }
        for array in (*inputs.values(), *state.values()):
            array.flags.writeable = False
        infos = tuple(RowInfo(i, 1, start=False, end=False, parameters={}) for i in ids)
        result = self.runtime.step(StepBatch(inputs, state, infos))
        return self._split(ids, result)

    def _first(self) -> dict[str, Array]:
        first = {}
        for spec in self.runtime.signature.states:
            shape = tuple(max(size, 0) for size in spec.shape)
            given = 0 if spec.initial is None else spec.initial
            first[spec.name] = np.broadcast_to(np.asarray(given, spec.dtype), shape).copy()
        return first

    def _split(self, ids: list[Any], result: StepResult) -> dict[Any, dict[str, Array]]:
        signature = self.runtime.signature
        for at, each in enumerate(ids):
            self.states[each] = {
                spec.name: np.take(result.state[spec.name], [at], spec.batch_axis)
                for spec in signature.states
            }
        return {
            each: {
                spec.name: result.outputs[spec.name]
                if spec.batch_axis is None
                else np.take(result.outputs[spec.name], [at], spec.batch_axis)
                for spec in signature.outputs
            }
            for at, each in enumerate(ids)
        }


@pytest.fixture
def config(tmp_path):
    """Return ``config(source, **more)``: of a file, or of a class of the test models."""

    def make(source: Path | str, **more: Any) -> ModelConfig:
        if isinstance(source, Path):
            return ModelConfig(name="m", runtime="torch", file=source, folder=tmp_path, **more)
        entry = f"{MODULES.name}:{source}"
        return ModelConfig(name="m", runtime="torch", entry=entry, folder=MODULES.parent, **more)

    return make


@pytest.fixture
def load(config):
    """Return ``load(source, **more)``: the runtime of a config."""
    return lambda source, **more: build(config(source, **more))


@pytest.fixture
def sequences():
    """Return ``sequences(runtime)``."""
    return Sequences
