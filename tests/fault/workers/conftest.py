"""Archives, packed once, and engines that leave no process behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from torchserve_kit import SEQUENCES, Bench, lives, pack, until


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """Give the archive of a handler; the same keys are packed once."""
    made = {}

    def archive(handler: str, form: str = "default", **keys):
        settings = {**SEQUENCES, **keys}
        name = repr((handler, form, sorted(settings.items(), key=str)))
        if name not in made:
            made[name] = pack(tmp_path_factory.mktemp(handler), handler, settings, form=form)
        return made[name]

    return archive


@pytest.fixture
async def bench():
    """An engine on a memory store; none of its workers outlives it."""
    one = Bench()
    yield one
    started = [worker.pid for handle in one.engine.models() for worker in handle.workers()]
    await one.engine.close()
    await until(lambda: not any(pid and lives(pid) for pid in started))
