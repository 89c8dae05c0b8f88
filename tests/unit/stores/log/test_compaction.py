"""Making room: nothing needed is lost, nothing dead comes back."""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest
from log_kit import (
    FakeClock,
    a_commit,
    chain,
    commit,
    content,
    contents,
    copy_as_killed,
    incarnation_of,
    key_of,
    open_log,
    run_upkeep,
    segment_paths,
)

from legato.core.types import EndReason
from legato.stores.base import Owned

if TYPE_CHECKING:
    from pathlib import Path

    from legato.stores.log import LogStore

SMALL = 2000  # bytes a segment: about ten records


def log_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in segment_paths(folder))


def scan_of(store: LogStore, target: Path, clock: FakeClock) -> LogStore:
    """The log of an open store as a full scan after a kill finds it."""
    if target.exists():
        shutil.rmtree(target)
    killed = copy_as_killed(store, target)
    (killed / "index.ckpt").unlink(missing_ok=True)
    return open_log(killed, clock, segment_bytes=SMALL, tombstone_s=5.0)


def test_overwritten_steps_give_their_space_back(tmp_path: Path) -> None:
    """A log of few sequences stays small, however many steps they take."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    for step in range(1, 301):
        commit(store, a_commit(1, step), a_commit(2, step))
        run_upkeep(store)

    assert log_bytes(store.folder) < 4 * SMALL
    assert contents(store, (1, 2)) == {1: (300, chain(1, 300)), 2: (300, chain(2, 300))}
    store.close()


def test_the_dead_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that this process wrote, compaction reads no more than what is needed of it."""
    store = open_log(tmp_path / "log", segment_bytes=1_000_000)
    commit(store, a_commit("idle", 1), a_commit("gone", 1))
    store.delete(key_of("gone"), incarnation_of("gone"), EndReason.CANCELLED)
    for step in range(1, 31):
        commit(store, a_commit(1, step, data=bytes(100_000)))
    taken: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: taken.append(size) or pread(fd, size, at))

    run_upkeep(store)

    assert not (store.folder / "00000000.seg").exists()
    assert sum(taken) < 500_000
    assert content(store, "idle") == (1, chain("idle", 1))
    store.close()


def test_idle_sequences_are_carried_along(tmp_path: Path) -> None:
    """A sequence that takes no step is copied as often as its segment is emptied."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    commit(store, a_commit("idle", 1))
    for step in range(1, 101):
        commit(store, a_commit(1, step))
        run_upkeep(store)

    assert not (store.folder / "00000000.seg").exists()
    assert content(store, "idle") == (1, chain("idle", 1))
    store.close()
    again = open_log(tmp_path / "log", segment_bytes=SMALL)
    assert content(again, "idle") == (1, chain("idle", 1))
    again.close()


def test_a_raised_epoch_is_carried_along(tmp_path: Path) -> None:
    """The owner of a record that moves is the owner that acquired it, also after a full scan."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock, segment_bytes=SMALL)
    commit(store, a_commit("idle", 1))
    for owner in ("a", "b", "c"):
        store.acquire(key_of("idle"), owner, hold_s=0.0)
    for step in range(1, 101):
        commit(store, a_commit(1, step))
        run_upkeep(store)
    scanned = scan_of(store, tmp_path / "killed", clock)

    found = scanned.acquire(key_of("idle"), "c")

    assert isinstance(found, Owned)
    assert found.head.epoch == 4
    scanned.close()
    store.close()


def test_the_owner_of_a_record_elsewhere_is_not_lost(tmp_path: Path) -> None:
    """An owner noted in a segment that goes is written into the record, wherever that lies."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock, segment_bytes=SMALL)
    for number in range(8):
        commit(store, a_commit(f"idle{number}", 1))
    for step in range(1, 4):
        commit(store, a_commit(1, step))
    for owner in ("a", "b", "c"):
        for number in range(8):
            store.acquire(key_of(f"idle{number}"), owner, hold_s=0.0)
    for step in range(4, 60):
        commit(store, a_commit(1, step))
        run_upkeep(store)
    scanned = scan_of(store, tmp_path / "killed", clock)

    assert not (store.folder / "00000001.seg").exists()
    for number in range(8):
        assert scanned.acquire(key_of(f"idle{number}"), "c").head.epoch == 4
    scanned.close()
    store.close()


def test_the_dead_stay_dead_while_any_of_their_bytes_exist(tmp_path: Path) -> None:
    """A tombstone past its retention stays while an older segment could contradict it."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock, segment_bytes=SMALL, tombstone_s=5.0)
    commit(store, a_commit("dead", 1))
    for number in range(8):  # keeps the first segment from being emptied
        commit(store, a_commit(f"idle{number}", 1))
    for step in range(1, 20):
        commit(store, a_commit(1, step))
    store.delete(key_of("dead"), incarnation_of("dead"), EndReason.CANCELLED)
    for step in range(20, 120):
        clock.advance(1.0)
        commit(store, a_commit(1, step))
        store.sweep(10, ())
        run_upkeep(store)
    scanned = scan_of(store, tmp_path / "killed", clock)
    clock.advance(0.5)

    assert store.statistics().tombstones == 0
    assert (store.folder / "00000000.seg").exists()
    assert content(store, "dead") is None
    assert content(scanned, "dead") is None
    scanned.close()
    store.close()


