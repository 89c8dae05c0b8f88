"""What the log may cost: loose limits in CPU time and bytes, which no busy machine moves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from legato.core.types import Receipt, SequenceKey, StateRow
from legato.stores.base import Commit, Ok
from legato.stores.log import LogStore

STATE_BYTES = 1024
ROWS, BATCHES = 32, 1500
PARKED = 2000
LEAST_STEPS_PER_CPU_S = 50_000
MOST_BYTES_WRITTEN = 3.0
TRIES = 3

SHAPES = ((1, STATE_BYTES // 4),)
RECEIPT = Receipt(1, b"request", b"12345678", b"r" * 64)


def entries(first: int, count: int, step: int, data: bytes) -> list[Commit]:
    """Return a batch: the next step of ``count`` sequences."""
    return [
        Commit(
            SequenceKey("model", first + at), b"%016d" % (first + at), 1, step, (RECEIPT,),
            StateRow((data,), SHAPES), step == 1, b"", None, "1", "d" * 64, "kserve", 600.0, "",
        )
        for at in range(count)
    ]  # fmt: skip


def written_bytes() -> int:
    """Return what this process has handed to the kernel so far, whatever the file system."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.fixture
def store(tmp_path):
    """A log of small files, so that it compacts, with sequences that nobody steps."""
    store = LogStore(
        tmp_path / "log",
        clock=time.time,
        segment_bytes=4 * 1024 * 1024,
        checkpoint_bytes=8 * 1024 * 1024,
    )
    for first in range(ROWS, ROWS + PARKED, 100):
        store.commit(entries(first, 100, 1, os.urandom(STATE_BYTES)))
    store.commit(entries(0, ROWS, 1, os.urandom(STATE_BYTES)))
    yield store
    store.close()


def run(store: LogStore, batches: list[list[Commit]]) -> None:
    for batch in batches:
        assert all(type(result) is Ok for result in store.commit(batch))
    store.flush()


def test_the_log_keeps_a_floor_of_steps_a_cpu_second(store) -> None:
    """At 1 KB of state, with flushes, checkpoints and compaction, of three tries the best."""
    cost_s = []
    for number in range(TRIES):
        first = 2 + number * BATCHES
        data = os.urandom(STATE_BYTES)
        batches = [entries(0, ROWS, first + step, data) for step in range(BATCHES)]
        began = time.process_time()
        run(store, batches)
        cost_s.append(time.process_time() - began)

    assert ROWS * BATCHES / min(cost_s) >= LEAST_STEPS_PER_CPU_S


def test_the_log_writes_little_more_than_the_states(store) -> None:
    """Records, checkpoints and copies of compaction together are at most three times the state."""
    batches = [entries(0, ROWS, 2 + step, os.urandom(STATE_BYTES)) for step in range(BATCHES)]
    before = written_bytes()

    run(store, batches)

    spent = written_bytes() - before
    times = spent / (STATE_BYTES * ROWS * BATCHES)
    assert 1.0 < times <= MOST_BYTES_WRITTEN
