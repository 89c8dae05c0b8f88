"""Fault points: what a specification arms, and that nothing is armed by default."""

from __future__ import annotations

import errno

import pytest

from legato import faults
from legato.faults import Arming, Faults, InjectedFaultError, parse


def test_nothing_is_armed_unless_asked() -> None:
    """In a process without the variable a fault point does nothing."""
    assert faults.fault("commit.before_write") == ""
    assert not faults.armed("commit.before_write")


def test_a_specification_names_points_actions_and_counts() -> None:
    """Several points, each with its action and the passage at which it acts."""
    plan = parse("a.b:exit9:3, c.d:sleep=0.5:2+,a.b:short")

    assert plan == {
        "a.b": [Arming("exit9", 3, onwards=False), Arming("short", 1, onwards=True)],
        "c.d": [Arming("sleep=0.5", 2, onwards=True)],
    }


@pytest.mark.parametrize("wrong", ["a.b", "a.b:explode", ":exit9", "a.b:exit9:x", "a.b:sleep=-1"])
def test_a_malformed_specification_is_refused(wrong: str) -> None:
    """A typing error must not look like a test that passed."""
    with pytest.raises(ValueError, match=r"LEGATO_FAULTS|invalid literal"):
        parse(wrong)


def test_a_point_acts_at_its_passage_only() -> None:
    """The count says which passage; a plus says from there on."""
    armed = Faults(parse("once:short:2,often:drop:2+"))

    assert [armed.fault("once") for _ in range(4)] == ["", "short", "", ""]
    assert [armed.fault("often") for _ in range(4)] == ["", "drop", "drop", "drop"]
    assert armed.fault("other") == ""
    assert armed.armed("once")
    assert not armed.armed("other")


@pytest.mark.parametrize(("action", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_errors_of_the_system_are_raised_as_such(action: str, number: int) -> None:
    """The code under test cannot tell an injected error from a real one."""
    with pytest.raises(OSError, match="point") as caught:
        Faults(parse(f"point:{action}")).fault("point")
    assert caught.value.errno == number


def test_raise_raises_an_error_of_its_own() -> None:
    """An exception that no code expects."""
    with pytest.raises(InjectedFaultError, match="point"):
        Faults(parse("point:raise")).fault("point")


def test_sleep_only_delays() -> None:
    """After the delay the code goes on."""
    assert Faults(parse("point:sleep=0")).fault("point") == ""
