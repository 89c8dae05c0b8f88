"""A store's own time."""

from __future__ import annotations

from legato.stores.elapsed import Elapsed


class FakeClock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_time_passes_with_the_clock() -> None:
    """Without a start it is the wall clock."""
    clock = FakeClock(50.0)
    time = Elapsed(clock)
    clock.now = 52.5

    assert time() == 52.5


def test_time_may_be_passed_over() -> None:
    """Only what passed since the last reading."""
    clock = FakeClock(50.0)
    time = Elapsed(clock)
    clock.now = 51.0
    time()
    clock.now = 60.0
    time.skip()
    clock.now = 62.0

    assert time() == 53.0


def test_time_may_stand_still_for_a_while() -> None:
    """So many seconds pass in vain, in however many pieces; a clock set back uses none up."""
    clock = FakeClock(50.0)
    time = Elapsed(clock)
    time.skip(5.0)
    seen = []
    for now in (52.0, 40.0, 42.0, 44.0, 46.5):
        clock.now = now
        seen.append(time())

    assert seen == [50.0, 50.0, 50.0, 51.0, 53.5]


def test_time_goes_on_from_its_start() -> None:
    """A saved time continues, whatever the wall clock did meanwhile."""
    clock = FakeClock(1e9)
    time = Elapsed(clock, 50.0)
    clock.now += 3.0

    assert time() == 53.0


def test_time_never_goes_back() -> None:
    """A clock set back stops time for no longer than the step itself."""
    clock = FakeClock(100.0)
    time = Elapsed(clock)
    clock.now = 40.0
    stopped = time()
    clock.now = 45.0

    assert stopped == 100.0
    assert time() == 105.0


def test_moments_are_shown_by_the_wall_clock() -> None:
    """For display, a moment of the store's time is told as wall-clock time."""
    clock = FakeClock(1000.0)
    time = Elapsed(clock, 50.0)
    clock.now += 10.0

    assert time.wall(55.0) == 1005.0
    assert repr(time) == "Elapsed(60.000)"
