"""Growing states through random lives: batches, failures, restarts, branches, upkeep."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from legato.core.errors import PoisonError
from legato.core.types import Receipt, SequenceKey, Signature, StateSpec, TensorSpec, UpdateRule
from legato.engine.batch import Batcher, BatchRow
from legato.runtimes.base import RowInfo, StepResult
from legato.stores.base import Commit, Ok
from legato.stores.log import LogStore

if TYPE_CHECKING:
    from pathlib import Path

    from legato.core.types import StateRow

CACHE = StateSpec(
    "kv", "past", "present", "float32", (2, 1, -1, 3), batch_axis=1, rule=UpdateRule.APPEND, axis=2
)
LAST = StateSpec("last", "last", "next", "float32", (1, 1))
SIGNATURE = Signature(
    (TensorSpec("x", "float32", (1, 1)),), (TensorSpec("y", "float32", (1, 1)),), (LAST, CACHE)
)


def present(entries: list[float]) -> np.ndarray:
    """The cache that these entries make: each [[x, 2x, 3x], [-x, -2x, -3x]]."""
    one = np.array(entries, np.float32)[:, None] * np.array([1, 2, 3], np.float32)
    return np.stack([one, -one])[:, None]


class Model:
    """Appends its input; the answer is the sum of all inputs so far."""

    def __init__(self, *, lasting: bool) -> None:
        self.lasting = lasting

    def step(self, batch):
        x = batch.inputs["x"]
        entry = np.concatenate([present([value]) for value in x[:, 0]], 1)
        value = np.concatenate((batch.state["kv"], entry), 2)
        y = value[0, :, :, 0].sum(1, keepdims=True)
        return StepResult({"y": y}, {"kv": value, "last": x}, lasting=self.lasting)


class World:
    """A batcher and a log, and what every sequence must be."""

    def __init__(self, folder: Path, *, lasting: bool) -> None:
        self.folder = folder
        self.batcher, self.model = Batcher(SIGNATURE), Model(lasting=lasting)
        self.open()
        self.entries: dict[int, list[float]] = {}
        self.rows: dict[int, StateRow] = {}
        self.steps: dict[int, int] = {}
        self.lives: dict[int, bytes] = {}
        self.epochs: dict[int, int] = {}

    def open(self) -> None:
        self.store = LogStore(
            self.folder, clock=lambda: 1.0, segment_bytes=6000, checkpoint_bytes=9000,
            flush_interval_s=0.0,
        )  # fmt: skip

    def run(self, members: list[int], values: list[float]) -> None:
        """Step sequences together and commit those that did not fail."""
        for member in members:
            if member not in self.rows:
                self.rows[member] = self.batcher.states.initial({})
                self.entries[member], self.steps[member] = [], 0
                self.lives[member], self.epochs[member] = random.randbytes(16), 1
        batch = [
            BatchRow(
                {"x": np.full((1, 1), value, np.float32)},
                self.rows[member],
                RowInfo(member, self.steps[member] + 1, self.steps[member] == 0, False, {}),
            )
            for member, value in zip(members, values, strict=True)
        ]
        results = self.batcher.run(self.model, batch).rows
        done = []
        for member, value, result in zip(members, values, results, strict=True):
            if np.isnan(value):
                assert isinstance(result, PoisonError)
                continue
            self.entries[member].append(value)
            self.steps[member] += 1
            self.rows[member] = result.state
            assert np.frombuffer(result.data[0], np.float32) == sum(self.entries[member])
            done.append(self.commit_of(member, result.state))
        assert all(isinstance(result, Ok) for result in self.store.commit(done))

    def commit_of(self, member: int, state: StateRow) -> Commit:
        step = self.steps[member]
        return Commit(
            SequenceKey("m", member), self.lives[member], self.epochs[member], step,
            (Receipt(step, b"", b"", b"reply"),), state, step == 1, b"", None, "1", "d",
            "native", 0.0, "",
        )  # fmt: skip

    def branch(self, source: int, target: int) -> None:
        """Put the target back, or on, to where the source is."""
        life = random.randbytes(16)
        verdict = self.store.fork(
            SequenceKey("m", source), self.steps[source], SequenceKey("m", target), life,
            replaces=self.lives[target],
        )  # fmt: skip
        assert isinstance(verdict, Ok)
        self.lives[target], self.epochs[target] = life, 0
        self.entries[target], self.steps[target] = [*self.entries[source]], self.steps[source]
        self.forget(target)

    def forget(self, member: int) -> None:
        """Read a state from the store, as after a restart."""
        self.rows[member] = self.store.read(SequenceKey("m", member))[1]

    def restart(self) -> None:
        self.store.close()
        self.open()
        for member in self.rows:
            if self.steps[member]:
                self.forget(member)

    def check(self) -> None:
        for member, entries in self.entries.items():
            if not self.steps[member]:
                continue
            last = np.array(entries[-1:], np.float32).tobytes()
            whole = (last, present(entries).tobytes())
            shapes = ((1, 1), (2, 1, len(entries), 3))
            for row in (self.rows[member], self.store.read(SequenceKey("m", member))[1]):
                assert tuple(map(bytes, row.data)) == whole
                assert row.shapes == shapes
                assert row.nbytes == len(last) + len(whole[1])


@pytest.mark.parametrize("seed", range(8))
def test_states_are_what_their_steps_made_of_them(tmp_path: Path, seed: int) -> None:
    """In memory and in the log, whatever else happened."""
    rng = random.Random(seed)
    world = World(tmp_path / "log", lasting=seed % 2 == 0)
    for _ in range(150):
        act = rng.random()
        if act < 0.8 or not world.rows:
            length = len(world.entries.get(rng.randrange(5), ()))
            alike = [m for m in range(5) if len(world.entries.get(m, ())) == length]
            members = rng.sample(alike, rng.randint(1, len(alike)))
            values = [float(rng.randint(-9, 9)) for _ in members]
            if rng.random() < 0.1:
                values[0] = float("nan")
            world.run(members, values)
        elif act < 0.87:
            began = [m for m in world.rows if world.steps[m]]
            if len(began) > 1:
                world.branch(*rng.sample(began, 2))
        elif act < 0.92:
            member = rng.choice(list(world.rows))
            if world.steps[member]:
                world.forget(member)
        elif act < 0.97:
            while world.store.maintain(1.0):
                pass
        else:
            world.restart()
        world.check()
    world.store.close()