def test_tombstones_go_with_what_they_cover(tmp_path: Path) -> None:
    """Sequences that come and go leave nothing behind."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock, segment_bytes=SMALL, tombstone_s=5.0)
    for number in range(300):
        commit(store, a_commit(number, 1))
        commit(store, a_commit(number, 2, end=EndReason.ENDED))
        clock.advance(1.0)
        store.sweep(10, ())
        run_upkeep(store)
    clock.advance(10.0)
    store.sweep(100, ())
    run_upkeep(store)

    assert store.statistics().tombstones == 0
    assert log_bytes(store.folder) <= 3 * SMALL
    store.close()


def test_a_segment_with_damage_is_left_alone(tmp_path: Path) -> None:
    """Compaction does not copy, or delete, what it cannot read."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    commit(store, a_commit("idle", 1), a_commit("hit", 1))
    for step in range(1, 31):
        commit(store, a_commit(1, step))
    path = store.folder / "00000000.seg"
    blob = bytearray(path.read_bytes())
    row = store._table.find(store._journal.find(key_of("hit"), 0.0).digest)
    assert row is not None
    blob[row.offset + row.length - 1] ^= 1
    path.write_bytes(blob)

    run_upkeep(store)

    assert path.exists()
    assert content(store, "hit") == "damaged"
    assert content(store, "idle") == (1, chain("idle", 1))
    assert content(store, 1) == (30, chain(1, 30))
    store.close()


def test_without_room_for_the_copies_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compaction stops at a floor of free space and goes on when space returns."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    for step in range(1, 61):
        commit(store, a_commit(1, step))
    before = segment_paths(store.folder)
    monkeypatch.setattr(type(store._segments), "free_bytes", lambda self: 1024)
    run_upkeep(store)
    assert segment_paths(store.folder) == before

    monkeypatch.undo()
    run_upkeep(store)

    assert len(segment_paths(store.folder)) < len(before)
    store.close()


def test_nobody_needs_to_call_upkeep(tmp_path: Path) -> None:
    """If nobody calls for slices, commits do one after each megabyte."""
    store = open_log(tmp_path / "log", segment_bytes=300_000)
    data = bytes(100_000)
    for step in range(1, 401):
        commit(store, a_commit(1, step, data=data))

    assert log_bytes(store.folder) < 20_000_000
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_any_history_reads_the_same_from_memory_checkpoint_and_scan(
    tmp_path: Path, seed: int
) -> None:
    """Random steps, ends, owners, forks, sweeps, slices and kills against a dictionary."""
    rng = random.Random(seed)
    clock = FakeClock()
    options = {"segment_bytes": SMALL, "tombstone_s": 5.0, "checkpoint_bytes": 3 * SMALL}
    store = open_log(tmp_path / "log", clock, **options)
    lives: dict[int, int] = {}
    steps: dict[int, tuple[int, int]] = {}  # number -> (life, step) of the living
    for _ in range(1500):
        number = rng.randrange(12)
        action = rng.random()
        if action < 0.6 and number in steps:
            life, step = steps[number]
            epoch = store.read(key_of(number))[0].epoch
            commit(store, a_commit(number, step + 1, life=life, epoch=epoch))
            steps[number] = (life, step + 1)
        elif action < 0.6:
            lives[number] = lives.get(number, -1) + 1
            commit(store, a_commit(number, 1, life=lives[number]))
            steps[number] = (lives[number], 1)
        elif action < 0.68 and number in steps:
            life, _step = steps.pop(number)
            store.delete(key_of(number), incarnation_of(number, life), EndReason.ENDED)
        elif action < 0.75:
            store.acquire(key_of(number), rng.choice("ab"), hold_s=0.0)
        elif action < 0.80:
            clock.advance(rng.choice((0.1, 3.0)))
            store.sweep(3, ())
        elif action < 0.99:
            store.maintain(1.0)
        else:
            epochs = {n: store.read(key_of(n))[0].epoch for n in steps}
            killed = copy_as_killed(store, tmp_path / f"killed-{_}")
            store.close()
            store = open_log(killed, clock, **options)
            assert epochs == {n: store.read(key_of(n))[0].epoch for n in steps}
        if rng.random() < 0.02:
            expected = {n: (step, chain(n, step, life)) for n, (life, step) in steps.items()}
            assert contents(store, steps) == expected
            scanned = scan_of(store, tmp_path / "scan", clock)
            assert contents(scanned, steps) == expected
            for n in steps:
                assert scanned.read(key_of(n))[0] == store.read(key_of(n))[0]
            alive = {listed.key.correlation_id for listed in scanned.list()}
            assert alive == set(steps) == {listed.key.correlation_id for listed in store.list()}
            assert scanned.statistics().live == store.statistics().live == len(steps)
            scanned.close()
    store.close()
