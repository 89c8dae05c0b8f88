"""A process with a log store, killed at every named point and in between.

The state of each sequence is a hash chain, so a lost, repeated or reordered step shows.
After each death the store must hold everything that was told, and at most the one
action that was under way besides.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from log_kit import SHAPES, FakeClock, chain, content, grown_state, key_of, open_log

from legato.core.types import EndReason

if TYPE_CHECKING:
    from legato.stores.log import LogStore

SOURCE = Path(__file__).parents[3] / "src" / "legato"
WRITER = Path(__file__).with_name("writer.py")
GROWING = (3, 4)  # as the writer has it
LIMITS = {"segment_bytes": 4000, "checkpoint_bytes": 6000, "tombstone_s": 20.0}

POINTS = [
    "commit.before_write",
    "commit.mid_write",
    "commit.after_write",
    "commit.before_flush",
    "commit.after_flush",
    "commit.before_publish",
    "compact.after_copy",
    "compact.before_unlink",
    "ckpt.before_rename",
    "ckpt.after_rename",
    "expire.before_tombstone",
    "fork.between",
    "recover.mid_scan",
    "page_in.before_read",
]


def start(folder: Path, level: str, rounds: int, first: int, faults: str = "") -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(SOURCE.parent), "LEGATO_FAULTS": faults}
    return subprocess.Popen(
        [sys.executable, str(WRITER), str(folder), level, str(rounds), str(first)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


class Told:
    """What writers have told so far, and what a look at the store has shown besides.

    A writer may die between doing and telling; the next one goes on from what was done.
    """

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.forks: dict[str, int] = {}
        self.ended: set[str] = set()
        self.lines = 0

    def hear(self, output: str) -> None:
        for line in output.splitlines():
            self.lines += 1
            what, *words = line.split()
            if what == "step":
                self.steps[words[0]] = int(words[1])
            elif what == "fork":
                self.forks[words[0]] = int(words[1])
            elif what == "ended":
                self.ended.add(words[0])

    def compare(self, store: LogStore) -> None:
        """Everything told is there, bit for bit, and at most one step more."""
        for number, told in self.steps.items():
            step, state = content(store, int(number))
            assert told <= step <= told + 1, f"sequence {number}"
            assert state == chain(int(number), step)
            self.steps[number] = step
            if int(number) in GROWING:
                assert store.read(key_of(int(number)))[1] == grown_state(int(number), step)
        for name, told in self.forks.items():
            found = content(store, name)
            if name in self.ended:
                assert found in (EndReason.ENDED, None)
            elif found is EndReason.ENDED:
                # The delete that was under way happened. Noted, because its tombstone goes in time.
                self.ended.add(name)
            else:
                assert found == (told, chain(0, told)), name
        for name in self.ended - self.forks.keys():
            assert content(store, name) in (EndReason.EXPIRED, None)
        live = {str(listed.key.correlation_id) for listed in store.list()}
        assert not live & self.ended
        assert store.recovery.unnamed == store.recovery.damaged == 0


def check(folder: Path, told: Told) -> None:
    """Compare with the store as it opens, by its checkpoint and by a full scan."""
    store = open_log(folder, FakeClock(), **LIMITS)
    told.compare(store)
    store.close()
    (folder / "index.ckpt").unlink()
    store = open_log(folder, FakeClock(), **LIMITS)
    told.compare(store)
    store.close()


def test_every_point_of_the_store_is_in_the_list() -> None:
    """A fault point added to the source without a kill here fails the build."""
    found = set()
    for path in (SOURCE / "stores" / "log").glob("*.py"):
        found |= set(re.findall(r'fault\("([\w.]+)"\)', path.read_text()))

    assert found == set(POINTS)
    assert SHAPES  # the kit and the writer agree on what a state is


@pytest.mark.parametrize("passage", [1, 4])
@pytest.mark.parametrize("point", POINTS)
def test_nothing_told_is_lost_by_a_kill_at_a_point(
    tmp_path: Path, point: str, passage: int
) -> None:
    """Killed inside every step of commit, flush, compaction, checkpoint, expiry, fork, recovery."""
    folder, told = tmp_path / "log", Told()
    level = "disk" if "flush" in point else "process"
    ready = start(folder, level, 12, 0)
    told.hear(ready.communicate(timeout=60)[0])
    if point == "recover.mid_scan":
        (folder / "index.ckpt").unlink()

    # The passage of a scan counts once every 64 records: the log here has one or two.
    faults = f"{point}:exit9:{1 if point == 'recover.mid_scan' else passage}"
    killed = start(folder, level, 40, 12, faults)
    output, errors = killed.communicate(timeout=60)
    told.hear(output)

    assert killed.returncode == -signal.SIGKILL, errors
    check(folder, told)


def test_nothing_told_is_lost_by_kills_at_any_moment(tmp_path: Path) -> None:
    """Killed again and again from outside, each time going on with what was left."""
    folder, told, rng = tmp_path / "log", Told(), random.Random(7)
    first = 0
    for _ in range(12):
        with start(folder, "process", 1000, first) as process:
            lines = [process.stdout.readline() for _line in range(rng.randrange(1, 120))]
            process.send_signal(signal.SIGKILL)
            # Not with ``communicate``: that forgets what was read ahead of the last line.
            told.hear("".join(lines) + process.stdout.read())
            errors = process.stderr.read()
        assert process.returncode == -signal.SIGKILL, errors
        first += 1000
        check(folder, told)

    assert told.lines > 200
    assert min(told.steps.values()) > 20


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        ("commit.mid_write:short:5", "StorageFullError"),
        ("commit.before_write:enospc:5", "StorageFullError"),
        ("commit.before_write:eio:5", "StorageFullError"),
        ("commit.after_flush:eio:5", "StoreFailedError"),
        ("commit.before_flush:eio:5", "StoreFailedError"),
        ("commit.before_publish:raise:5", "InjectedFaultError"),
    ],
)
def test_nothing_told_is_lost_by_an_error(tmp_path: Path, faults: str, problem: str) -> None:
    """A write or flush that fails takes the process down in this test; what was told stands."""
    folder, told = tmp_path / "log", Told()

    failed = start(folder, "disk", 20, 0, faults)
    output, errors = failed.communicate(timeout=60)
    told.hear(output)

    assert problem in errors
    assert "closed" not in output
    assert told.steps
    check(folder, told)


def test_a_limit_of_the_file_system_is_survived(tmp_path: Path) -> None:
    """A real short write refuses the step; when the limit goes, the same step is taken."""
    folder = tmp_path / "log"
    start(folder, "process", 5, 0).communicate(timeout=60)

    process = start(folder, "process", 0, 5)
    output, errors = process.communicate(timeout=60)

    assert process.returncode == 0, errors
    assert "refused 3 False" in output
    assert "taken True" in output
    store = open_log(folder, FakeClock(), **LIMITS)
    assert content(store, "large") == (1, bytes(4000))
    store.close()


def test_a_running_process_keeps_others_out(tmp_path: Path) -> None:
    """The second process is told which one has the folder; after a kill it may have it."""
    folder = tmp_path / "log"
    first = start(folder, "process", 100_000, 0)
    assert first.stdout.readline().startswith("open")

    second = start(folder, "process", 1, 0)
    _, errors = second.communicate(timeout=60)
    first.kill()
    first.communicate(timeout=60)

    assert second.returncode == 1
    assert f"in use by process {first.pid}" in errors
    store = open_log(folder, FakeClock(), **LIMITS)
    assert content(store, 0)[0] >= 1
    assert store.read(key_of(0))
    store.close()
