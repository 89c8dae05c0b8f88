"""The small parts of the log: table, segments, window, cache, checkpoint, flushing."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from legato.stores.base import Ok
from legato.stores.codec import StepEncoder
from legato.stores.log.checkpoint import CheckpointWriter, Position, load_checkpoint
from legato.stores.log.flushing import BackgroundFlush
from legato.stores.log.hot import Hot, HotCache
from legato.stores.log.segments import Place, Segments
from legato.stores.log.table import COLUMNS, DEAD, LIVE, PAGE_BYTES, PAGE_ROWS, ROW_SIZE, Row, Table
from legato.stores.log.window import Window

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def a_row(digest: int, **changes: int) -> Row:
    row = Row(
        digest=digest.to_bytes(16, "little"), incarnation=b"i" * 16, epoch=1, created=2.0,
        ttl_s=3.0, origin=4, born=5, model=1, owner=0, flags=LIVE, step=6, serial=7, touched=8.0,
        segment=9, offset=10, length=100, state_bytes=50,
    )  # fmt: skip
    return row._replace(**changes)


# -- table ------------------------------------------------------------------------------


def test_columns_and_rows_are_two_views_of_one_thing() -> None:
    """What a row says is what its columns say."""
    table = Table()
    row = a_row(1 << 100 | 77)
    table.set(1 << 100 | 77, row)

    (columns,) = table.columns(0)

    assert COLUMNS.itemsize == ROW_SIZE == 116
    for name in set(COLUMNS.names) - {"digest", "incarnation", "pad"}:
        assert columns[name] == getattr(row, name)
    assert columns["digest"].tolist() == [77, 1 << 36]
    assert table.find(1 << 100 | 77) == row


def test_freed_rows_are_used_again() -> None:
    """Sequences that come and go do not make the table grow."""
    table = Table()
    for digest in range(100):
        table.set(digest, a_row(digest))
        table.remove(digest)

    assert len(table) == 1
    assert table.live == table.dead == table.state_bytes == 0
    assert table.find(5) is None


def test_counts_follow_the_rows() -> None:
    """Live, dead and bytes are counted as rows change, and the same after a restore."""
    table = Table()
    number = table.models.number("m")
    for digest in range(5):
        table.set(digest, a_row(digest, model=number))
    table.set(1, a_row(1, model=number, flags=DEAD, state_bytes=0))
    table.set(2, a_row(2, model=number, state_bytes=75))
    table.remove(0)
    restored = Table()
    page = bytearray(table.page_bytes(0).ljust(PAGE_BYTES, b"\0"))
    restored.restore([page], len(table), table.models.all(), table.owners.all())

    for each in (table, restored):
        assert (each.live, each.dead, each.state_bytes) == (3, 1, 175)
        assert each.live_of("m") == 3
        assert each.bytes_by_segment() == {9: 400}
        assert each.find(2) == a_row(2, model=number, state_bytes=75)
        assert each.find(0) is None
    assert restored.set(9, a_row(9)) == 0


def test_the_living_come_in_portions_oldest_first() -> None:
    """Wherever their rows lie: those of the removed are used again by younger ones."""
    table = Table()
    for digest in range(3 * PAGE_ROWS):
        table.set(digest, a_row(digest, origin=digest + 1))
    for digest in range(0, 2 * PAGE_ROWS, 2):
        table.remove(digest)
    for number in range(500):
        digest = 1 << 100 | number
        table.set(digest, a_row(digest, origin=4 * PAGE_ROWS + number, model=number % 2))
    expected = sorted(table.row(slot).origin for slot in range(len(table)) if table.row(slot).live)

    portions = list(table.living(0, None))
    rest = [origin for _slots, origins in table.living(3 * PAGE_ROWS, 0) for origin in origins]

    assert len(portions) > 1
    assert [origin for _slots, origins in portions for origin in origins] == expected
    for slots, origins in portions:
        assert [table.row(slot).origin for slot in slots] == origins.tolist()
    assert rest == list(range(4 * PAGE_ROWS, 4 * PAGE_ROWS + 500, 2))


def test_what_changes_between_two_portions_is_seen() -> None:
    """A listing holds what is so when a portion is asked for."""
    table = Table()
    for digest in range(2 * PAGE_ROWS):
        table.set(digest, a_row(digest, origin=digest + 1))
    portions = table.living(0, None)
    next(portions)
    table.remove(2 * PAGE_ROWS - 1)

    ((_slots, origins),) = portions

    assert len(origins) == PAGE_ROWS - 1


# -- segments ----------------------------------------------------------------------------


def test_a_new_segment_begins_when_the_tail_is_full(tmp_path: Path) -> None:
    """A write that does not fit goes into the next file; a read finds both."""
    segments = Segments(tmp_path, 10)
    places = []
    for data in (b"abcdef", b"ghi", b"jklm"):
        segments.make_room(len(data))
        places.append(Place(segments.tail.number, segments.append([data], len(data)), len(data)))

    assert places == [Place(0, 0, 6), Place(0, 6, 3), Place(1, 0, 4)]
    assert [segments.read(place) for place in places] == [b"abcdef", b"ghi", b"jklm"]
    assert segments.read(Place(1, 2, 4)) is None
    assert segments.read(Place(7, 0, 1)) is None
    segments.close()


def test_a_full_tail_waits_for_a_flush_that_is_under_way(tmp_path: Path) -> None:
    """With a thread that flushes, a new segment begins when little is left to flush."""
    limit = 8 << 20
    segments = Segments(tmp_path, limit)
    segments.patient = True
    segments.append([bytes(limit)], limit)
    half = limit // 8

    segments.make_room(half)
    waited = segments.tail.number
    segments.append([bytes(half)], half)
    segments.make_room(2 * half)
    bounded = segments.tail.number
    segments.append([bytes(limit)], limit)
    segments.flush()
    segments.make_room(1)

    assert (waited, bounded, segments.tail.number) == (0, 1, 2)
    segments.close()


def test_pinned_tombstones_go_with_the_last_segment_that_pins_them(tmp_path: Path) -> None:
    """Bytes kept for the sake of older segments stop counting when these are gone."""
    segments = Segments(tmp_path, 10)
    for _ in range(3):
        segments.append([b"12345678"], 8)
        segments.roll()
    segments.append([b"t"], 1)
    segments.pin(1, 0, 1)
    tail = segments.tail
    assert tail.live == 1

    segments.remove(segments.by_number[0])
    assert tail.live == 1
    segments.remove(segments.by_number[1])

    assert tail.live == 0
    assert [path.name for path in sorted(tmp_path.glob("*.seg"))] == [
        "00000002.seg",
        "00000003.seg",
    ]
    segments.close()


def test_nothing_is_flushed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush without new bytes does not reach the disk."""
    flushes = []
    monkeypatch.setattr(os, "fdatasync", flushes.append)
    segments = Segments(tmp_path, 100)
    segments.append([b"abc"], 3)

    segments.flush()
    segments.flush()
    assert len(flushes) == 1
    segments.append([b"abc"], 3)
    segments.flush()

    assert len(flushes) == 2
    segments.close()


