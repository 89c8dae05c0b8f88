"""The garbage collector is kept short, and still finds dead cycles."""

from __future__ import annotations

import gc

import pytest

from legato.engine.garbage import Garbage


@pytest.fixture
def garbage(fake_time):
    """One that watches, with a clock that stands still until it is told."""
    garbage = Garbage(clock=lambda: fake_time[0], longest_s=0.005, most_found=100)
    yield garbage
    garbage.stop()
    gc.unfreeze()


@pytest.fixture
def fake_time():
    """Seconds, in a list that a test changes."""
    return [0.0]


def collection(garbage: Garbage, now: list[float], seconds: float, found: int = 0, generation=2):
    garbage.collected("start", {"generation": generation, "collected": 0})
    now[0] += seconds
    garbage.collected("stop", {"generation": generation, "collected": found})


def test_a_long_full_collection_is_not_repeated(garbage, fake_time) -> None:
    """What it found alive is out of the collector's sight afterwards."""
    gc.unfreeze()

    collection(garbage, fake_time, 0.1)

    assert gc.get_freeze_count() > 1000


def test_short_collections_change_nothing(garbage, fake_time) -> None:
    """Nor do long ones of young objects."""
    gc.unfreeze()

    collection(garbage, fake_time, 0.001)
    collection(garbage, fake_time, 0.1, generation=1)

    assert gc.get_freeze_count() == 0


def test_many_dead_cycles_bring_everything_back_into_sight(garbage, fake_time) -> None:
    """A full collection then looks at everything once, and what is left goes out again."""
    collection(garbage, fake_time, 0.1)
    collection(garbage, fake_time, 0.001, found=60, generation=0)

    collection(garbage, fake_time, 0.1, found=60)
    seen = gc.get_freeze_count()
    collection(garbage, fake_time, 0.1)

    assert seen == 0
    assert gc.get_freeze_count() > 1000
    assert garbage.found == 0


def test_it_watches_from_start_to_stop(garbage) -> None:
    """And leaves Python's collector as it was."""
    thresholds = gc.get_threshold()
    garbage.start()
    watching = garbage.collected in gc.callbacks
    frozen = gc.get_freeze_count()

    garbage.stop()

    assert watching
    assert frozen > 1000
    assert garbage.collected not in gc.callbacks
    assert gc.get_freeze_count() == 0
    assert gc.get_threshold() == thresholds
