"""Which steps run together: plans are data, so the tests look at plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from legato.core.scheduler import Policy, Scheduler


@dataclass(frozen=True, eq=False)
class Work:
    name: str
    group: Any = None
    arrived: float = 0.0
    priority: int = 0


def scheduler_of(*works: Work, **policy) -> Scheduler[Work]:
    scheduler: Scheduler[Work] = Scheduler(Policy(**{"max_batch": 8, **policy}))
    for work in works:
        scheduler.add(work)
    return scheduler


def names(plan: list[Work]) -> str:
    return "".join(work.name for work in plan)


def test_nothing_ready_gives_an_empty_plan() -> None:
    """And nothing to wake up for."""
    scheduler = scheduler_of(max_delay_s=1.0)

    assert scheduler.schedule(0.0) == []
    assert scheduler.wake_at() is None


def test_whatever_is_ready_goes_at_once() -> None:
    """Without a delay nothing waits for company."""
    scheduler = scheduler_of(Work("a"), Work("b"))

    assert names(scheduler.schedule(0.0)) == "ab"
    assert len(scheduler) == 0
    assert scheduler.wake_at() is None


def test_a_plan_takes_the_oldest_up_to_the_limit() -> None:
    """The rest is the next plan."""
    scheduler = scheduler_of(*map(Work, "abcde"), max_batch=2)

    assert [names(scheduler.schedule(0.0)) for _ in range(4)] == ["ab", "cd", "e", ""]


def test_only_equal_groups_share_a_plan() -> None:
    """The group of the oldest goes first; others keep their order."""
    scheduler = scheduler_of(Work("a", 1), Work("b", 2), Work("c", 1), Work("d", 2))

    assert [names(scheduler.schedule(0.0)) for _ in range(2)] == ["ac", "bd"]


def test_a_full_group_leaves_its_rest_in_order() -> None:
    """Between two groups, too."""
    scheduler = scheduler_of(Work("a", 1), Work("b", 1), Work("c", 2), Work("d", 1), max_batch=2)

    assert [names(scheduler.schedule(0.0)) for _ in range(3)] == ["ab", "c", "d"]


# -- priority --------------------------------------------------


def test_priority_one_goes_first_and_none_goes_last() -> None:
    """Equal levels stay in order of arrival."""
    works = [Work("a"), Work("b", priority=2), Work("c", priority=1), Work("d", priority=2)]
    scheduler = scheduler_of(*works, max_batch=1)

    assert [names(scheduler.schedule(0.0)) for _ in range(4)] == ["c", "b", "d", "a"]


def test_priorities_are_still_seen_after_a_plan_and_a_removal() -> None:
    """What is left of the urgent is still urgent."""
    urgent = [Work("x", priority=1), Work("y", priority=1), Work("z", priority=1)]
    scheduler = scheduler_of(Work("a"), *urgent, max_batch=1)

    scheduler.schedule(0.0)
    scheduler.remove([urgent[1]])

    assert [names(scheduler.schedule(0.0)) for _ in range(2)] == ["z", "a"]


# -- waiting for company --------------------------------------------------


def test_with_a_delay_a_small_batch_waits() -> None:
    """Until the oldest has waited long enough."""
    scheduler = scheduler_of(Work("a", arrived=1.0), Work("b", arrived=1.5), max_delay_s=2.0)

    assert scheduler.schedule(2.9) == []
    assert scheduler.wake_at() == 3.0
    assert names(scheduler.schedule(3.0)) == "ab"


def test_a_full_batch_does_not_wait() -> None:
    """max_batch is reached."""
    scheduler = scheduler_of(Work("a"), Work("b"), max_batch=2, max_delay_s=9.0)

    assert names(scheduler.schedule(0.0)) == "ab"


def test_the_largest_preferred_size_that_is_reached_goes() -> None:
    """The rest waits for its own company."""
    scheduler = scheduler_of(*map(Work, "abcdefg"), max_delay_s=9.0, preferred=(2, 4))

    assert [names(scheduler.schedule(0.0)) for _ in range(3)] == ["abcd", "ef", ""]


def test_a_preferred_size_above_the_limit_does_not_hold_a_full_batch() -> None:
    """A batch that cannot grow has nothing to wait for."""
    scheduler = scheduler_of(*map(Work, "ab"), max_batch=2, max_delay_s=9.0, preferred=(4,))

    assert names(scheduler.schedule(0.0)) == "ab"


def test_a_step_that_waited_behind_its_predecessor_counts_from_its_arrival() -> None:
    """The oldest of a batch need not be the first one that became ready."""
    scheduler = scheduler_of(Work("a", arrived=10.0), Work("b", arrived=5.0), max_delay_s=3.0)

    assert scheduler.wake_at() == 8.0
    assert names(scheduler.schedule(11.0)) == "ab"


def test_a_group_that_waits_holds_up_no_other() -> None:
    """A full or overdue group behind it goes."""
    scheduler = scheduler_of(
        Work("a", 1, arrived=10.0),
        Work("b", 2, arrived=2.0),
        Work("c", 3, arrived=10.0),
        Work("d", 3, arrived=10.0),
        max_delay_s=3.0,
        preferred=(2,),
    )

    assert [names(scheduler.schedule(11.0)) for _ in range(3)] == ["b", "cd", ""]


def test_a_batch_of_all_that_can_come_waits_for_no_more() -> None:
    """A lone sequence does not pay for a delay; two of three do."""
    lone = scheduler_of(Work("a"), max_delay_s=9.0)
    two = scheduler_of(*map(Work, "ab"), max_delay_s=9.0)

    assert names(lone.schedule(0.0, company=1)) == "a"
    assert two.schedule(0.0, company=3) == []
    assert names(two.schedule(0.0, company=2)) == "ab"


def test_when_delay_is_over_all_that_is_there_goes() -> None:
    """Not only a preferred size of it."""
    scheduler = scheduler_of(*map(Work, "abc"), max_delay_s=1.0, preferred=(2,))

    assert names(scheduler.schedule(1.0)) == "abc"


# -- removal --------------------------------------------------


def test_removed_work_is_never_planned() -> None:
    """The others keep their order; removing what is not there does nothing."""
    works = [Work(name) for name in "abc"]
    scheduler = scheduler_of(*works)

    scheduler.remove([works[1], Work("b")])

    assert names(scheduler.schedule(0.0)) == "ac"


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.floats(0, 5)), min_size=1, max_size=20
    ),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.lists(st.integers(1, 6), max_size=2),
)
def test_all_work_runs_once_and_the_scheduler_never_spins(items, limit, delay, preferred) -> None:
    """Whoever sleeps until wake_at gets a plan then: every piece once, in legal batches."""
    works = [Work(str(i), g, t, p) for i, (g, p, t) in enumerate(items)]
    scheduler = scheduler_of(*works, max_batch=limit, max_delay_s=delay, preferred=tuple(preferred))
    now, done = 5.0, []

    for _ in range(2 * len(works)):
        plan = scheduler.schedule(now)
        if plan:
            assert len(plan) <= limit
            assert len({work.group for work in plan}) == 1
            done += plan
        elif len(scheduler):
            wake = scheduler.wake_at()
            assert wake is not None
            assert wake > now
            now = wake

    assert len(scheduler) == 0
    assert sorted(map(id, done)) == sorted(map(id, works))


def test_urgent_work_runs_once() -> None:
    """Ordering by priority leaves no second copy behind."""
    scheduler = scheduler_of(Work("a", priority=2), Work("b", priority=1))

    assert [names(scheduler.schedule(0.0)) for _ in range(2)] == ["ba", ""]
