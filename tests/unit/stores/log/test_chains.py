"""States that grow: written in parts, read as one, and refused when a part is wrong."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import pytest
from log_kit import (
    FakeClock,
    a_commit,
    a_grown_commit,
    commit,
    content,
    copy_as_killed,
    grown_state,
    incarnation_of,
    key_of,
    open_log,
    run_upkeep,
    segment_paths,
)

from legato.core.pages import GrownRow, Pages
from legato.core.types import EndReason, StateRow
from legato.stores import codec
from legato.stores.base import Damaged, Ok, Owned
from legato.stores.log import LogStore, chains
from legato.stores.log.segments import Place
from legato.stores.log.table import digest_of

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 4000


def grow(store: LogStore, number: int | str, *steps: int, **changes) -> None:
    for step in steps:
        commit(store, a_grown_commit(number, step, **changes))


def state_of(store: LogStore, number: int | str) -> StateRow:
    found = store.read(key_of(number))
    assert isinstance(found, tuple), found
    return found[1]


def written(store: LogStore) -> int:
    return store._segments.written


def grow_to_three_parts(store: LogStore, number: int) -> tuple[int, chains.Chain]:
    """Steps until two parts lie behind the newest; their number."""
    digest = digest_of(codec.encode_key(key_of(number)))
    for step in range(1, 100):
        grow(store, number, step)
        chain = store._journal.chains.get(digest)
        if chain is not None and len(chain.places) == 2:
            return step, chain
    raise AssertionError


@pytest.fixture
def store(tmp_path: Path):
    opened = open_log(tmp_path / "log")
    yield opened
    opened.close()


def test_a_step_writes_what_it_adds(store: LogStore) -> None:
    """At any length: a new page, what was replaced, and a head."""
    grow(store, 1, *range(1, 200))
    before = written(store)
    grow(store, 1, 200)

    assert written(store) - before < 450
    assert state_of(store, 1) == grown_state(1, 200)
    assert store.statistics().stored_bytes == grown_state(1, 200).nbytes


def test_whole_records_become_rare(store: LogStore) -> None:
    """One comes when the parts are as much as the last, so reading stays cheap too."""
    grow(store, 1, *range(1, 501))

    parts = 500 * 330
    assert written(store) < 2.5 * (parts + grown_state(1, 500).nbytes)
    chain = store._journal.chains.get(int.from_bytes(store._table.row(0).digest, "little"))
    assert chain is None or chain.added <= chain.base


def test_a_chain_has_a_greatest_length(store: LogStore, monkeypatch) -> None:
    """However small the parts are."""
    monkeypatch.setattr(chains, "MOST_LINKS", 3)
    lengths = []
    for step in range(1, 41):
        grow(store, 1, step)
        chain = store._journal.chains.get(int.from_bytes(store._table.row(0).digest, "little"))
        lengths.append(0 if chain is None else len(chain.places))

    assert max(lengths) == 3
    assert lengths.count(0) >= 4
    assert state_of(store, 1) == grown_state(1, 40)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_it_is_read_after_a_kill(tmp_path: Path, checkpoint: bool) -> None:
    """By the checkpoint and by a full scan; the sequence goes on from there."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    grow(store, 1, *range(1, 30))
    grow(store, 2, *range(1, 4))
    if checkpoint:
        store.checkpoint()
    grow(store, 1, 30)
    again = open_log(copy_as_killed(store, tmp_path / "killed"), segment_bytes=SMALL)

    assert state_of(again, 1) == grown_state(1, 30)
    assert state_of(again, 2) == grown_state(2, 3)
    live = {n: s.live for n, s in store._segments.by_number.items()}
    assert {n: s.live for n, s in again._segments.by_number.items()} == live
    grow(again, 1, 31)
    assert state_of(again, 1) == grown_state(1, 31)
    store.close()
    again.close()


def test_what_is_read_can_grow_on(store: LogStore) -> None:
    """A state put together from its parts is pages again."""
    grow(store, 1, *range(1, 9))

    state = state_of(store, 1)

    assert isinstance(state, GrownRow)
    assert isinstance(state.data[1], Pages)
    assert state.data[1].add(b"x" * 16).parts[:-1] == state.data[1].parts


def test_a_fork_is_whole_and_apart(store: LogStore) -> None:
    """The copy needs no part of the source, and neither sees the other's steps."""
    grow(store, 1, *range(1, 9))
    assert isinstance(store.fork(key_of(1), 8, key_of("copy"), incarnation_of("copy")), Ok)
    grow(store, 1, 9)
    store.delete(key_of(1), incarnation_of(1), EndReason.ENDED)

    assert state_of(store, "copy") == grown_state(1, 8)
    assert len(store._journal.chains) == 0


