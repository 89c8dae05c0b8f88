"""Opening a log that was killed, cut, flipped or written by somebody else."""

from __future__ import annotations

import tempfile
from pathlib import Path
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
    segment_paths,
)

from legato.core.errors import ConfigError
from legato.core.types import EndReason
from legato.stores import codec
from legato.stores.base import Conflict, Ok
from legato.stores.log.table import PAGE_BYTES, ROW_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = (1, 2, "1")


def a_small_log(folder: Path) -> tuple[bytes, list[int], list[dict[object, object]]]:
    """A log of six records in one segment, not closed.

    Returns:
        Its bytes, the offset behind each record, and the contents after 0, 1, ... records.
    """
    store = open_log(folder)
    ends, after = [], [contents(store, NUMBERS)]
    steps = [
        lambda: commit(store, a_commit(1, 1)),
        lambda: commit(store, a_commit("1", 1)),
        lambda: commit(store, a_commit(1, 2)),
        lambda: commit(store, a_commit(2, 1)),
        lambda: store.delete(key_of("1"), incarnation_of("1"), EndReason.CANCELLED),
        lambda: commit(store, a_commit(2, 2)),
    ]
    path = segment_paths(folder)[0]
    for step in steps:
        step()
        ends.append(path.stat().st_size)
        after.append(contents(store, NUMBERS))
    blob = path.read_bytes()
    store.close()
    return blob, ends, after


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder marked as a log, without segments; in memory, because it is opened so often."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        (Path(made) / "FORMAT").write_text("legato log 1\n")
        yield Path(made)


def lay_out(folder: Path, *segments: bytes) -> None:
    for path in folder.iterdir():
        if path.name != "FORMAT":
            path.unlink()
    for number, blob in enumerate(segments):
        (folder / f"{number:08d}.seg").write_bytes(blob)


def test_a_log_cut_at_any_byte_gives_the_whole_records_before_the_cut(
    tmp_path: Path, folder: Path
) -> None:
    """Every torn tail opens as a clean prefix, and can be written to."""
    blob, ends, after = a_small_log(tmp_path / "made")

    for size in range(len(blob) + 1):
        lay_out(folder, blob[:size])
        store = open_log(folder)
        whole = sum(end <= size for end in ends)
        assert contents(store, NUMBERS) == after[whole], f"cut at byte {size}"
        commit(store, a_commit("new", 1))
        store.close()


def test_any_flipped_bit_of_the_last_segment_gives_the_records_before_it(
    tmp_path: Path, folder: Path
) -> None:
    """Nothing is read past the first invalid record of the last segment."""
    blob, ends, after = a_small_log(tmp_path / "made")
    damaged = bytearray(blob)

    for bit in range(len(blob) * 8):
        damaged[bit >> 3] ^= 1 << (bit & 7)
        lay_out(folder, damaged)
        store = open_log(folder)
        whole = sum(end <= bit >> 3 for end in ends)
        assert contents(store, NUMBERS) == after[whole], f"bit {bit}"
        store.close()
        damaged[bit >> 3] ^= 1 << (bit & 7)


def test_any_flipped_bit_of_an_earlier_segment_damages_the_record_hit(
    tmp_path: Path, folder: Path
) -> None:
    """The sequence whose newest record is hit is refused by name; the others go on."""
    blob, ends, after = a_small_log(tmp_path / "made")
    newest = {2: 1, 4: "1", 5: 2}  # the record of each sequence that counts
    following = codec.encode_seal(99, 1000.0)
    damaged = bytearray(blob)

    for bit in range(len(blob) * 8):
        damaged[bit >> 3] ^= 1 << (bit & 7)
        lay_out(folder, damaged, following)
        store = open_log(folder)
        hit = newest.get(sum(end <= bit >> 3 for end in ends))
        expected = after[-1] if hit is None else after[-1] | {hit: "damaged"}
        assert contents(store, NUMBERS) == expected, f"bit {bit}"
        store.close()
        damaged[bit >> 3] ^= 1 << (bit & 7)


