"""CPU seconds of processes, from /proc."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC: Final = Path("/proc")


class Stat(NamedTuple):
    """What one line of ``stat`` says: parent process and CPU seconds (user and system)."""

    name: str
    parent: int
    seconds: float


def parse_stat(text: str) -> Stat:
    """Read the line of a process or thread; its name may hold anything."""
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    ticks = int(fields[11]) + int(fields[12])
    return Stat(name, int(fields[1]), ticks / os.sysconf("SC_CLK_TCK"))


def _read(path: Path) -> Stat | None:
    try:
        return parse_stat(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return None  # it ended meanwhile


def family(pid: int) -> list[int]:
    """Return a process and all its descendants; empty if it does not exist."""
    parents = {
        int(folder.name): stat.parent
        for folder in _PROC.iterdir()
        if folder.name.isdigit() and (stat := _read(folder / "stat")) is not None
    }
    if pid not in parents:
        return []
    found = [pid]
    for one in found:  # grows as it goes
        found += [child for child, parent in parents.items() if parent == one]
    return found


def seconds(pids: Iterable[int]) -> float:
    """Return the CPU seconds that processes have used so far, all threads."""
    stats = (_read(_PROC / str(pid) / "stat") for pid in pids)
    return sum(stat.seconds for stat in stats if stat is not None)


def by_thread(pids: Iterable[int]) -> Counter[str]:
    """Return the CPU seconds of the threads that live now, by thread name and number."""
    found: Counter[str] = Counter()
    for pid in pids:
        folder = _PROC / str(pid) / "task"
        try:
            tasks = list(folder.iterdir())
        except OSError:
            continue
        for task in tasks:
            stat = _read(task / "stat")
            if stat is not None:
                found[f"{stat.name}/{task.name}"] = stat.seconds  # type: ignore[assignment]
    return found