def test_rolling_back_leaves_the_parts_behind(store: LogStore) -> None:
    """The state of the snapshot takes the place of the longer one."""
    grow(store, 1, *range(1, 9))
    store.fork(key_of(1), 8, key_of("snapshot"), incarnation_of("snapshot"))
    grow(store, 1, 9, 10)
    back = incarnation_of(1, life=1)

    rolled = store.fork(key_of("snapshot"), 8, key_of(1), back, replaces=incarnation_of(1))

    assert isinstance(rolled, Ok)
    assert state_of(store, 1) == grown_state(1, 8)
    assert store._segments.tail.live == sum(
        store._table.row(slot).length for slot in range(len(store._table))
    )


def test_a_new_owner_reads_it_and_goes_on(store: LogStore) -> None:
    """The epoch changes between two parts."""
    grow(store, 1, *range(1, 6))
    owned = store.acquire(key_of(1), "b", hold_s=0.0)
    assert isinstance(owned, Owned)
    assert owned.state == grown_state(1, 5)

    grow(store, 1, 6, epoch=owned.head.epoch)

    assert state_of(store, 1) == grown_state(1, 6)
    assert store.read(key_of(1))[0].epoch == owned.head.epoch


def test_listings_read_heads_only(store: LogStore) -> None:
    """With the bytes of the whole state."""
    grow(store, 1, *range(1, 6))

    (listed,) = store.list()

    assert (listed.head.step, listed.state_bytes) == (5, grown_state(1, 5).nbytes)
    assert store.look(key_of(1)).state_bytes == listed.state_bytes


def test_an_end_frees_all_parts(store: LogStore) -> None:
    """Nothing behind a tombstone counts as needed."""
    grow(store, 1, *range(1, 12))
    store.delete(key_of(1), incarnation_of(1), EndReason.CANCELLED)

    (row,) = (store._table.row(slot) for slot in range(len(store._table)))
    assert store._segments.tail.live == row.length
    assert len(store._journal.chains) == 0


# -- making room -------------------------------------------------------------------------


def test_compaction_writes_states_whole(tmp_path: Path) -> None:
    """A part is not moved: the newest state is, and all parts are free at once."""
    store = open_log(tmp_path / "log", segment_bytes=SMALL)
    for step in range(1, 25):
        grow(store, 1, step)
        for name in (f"brief{step}", f"other{step}"):
            commit(store, a_commit(name, 1, data=bytes(500)))
            store.delete(key_of(name), incarnation_of(name), EndReason.ENDED)
    run_upkeep(store)

    assert state_of(store, 1) == grown_state(1, 24)
    assert not (store.folder / "00000000.seg").exists()
    grow(store, 1, 25)
    assert state_of(store, 1) == grown_state(1, 25)
    store.close()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_states_stay_what_they_are(tmp_path: Path, seed: int) -> None:
    """Steps, forks, ends, owners, upkeep and kills in any order, against a dictionary."""
    rng, clock = random.Random(seed), FakeClock()
    options = {"segment_bytes": 3000, "checkpoint_bytes": 6000, "tombstone_s": 20.0}
    store = open_log(tmp_path / "log", clock, **options)
    model: dict[int, tuple[int, int, int]] = {}  # number: life, step, epoch
    lives = dict.fromkeys(range(4), 0)
    for turn in range(250):
        number = rng.randrange(4)
        act = rng.random()
        if number not in model:
            lives[number] += 1
            grow(store, number, 1, life=lives[number])
            model[number] = (lives[number], 1, 1)
        elif act < 0.7:
            life, step, epoch = model[number]
            grow(store, number, step + 1, life=life, epoch=epoch)
            model[number] = (life, step + 1, epoch)
        elif act < 0.74:
            store.delete(key_of(number), incarnation_of(number, model[number][0]), EndReason.ENDED)
            del model[number]
        elif act < 0.8:
            life, step, _ = model[number]
            owned = store.acquire(key_of(number), f"owner{turn}", hold_s=0.0)
            assert isinstance(owned, Owned)
            model[number] = (life, step, owned.head.epoch)
        elif act < 0.93:
            run_upkeep(store)
        else:
            killed = copy_as_killed(store, tmp_path / f"killed{turn}")
            store.close()
            shutil.rmtree(store.folder)
            if rng.random() < 0.5:
                (killed / "index.ckpt").unlink(missing_ok=True)
            store = open_log(killed, clock, **options)
            assert store.recovery.damaged == store.recovery.unnamed == 0
        clock.advance(0.1)
        for known, (life, step, _) in model.items():
            assert state_of(store, known) == grown_state(known, step, life)
    live = {n: s.live for n, s in store._segments.by_number.items()}
    again = open_log(copy_as_killed(store, tmp_path / "last"), clock, **options)
    for number, segment in again._segments.by_number.items():
        assert segment.live <= live[number] or segment is again._segments.tail
    store.close()
    again.close()


# -- damage ------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    blob = bytearray(path.read_bytes())
    blob[offset] ^= 0x10
    path.write_bytes(blob)


