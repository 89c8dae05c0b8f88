"""The commit of a batch: what is written, what is refused, and what a failing disk leaves."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from log_kit import FakeClock, a_commit, chain, commit, content, contents, open_log, segment_paths

from legato.core.errors import StorageFullError
from legato.core.types import EndReason
from legato.stores.base import Conflict, Duplicate, Fenced, Gone, Ok
from legato.stores.log.segments import StoreFailedError

if TYPE_CHECKING:
    from pathlib import Path


def test_each_entry_of_a_batch_is_decided_by_itself(tmp_path: Path) -> None:
    """One batch can hold every outcome, in the order of its entries."""
    store = open_log(tmp_path / "log")
    commit(store, *(a_commit(number, 1) for number in range(4)))

    results = store.commit(
        [
            a_commit(0, 2),
            a_commit(1, 1),
            a_commit(2, 2, epoch=7),
            a_commit(3, 9),
            a_commit("unknown", 2),
        ]
    )

    assert results[0] == Ok("process")
    assert isinstance(results[1], Duplicate)
    assert results[2:] == [Fenced(1, 1), Conflict(1), Gone(None)]
    assert contents(store, (0, 1)) == {0: (2, chain(0, 2)), 1: (1, chain(1, 1))}
    store.close()


def test_steps_of_one_sequence_in_one_batch_follow_each_other(tmp_path: Path) -> None:
    """An entry is decided against the outcome of those before it."""
    store = open_log(tmp_path / "log")

    results = store.commit([a_commit(1, 1), a_commit(2, 1), a_commit(1, 2), a_commit(1, 2)])

    assert results[:3] == [Ok("process")] * 3
    assert isinstance(results[3], Duplicate)
    assert content(store, 1) == (2, chain(1, 2))
    store.close()


def test_a_batch_larger_than_a_segment_is_written_in_parts(tmp_path: Path) -> None:
    """Only a single record may be larger than a segment."""
    store = open_log(tmp_path / "log", segment_bytes=1000)

    commit(store, *(a_commit(number, 1) for number in range(20)))
    commit(store, a_commit("large", 1, data=bytes(5000)))

    assert len(segment_paths(store.folder)) >= 5
    assert contents(store, range(20)) == {n: (1, chain(n, 1)) for n in range(20)}
    assert content(store, "large") == (1, bytes(5000))
    store.close()


def test_a_batch_of_many_large_states_needs_more_buffers_than_one_write_takes(
    tmp_path: Path,
) -> None:
    """More than 1,024 buffers are written all the same."""
    store = open_log(tmp_path / "log")
    data = bytes(70_000)

    commit(store, *(a_commit(number, 1, data=data) for number in range(200)))

    assert all(content(store, number) == (1, data) for number in range(200))
    store.close()


def test_one_batch_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps, the interpreter is given up once, and at level disk once more."""
    store = open_log(tmp_path / "log", level="disk")
    commit(store, *(a_commit(number, 1) for number in range(32)))
    calls = []
    write = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda *a: (calls.append("write"), write(*a))[1])
    monkeypatch.setattr(os, "fdatasync", lambda fd: calls.append("flush"))

    commit(store, *(a_commit(number, 2) for number in range(32)))

    assert calls == ["write", "flush"]
    store.close()


def test_a_sequence_may_ask_for_more_than_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush happens when one entry wants it, and each is told its own level."""
    store = open_log(tmp_path / "log")
    flushes = []
    monkeypatch.setattr(os, "fdatasync", flushes.append)

    plain = store.commit([a_commit(1, 1)])
    assert not flushes
    mixed = store.commit([a_commit(1, 2), a_commit(2, 1, level="disk")])

    assert plain == [Ok("process")]
    assert mixed == [Ok("process"), Ok("disk")]
    assert len(flushes) == 1
    store.close()


@pytest.mark.parametrize("written", [0, 1, 100])
def test_a_full_disk_changes_nothing_and_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Refused steps leave the log as it was; when space returns the same commit succeeds."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    path = segment_paths(store.folder)[0]
    size = path.stat().st_size
    write = os.pwritev

    def full(fd: int, buffers: list[bytes], offset: int) -> int:
        if not written:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, [b"".join(buffers)[:written]], offset)

    monkeypatch.setattr(os, "pwritev", full)
    with pytest.raises(StorageFullError):
        store.commit([a_commit(1, 2), a_commit(2, 1)])
    statistics = store.statistics()
    assert path.stat().st_size == size
    assert not statistics.writable
    assert "could not write" in statistics.problem
    assert contents(store, (1, 2)) == {1: (1, chain(1, 1)), 2: None}

    monkeypatch.setattr(os, "pwritev", write)
    commit(store, a_commit(1, 2), a_commit(2, 1))

    assert store.statistics().writable
    assert contents(store, (1, 2)) == {1: (2, chain(1, 2)), 2: (1, chain(2, 1))}
    store.close()


def test_reading_goes_on_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk sequences can be acquired and read, and a repeated step gets its reply."""
    store = open_log(tmp_path / "log", clock := FakeClock())
    commit(store, a_commit(1, 1), a_commit(2, 1, ttl_s=5.0))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwritev", full)
    owned = store.acquire(a_commit(1, 1).key, "a")
    again = store.commit([a_commit(1, 1)])
    clock.advance(6.0)

    assert owned.head.epoch == 2
    assert isinstance(again[0], Duplicate)
    assert store.sweep(10, ()) == []
    assert content(store, 2) is EndReason.EXPIRED
    assert not store.statistics().writable
    monkeypatch.undo()
    assert [key for key, _ in store.sweep(10, ())] == [a_commit(2, 1).key]
    assert store.statistics().writable
    store.close()


