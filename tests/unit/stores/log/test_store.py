"""The log behind the contract, beyond what the conformance suite asks of every store."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from log_kit import (
    FakeClock,
    a_commit,
    chain,
    commit,
    content,
    copy_as_killed,
    incarnation_of,
    key_of,
    open_log,
)

from legato.core.errors import ConfigError, StateDamagedError
from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Conflict, Damaged, Gone, Missing, Ok
from legato.stores.log import journal
from legato.stores.log import store as store_module
from legato.stores.log.table import PAGE_ROWS

if TYPE_CHECKING:
    from pathlib import Path


def flip_last_byte(store: object, number: int | str) -> None:
    """Damage the state of a sequence on disk."""
    row = store._journal.find(key_of(number), 0.0).row
    path = store.folder / f"{row.segment:08d}.seg"
    with path.open("r+b") as file:
        file.seek(row.offset + row.length - 1)
        byte = file.read(1)[0]
        file.seek(row.offset + row.length - 1)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("options", [{"level": "replicated"}, {"segment_bytes": 1 << 32}])
def test_impossible_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    """A level that one node cannot confirm is not silently lowered."""
    with pytest.raises(ConfigError):
        open_log(tmp_path / "log", **options)


def test_a_failed_opening_lets_go_of_the_folder(tmp_path: Path) -> None:
    """After a refusal another process can have the folder."""
    open_log(tmp_path / "log").close()
    (tmp_path / "log" / "FORMAT").write_text("legato log 7\n")
    with pytest.raises(ConfigError):
        open_log(tmp_path / "log")
    (tmp_path / "log" / "FORMAT").write_text("legato log 1\n")

    open_log(tmp_path / "log").close()


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    """The second close does nothing."""
    store = open_log(tmp_path / "log")
    store.close()
    store.close()


def test_damage_on_disk_is_refused_for_that_sequence_only(tmp_path: Path) -> None:
    """Damaged bytes are not continued from, forked or read; the neighbour goes on."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit("hit", 1), a_commit(1, 1))
    flip_last_byte(store, "hit")

    assert isinstance(store.read(key_of("hit")), Damaged)
    assert isinstance(store.acquire(key_of("hit"), "a"), Damaged)
    with pytest.raises(StateDamagedError):
        store.fork(key_of("hit"), 1, key_of("copy"), b"c" * 16)
    assert store.commit([a_commit("hit", 1, life=1)]) == [Conflict(1)]
    commit(store, a_commit(1, 2))
    assert content(store, 1) == (2, chain(1, 2))
    assert store.delete(key_of("hit"), incarnation_of("hit"), EndReason.FAILED) == Ok("process")
    assert content(store, "hit") is EndReason.FAILED
    store.close()


def test_an_owner_in_memory_heals_damage_on_disk(tmp_path: Path) -> None:
    """Who still holds the state may commit the next step; the damaged bytes are then history."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))
    flip_last_byte(store, 1)

    commit(store, a_commit(1, 2))

    assert content(store, 1) == (2, chain(1, 2))
    store.close()


def test_damaged_sequences_are_not_swept(tmp_path: Path) -> None:
    """What cannot be read cannot be ended by a sweep; the readable is."""
    store = open_log(tmp_path / "log", clock := FakeClock())
    commit(store, a_commit("hit", 1, ttl_s=5.0), a_commit(1, 1, ttl_s=5.0))
    flip_last_byte(store, "hit")
    clock.advance(6.0)

    ended = store.sweep(10, ())

    assert [key for key, _ in ended] == [key_of(1)]
    assert store.statistics().live == 1
    store.close()


def test_two_keys_of_one_digest_are_refused_not_confused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If digests collide, the second sequence is refused and the first is untouched."""
    for module in (journal, store_module):
        monkeypatch.setattr(module, "digest_of", lambda key: 5)
    monkeypatch.setattr("legato.stores.log.commits.digest_of", lambda key: 5)
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1))

    assert store.commit([a_commit(2, 1)]) == [Conflict(0)]
    assert store.commit([a_commit(2, 2)]) == [Gone(None)]
    assert store.read(key_of(2)) == Missing(None)
    assert store.acquire(key_of(2), "a") == Missing(None)
    assert store.delete(key_of(2), incarnation_of(2), EndReason.ENDED) == Gone(None)
    assert store.fork(key_of(2), 0, key_of(3), b"c" * 16) == Conflict(0)
    assert content(store, 1) == (1, chain(1, 1))
    store.close()