def test_a_damaged_part_is_refused_by_name(tmp_path: Path) -> None:
    """The sequence it belongs to, no other, and not an older state in its place."""
    store = open_log(tmp_path / "log")
    _, chain = grow_to_three_parts(store, 1)
    step, _ = grow_to_three_parts(store, 2)
    part = chain.places[1]
    store.checkpoint()
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()

    flip(segment_paths(killed)[0], part.offset + part.length - 3)
    again = open_log(killed)

    found = again.read(key_of(1))
    assert isinstance(found, Damaged)
    assert "checksum" in found.problem
    assert state_of(again, 2) == grown_state(2, step)
    again.close()


def test_another_record_in_the_place_of_a_part_is_noticed(tmp_path: Path) -> None:
    """Also a whole and valid one of the same sequence, as a lost write could leave it."""
    store = open_log(tmp_path / "log")
    _, chain = grow_to_three_parts(store, 1)
    row = store._table.row(0)
    part = chain.places[1]
    assert part.length == row.length
    path = segment_paths(store.folder)[0]
    blob = bytearray(path.read_bytes())
    blob[part.offset : part.offset + part.length] = blob[row.offset : row.offset + row.length]
    path.write_bytes(blob)

    found = store.read(key_of(1))

    assert isinstance(found, Damaged)
    assert "is not what it was" in found.problem
    store.close()


def test_a_missing_part_is_found_at_start(tmp_path: Path) -> None:
    """A file that is gone takes the sequences along whose states began in it."""
    store = open_log(tmp_path / "log", segment_bytes=1500)
    _, chain = grow_to_three_parts(store, 1)
    commit(store, a_commit(2, 1))
    first = chain.places[0].segment
    assert first != store._segments.tail.number
    store.checkpoint()
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()

    (killed / f"{first:08d}.seg").unlink()
    again = open_log(killed, segment_bytes=1500)

    assert content(again, 1) == "damaged"
    assert again.recovery.damaged == 1
    assert any("is missing from segment" in note for note in again.recovery.notes)
    assert content(again, 2)[0] == 1
    again.close()


def test_a_torn_part_is_cut_off(tmp_path: Path) -> None:
    """Cut anywhere in its last record, a sequence is at the step before."""
    store = open_log(tmp_path / "log")
    grow(store, 1, *range(1, 6))
    (row,) = (store._table.row(slot) for slot in range(len(store._table)))
    blob = segment_paths(store.folder)[0].read_bytes()
    store.close()
    for cut in range(row.offset, row.offset + row.length, 7):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "FORMAT").write_text("legato log 2\n")
        (folder / "00000000.seg").write_bytes(blob[:cut])
        again = open_log(folder)

        assert state_of(again, 1) == grown_state(1, 4)
        grow(again, 1, 5)
        assert state_of(again, 1) == grown_state(1, 5)
        again.close()


# -- the folder --------------------------------------------------------------------------


def test_a_folder_is_marked_when_the_first_state_grows(tmp_path: Path) -> None:
    """Older versions read it until then, and refuse it by its mark from then on."""
    store = open_log(tmp_path / "log")
    mark = store.folder / "FORMAT"
    commit(store, a_commit(1, 1), a_commit(1, 2))
    grow(store, 2, 1)
    assert mark.read_text() == "legato log 1\n"

    grow(store, 2, 2)

    assert mark.read_text() == "legato log 2\n"
    store.close()
    again = open_log(tmp_path / "log")
    assert state_of(again, 2) == grown_state(2, 2)
    again.close()


def test_without_the_mark_states_are_written_whole(tmp_path: Path, monkeypatch) -> None:
    """A folder that cannot be marked takes the step in the form that all understand."""
    store = open_log(tmp_path / "log")
    grow(store, 1, 1)

    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("legato.stores.log.journal.allow_growth", full)
    grow(store, 1, 2, 3)

    assert len(store._journal.chains) == 0
    assert (store.folder / "FORMAT").read_text() == "legato log 1\n"
    assert state_of(store, 1) == grown_state(1, 3)
    store.close()


def test_a_state_of_which_the_change_is_not_known_is_written_whole(store: LogStore) -> None:
    """A state that came from elsewhere, and one that is not paged."""
    grow(store, 1, 1, 2)
    unknown = grown_state(1, 3)
    unknown.change = None
    commit(store, a_commit(1, 3)._replace(state=unknown))
    plain = grown_state(1, 4)
    commit(
        store, a_commit(1, 4)._replace(state=StateRow(tuple(map(bytes, plain.data)), plain.shapes))
    )

    assert len(store._journal.chains) == 0
    assert state_of(store, 1) == plain
    grow(store, 1, 5)
    assert state_of(store, 1) == grown_state(1, 5)


def test_a_place_is_named_in_full() -> None:
    """The parts of a chain are told apart by file and offset."""
    known = chains.Chains()
    known.extend(7, Place(0, 10, 100), 50)
    known.extend(7, Place(1, 10, 60), 50)

    assert known.holds(7, 1, 10)
    assert not known.holds(7, 1, 11)
    assert not known.holds(8, 1, 10)
    assert known.offsets_in(1) == [10]
    assert known.get(7).base == 100
    assert known.drop(7) == (Place(0, 10, 100), Place(1, 10, 60))
    assert known.drop(7) == ()