def test_damage_behind_a_checkpoint_is_found_at_the_read(tmp_path: Path) -> None:
    """A flipped bit in a record that no scan looks at is refused when it is wanted."""
    made = tmp_path / "made"
    store = open_log(made)
    commit(store, *(a_commit(number, 1) for number in (1, 2, 3)))
    store.close()
    path = segment_paths(made)[0]
    whole = path.read_bytes()
    each = len(whole) // 3

    for byte in range(0, len(whole), 7):
        path.write_bytes(whole[:byte] + bytes([whole[byte] ^ 0x10]) + whole[byte + 1 :])
        store = open_log(made)
        expected = {number: (1, chain(number, 1)) for number in (1, 2, 3)}
        expected[1 + byte // each] = "damaged"
        assert contents(store, (1, 2, 3)) == expected, f"byte {byte}"
        store.close()
        path.write_bytes(whole)


def test_two_wrong_bytes_in_a_header_are_reported_not_guessed(tmp_path: Path, folder: Path) -> None:
    """Damage that names no sequence is told, and the records behind it are read."""
    blob, ends, _ = a_small_log(tmp_path / "made")
    damaged = bytearray(blob)
    damaged[ends[2] + 40] ^= 0xFF
    damaged[ends[2] + 43] ^= 0xFF
    lay_out(folder, damaged, b"")

    store = open_log(folder)

    assert store.recovery.unnamed == 1
    assert "damaged beyond telling" in store.recovery.notes[-1]
    assert "1 places" in store.statistics().problem
    assert content(store, 1) == (2, chain(1, 2))
    assert content(store, "1") is EndReason.CANCELLED
    store.close()


def test_a_cut_that_throws_records_away_keeps_them_aside(tmp_path: Path, folder: Path) -> None:
    """What was cut off although valid records follow is kept in a file for a person."""
    blob, ends, _ = a_small_log(tmp_path / "made")
    damaged = bytearray(blob)
    damaged[ends[0] + 60] ^= 1
    lay_out(folder, damaged)

    store = open_log(folder)
    store.close()

    (aside,) = folder.glob("*.cut-*")
    assert aside.read_bytes() == bytes(damaged[ends[0] :])
    assert aside.name in store.recovery.notes[-1]


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    """Whatever is wrong with the checkpoint, the log itself gives the same sequences."""
    made = tmp_path / "made"
    store = open_log(made)
    for step in (1, 2):
        commit(store, *(a_commit(number, step) for number in NUMBERS))
    store.close()
    expected = {number: (2, chain(number, 2)) for number in NUMBERS}
    path = made / "index.ckpt"
    whole = path.read_bytes()

    for wrong in [
        *(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))),
        *(whole[:size] for size in range(0, len(whole), 11)),
    ]:
        path.write_bytes(wrong)
        store = open_log(made)
        assert store.recovery.records >= 6
        assert contents(store, NUMBERS) == expected
        store.close()


def test_a_checkpoint_spares_the_scan(tmp_path: Path) -> None:
    """After a clean close nothing is read again."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    store.close()

    again = open_log(tmp_path / "log")

    assert again.recovery.records == 0
    assert content(again, 1) == (1, chain(1, 1))
    again.close()


def test_records_behind_a_checkpoint_are_replayed(tmp_path: Path) -> None:
    """What was committed after the last checkpoint is found by reading on from there."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    store.checkpoint()
    commit(store, a_commit(1, 2), a_commit(2, 1))
    killed = copy_as_killed(store, tmp_path / "killed")

    again = open_log(killed)

    assert again.recovery.records == 2
    assert contents(again, (1, 2)) == {1: (2, chain(1, 2)), 2: (1, chain(2, 1))}
    again.close()
    store.close()


def test_a_log_shorter_than_its_checkpoint_loses_only_what_is_gone(tmp_path: Path) -> None:
    """Records that the checkpoint names but the file lost are damaged, not mixed up."""
    made = tmp_path / "log"
    store = open_log(made)
    commit(store, a_commit(1, 1))
    size = segment_paths(made)[0].stat().st_size
    commit(store, a_commit(2, 1))
    store.close()
    path = segment_paths(made)[0]
    path.write_bytes(path.read_bytes()[: size + 9])

    store = open_log(made)
    assert contents(store, (1, 2)) == {1: (1, chain(1, 1)), 2: "damaged"}
    commit(store, a_commit(3, 1), a_commit(4, 1))
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()
    for path in (killed, made):
        again = open_log(path)
        assert contents(again, (1, 2, 3, 4)) == {
            1: (1, chain(1, 1)),
            2: "damaged",
            3: (1, chain(3, 1)),
            4: (1, chain(4, 1)),
        }
        again.close()


def test_a_missing_segment_damages_its_sequences(tmp_path: Path) -> None:
    """If a file disappears, what it held is refused and the rest goes on."""
    made = tmp_path / "log"
    store = open_log(made, segment_bytes=400)
    for number in range(6):
        commit(store, a_commit(number, 1))
    store.close()
    first, *rest = segment_paths(made)
    first.unlink()

    store = open_log(made, segment_bytes=400)

    found = contents(store, range(6))
    assert len(rest) >= 2
    assert found[0] == "damaged"
    assert found[5] == (1, chain(5, 1))
    store.close()


