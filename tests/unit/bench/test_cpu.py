"""CPU seconds are read from /proc."""

from __future__ import annotations

import os

from legato.bench.cpu import by_thread, family, parse_stat, seconds

LINE = "77 (a) b (c) S 5 77 77 0 -1 4194304 10 0 0 0 250 50 0 0 20 0 1 0 100 1000 10 0"


def test_line_is_read_whatever_the_name_holds() -> None:
    """Parentheses and blanks in a process's name move no field."""
    stat = parse_stat(LINE)

    assert (stat.name, stat.parent) == ("a) b (c", 5)
    assert stat.seconds == 300 / os.sysconf("SC_CLK_TCK")


def test_own_process_has_a_family_and_uses_time() -> None:
    """This process is its own first relative; its threads are part of it."""
    mine = os.getpid()

    assert family(mine)[0] == mine
    assert seconds([mine]) > 0
    assert any(name.endswith(f"/{mine}") for name in by_thread([mine]))


def test_process_that_is_gone_counts_nothing() -> None:
    """A pid that nobody has is an empty family without CPU time."""
    nobody = 2**22 + 1  # above the kernel's largest pid

    assert family(nobody) == []
    assert seconds([nobody]) == 0
    assert not by_thread([nobody])