# -- window ----------------------------------------------------------------------------------


def test_a_window_slides_over_a_file(tmp_path: Path) -> None:
    """Any range can be reached in order, also one larger than the window."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    fd = os.open(path, os.O_RDONLY)
    window = Window(fd, 100, chunk=16)

    for offset, need in ((0, 4), (12, 8), (20, 50), (95, 50)):
        at = window.reach(offset, need)
        wanted = bytes(range(offset, min(offset + need, 100)))
        assert window.data[at : at + len(wanted)] == wanted
    os.close(fd)


# -- cache --------------------------------------------------------------------------------------


def test_the_cache_forgets_what_is_not_used() -> None:
    """Two generations are kept; what is used moves to the younger."""
    cache = HotCache(generation=2)
    encoder, reached = StepEncoder(b"k", b"c"), Ok("process")
    used = Hot((bytearray(), 0), encoder, (), reached)
    cache.put(("m", 0), used)
    for number in range(1, 9):
        cache.put(("m", number), Hot((bytearray(), number), encoder, (), reached))
        assert (cache.young.get(("m", 0)) or cache.revive(("m", 0))) is used

    assert len(cache) <= 4
    assert cache.revive(("m", 1)) is None
    cache.drop(("m", 0))
    assert cache.young.get(("m", 0)) is None
    assert cache.revive(("m", 0)) is None


# -- checkpoint ------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    """Rows, names and position are what was written."""
    table, segments = Table(), Segments(tmp_path, 100)
    table.models.number("m")
    table.owners.number("o")
    for digest in range(40_000):
        table.set(digest, a_row(digest))
    position = Position(3, 4, 5, 6.5)
    writer = CheckpointWriter(table, segments, position)
    while not writer.step():
        pass

    writer.place()

    assert writer.finished.is_set()
    assert writer.error is None
    loaded = load_checkpoint(tmp_path / "index.ckpt")
    assert not isinstance(loaded, str)
    assert loaded.position == position
    assert loaded.rows == len(table) == 40_000
    assert len(loaded.pages) == table.pages == 5
    for at, page in enumerate(loaded.pages):
        assert page.startswith(table.page_bytes(at))
    assert (loaded.models, loaded.owners) == (["", "m"], ["", "o"])
    segments.close()


def test_an_abandoned_checkpoint_leaves_the_one_before(tmp_path: Path) -> None:
    """A checkpoint that is given up half-way does no harm."""
    table, segments = Table(), Segments(tmp_path, 100)
    first = CheckpointWriter(table, segments, Position(1))
    assert first.step()
    first.place()
    second = CheckpointWriter(table, segments, Position(2))

    second.abandon()

    loaded = load_checkpoint(tmp_path / "index.ckpt")
    assert not isinstance(loaded, str)
    assert loaded.position == Position(1)
    assert not (tmp_path / "index.ckpt.new").exists()
    segments.close()


# -- flushing -------------------------------------------------------------------------------------


def test_the_thread_flushes_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write is flushed after the interval, without anybody asking."""
    flushed = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: flushed.set())
    segments = Segments(tmp_path, 100)
    background = BackgroundFlush(segments, 0.001)
    segments.append([b"abc"], 3)

    background.wake()

    assert flushed.wait(10.0)
    background.stop()
    segments.close()


def test_a_job_is_done_before_the_thread_ends(tmp_path: Path) -> None:
    """What was handed to the thread is not lost when it stops."""
    segments = Segments(tmp_path, 100)
    background = BackgroundFlush(segments, 10.0)
    done = []
    assert background.submit(lambda: done.append(1))
    assert not background.submit(lambda: done.append(2))

    background.stop()

    assert done == [1]
    segments.close()