def test_a_listing_is_lazy_and_leaves_out_what_has_ended(tmp_path: Path) -> None:
    """Heads are read one by one, as they are at that moment."""
    store = open_log(tmp_path / "log")
    commit(store, *(a_commit(number, 1) for number in range(4)))
    listing = store.list("m")
    assert next(listing).key == key_of(0)

    store.delete(key_of(1), incarnation_of(1), EndReason.ENDED)
    commit(store, a_commit(2, 2))
    store.delete(key_of(3), incarnation_of(3), EndReason.ENDED)
    commit(store, a_commit(3, 1, life=1))
    rest = list(listing)

    assert [(listed.key, listed.head.step) for listed in rest] == [(key_of(2), 2)]
    assert list(store.list("other")) == []
    store.close()


def test_a_listing_reads_no_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large sequence only the head is read."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1, data=bytes(100_000)))
    sizes = []
    read = type(store._segments).read
    monkeypatch.setattr(
        type(store._segments), "read", lambda self, at: (sizes.append(at.length), read(self, at))[1]
    )

    (listed,) = store.list()

    assert listed.state_bytes == 100_000
    assert sizes
    assert max(sizes) < 1000
    store.close()


def test_tables_larger_than_a_sweep_are_swept_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call looks at a bounded number of rows, the following calls at the others."""
    monkeypatch.setattr(store_module, "_SWEEP_PAGES", 1)
    store = open_log(tmp_path / "log", clock := FakeClock())
    commit(store, *(a_commit(number, 1, ttl_s=5.0) for number in range(PAGE_ROWS + 10)))
    clock.advance(6.0)

    ended = [len(store.sweep(2 * PAGE_ROWS, ())) for _ in range(4)]

    assert sorted(ended, reverse=True) == [PAGE_ROWS, 10, 0, 0]
    assert store.live("m") == 0
    store.close()


def test_the_longest_expired_are_swept_first(tmp_path: Path) -> None:
    """A limited sweep ends the sequences in the order in which they expired."""
    store = open_log(tmp_path / "log", clock := FakeClock())
    for number, ttl_s in enumerate((30.0, 10.0, 20.0)):
        commit(store, a_commit(number, 1, ttl_s=ttl_s))
    clock.advance(60.0)

    ended = [key for key, _ in itertools.chain(*(store.sweep(1, ()) for _ in range(3)))]

    assert ended == [key_of(1), key_of(2), key_of(0)]
    store.close()


def test_models_are_told_apart(tmp_path: Path) -> None:
    """The same id under two models is two sequences, counted apart, also after a restart."""
    store = open_log(tmp_path / "log")
    other = SequenceKey("other", 1)
    commit(store, a_commit(1, 1), a_commit(1, 1, key=other, incarnation=b"o" * 16))
    store.close()

    again = open_log(tmp_path / "log")

    assert (again.live("m"), again.live("other"), again.live("none")) == (1, 1, 0)
    assert [listed.key for listed in again.list("other")] == [other]
    again.close()


def test_a_tombstone_answers_its_last_step_after_a_restart(tmp_path: Path) -> None:
    """A retry of the ending step finds its receipt in the tombstone."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1), a_commit(2, 1))
    commit(store, a_commit(1, 2, end=EndReason.ENDED))
    killed = copy_as_killed(store, tmp_path / "killed")
    store.close()

    again = open_log(killed)
    found = again.acquire(key_of(1), "a")

    assert isinstance(found, Missing)
    assert found.head is not None
    assert found.head.receipts == a_commit(1, 2).receipts
    assert found.head.ending.reason is EndReason.ENDED
    again.close()


def test_the_repr_counts(tmp_path: Path) -> None:
    """One line says what is in the store."""
    store = open_log(tmp_path / "log")
    commit(store, a_commit(1, 1), a_commit(2, 1))
    store.delete(key_of(2), incarnation_of(2), EndReason.ENDED)

    assert "live=1, dead=1" in repr(store)
    store.close()
