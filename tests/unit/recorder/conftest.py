"""Puts the shared doubles within reach, and engines that are recorded."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from doubles import Harness
from legato.recorder.recorder import Recorder


class DirectWriter:
    """A writer without a thread; ``full`` makes it refuse, as a slow disk does."""

    def __init__(self) -> None:
        from legato.recorder.writer import Writer

        self.inner = Writer()
        self.full = False
        self.jobs = 0

    def put(self, job) -> bool:
        if self.full:
            return False
        self.jobs += 1
        self.inner._write(job)
        return True

    def close(self) -> None:
        self.inner.close()


class Recorded(Harness):
    """A harness whose steps are recorded."""

    def __init__(self, folder: Path, **options) -> None:
        super().__init__(**options)
        self.writer = DirectWriter()
        self.recorder = Recorder(self.engine, folder, writer=self.writer)
        self.folder = folder

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.rec"))

    def steps(self, cid, *xs, **options) -> None:
        start = self.stored(cid) is None
        for at, x in enumerate(xs):
            self.ask(cid, x, start=start and at == 0, **options)


@pytest.fixture(scope="session")
def recorded_kind():
    """Engines by the number: ``recorded_kind(folder)``."""
    return Recorded


@pytest.fixture
def recorded(tmp_path):
    """An engine with model ``m``, which is recorded as a whole."""
    harness = Recorded(tmp_path)
    harness.load(record=True)
    harness.recorder.watch_models()
    yield harness
    harness.recorder.close()
    harness.close()


@pytest.fixture
def watched(tmp_path):
    """An engine with model ``m``, of which nothing is recorded unless asked for."""
    harness = Recorded(tmp_path)
    harness.load()
    yield harness
    harness.recorder.close()
    harness.close()