def test_a_failed_flush_is_final(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of fdatasync nothing is taken, and no flush is tried again."""
    store = open_log(tmp_path / "log", level="disk")
    commit(store, a_commit(1, 1))
    calls = []

    def broken(fd: int) -> None:
        calls.append(fd)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(StoreFailedError) as caught:
        store.commit([a_commit(1, 2)])
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)

    assert caught.value.fatal
    for call in (
        lambda: store.commit([a_commit(1, 2)]),
        lambda: store.delete(a_commit(1, 1).key, a_commit(1, 1).incarnation, EndReason.ENDED),
        store.flush,
        store.maintain,
        lambda: store.sweep(1, ()),
    ):
        with pytest.raises(StoreFailedError):
            call()
    assert len(calls) == 1
    assert not store.statistics().writable
    assert content(store, 1) == (1, chain(1, 1))
    store.close()


def test_a_write_that_cannot_be_undone_is_final(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the half-written batch cannot be cut off, nothing more is written behind it."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pwritev", broken)
    monkeypatch.setattr(os, "ftruncate", broken)
    with pytest.raises(StoreFailedError):
        store.commit([a_commit(1, 2)])
    monkeypatch.undo()

    with pytest.raises(StoreFailedError):
        store.commit([a_commit(1, 2)])
    store.close()


def test_a_step_that_waited_is_not_lost_to_the_idle_limit(tmp_path: Path) -> None:
    """The idle clock stands still for the time that a step spends in the server."""
    store = open_log(tmp_path / "log", clock := FakeClock())
    commit(store, a_commit(1, 1, ttl_s=10.0), a_commit(2, 1, ttl_s=10.0))
    clock.advance(15.0)

    results = store.commit(
        [a_commit(1, 2, ttl_s=10.0, waited_s=6.0), a_commit(2, 2, ttl_s=10.0, waited_s=4.0)]
    )

    assert results[0] == Ok("process")
    assert isinstance(results[1], Gone)
    store.close()


def test_what_a_sequence_carries_may_change(tmp_path: Path) -> None:
    """Version, idle limit and level are those of the newest commit."""
    store = open_log(tmp_path / "log", clock := FakeClock())
    commit(store, a_commit(1, 1, ttl_s=10.0))
    commit(store, a_commit(1, 2, ttl_s=10.0))
    commit(store, a_commit(1, 3, ttl_s=99.0, version="2", model_digest="e", level="disk"))
    clock.advance(50.0)

    head, _ = store.read(a_commit(1, 1).key)

    assert (head.version, head.model_digest, head.ttl_s, head.level) == ("2", "e", 99.0, "disk")
    store.close()
    again = open_log(tmp_path / "log", clock)
    assert again.read(a_commit(1, 1).key)[0] == head
    again.close()


def test_a_restart_names_its_predecessor_for_good(tmp_path: Path) -> None:
    """A late commit of the displaced incarnation is told so, after steps and a restart too."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    replaces = a_commit(1, 1).incarnation
    commit(store, a_commit(1, 1, life=1, replaces=replaces))
    commit(store, a_commit(1, 2, life=1))
    store.acquire(a_commit(1, 1).key, "a")
    commit(store, a_commit(1, 3, life=1, epoch=2))
    store.close()
    again = open_log(tmp_path / "log")

    (late,) = again.commit([a_commit(1, 2)])

    assert isinstance(late, Gone)
    assert late.ending is not None
    assert late.ending.reason is EndReason.DISPLACED
    again.close()