def test_a_damaged_sequence_can_be_ended_by_hand(tmp_path: Path, folder: Path) -> None:
    """Until somebody ends it a damaged sequence is neither continued nor begun anew."""
    blob, ends, _ = a_small_log(tmp_path / "made")
    damaged = bytearray(blob)
    damaged[ends[5] - 1] ^= 1
    lay_out(folder, damaged, b"")
    store = open_log(folder)
    assert content(store, 2) == "damaged"

    before = store.commit([a_commit(2, 1, life=1)])
    ended = store.delete(key_of(2), b"?" * 16, EndReason.FAILED)
    after = store.commit([a_commit(2, 1, life=1)])
    store.close()

    assert before == [Conflict(0)]
    assert ended == Ok("process")
    assert after == [Ok("process")]
    store = open_log(folder)
    assert content(store, 2) == (1, chain(2, 1, life=1))
    store.close()


def test_a_folder_of_another_format_is_refused(tmp_path: Path) -> None:
    """An unknown FORMAT is named and nothing is touched."""
    made = tmp_path / "log"
    open_log(made).close()
    (made / "FORMAT").write_text("legato log 3\n")

    with pytest.raises(ConfigError, match="legato log 3"):
        open_log(made)
    assert (made / "FORMAT").read_text() == "legato log 3\n"


def test_segments_without_a_format_are_refused(tmp_path: Path) -> None:
    """Files that look like ours but say nothing are not taken over."""
    made = tmp_path / "log"
    open_log(made).close()
    (made / "FORMAT").unlink()

    with pytest.raises(ConfigError, match="no FORMAT file"):
        open_log(made)


def test_a_locked_folder_is_refused_with_the_pid(tmp_path: Path) -> None:
    """The second store on a folder learns which process has it."""
    store = open_log(tmp_path / "log")

    with pytest.raises(ConfigError, match=r"in use by process \d+") as caught:
        open_log(tmp_path / "log")
    store.close()

    assert str(tmp_path / "log") in str(caught.value)
    open_log(tmp_path / "log").close()


def test_idle_time_does_not_run_while_the_process_is_down(tmp_path: Path) -> None:
    """A deadline is restored as the time that remained at the log's last moment."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock)
    commit(store, a_commit(1, 1, ttl_s=60.0))
    clock.advance(50.0)
    commit(store, a_commit(2, 1))
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()
    clock.advance(3600.0)

    for path in (tmp_path / "log", killed):
        again = open_log(path, FakeClock(clock.now))
        assert content(again, 1) == (1, chain(1, 1))
        again.close()
    clock.advance(3600.0)
    again = open_log(killed, clock)
    clock.advance(11.0)
    assert content(again, 1) is EndReason.EXPIRED
    again.close()


def test_an_idle_store_notes_the_time(tmp_path: Path) -> None:
    """Without commits the time is still written once a minute, so a crash does not lose it."""
    clock = FakeClock()
    store = open_log(tmp_path / "log", clock)
    commit(store, a_commit(1, 1, ttl_s=300.0))
    for _ in range(4):
        clock.advance(61.0)
        store.sweep(10, ())
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()

    again = open_log(killed, clock)
    clock.advance(60.0)

    assert content(again, 1) is EndReason.EXPIRED
    again.close()


def test_epoch_and_owner_outlive_a_crash(tmp_path: Path) -> None:
    """A raised epoch is in the log before it is given out, and survives compaction too."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    store.acquire(key_of(1), "a")
    store.acquire(key_of(1), "b", hold_s=0.0)
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()

    for path in (killed, tmp_path / "log"):
        again = open_log(path)
        same = again.acquire(key_of(1), "b")
        assert same.head.epoch == 3
        again.close()


def test_a_stale_row_of_a_checkpoint_gives_way(tmp_path: Path) -> None:
    """A key that a fuzzy checkpoint holds twice is the one with the higher serial."""
    store = open_log(tmp_path / "log", clock := FakeClock(), tombstone_s=1.0)
    commit(store, a_commit(1, 1), a_commit(2, 1))
    table = store._table
    old = table.page_bytes(0, 2)
    store.delete(key_of(1), incarnation_of(1), EndReason.ENDED)
    clock.advance(2.0)
    store.sweep(10, ())
    commit(store, a_commit(3, 1))
    commit(store, a_commit(1, 1, life=1))
    rows = old + table.page_bytes(0)
    page = bytearray(rows.ljust(PAGE_BYTES, b"\0"))

    table.restore([page], len(rows) // ROW_SIZE, table.models.all(), table.owners.all())

    assert content(store, 1) == (1, chain(1, 1, life=1))
    assert content(store, 2) == (1, chain(2, 1))
    assert store.statistics().live == 3
    store.close()
