"""What handlers keep under a sequence's id is found, taken out and put back."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from legato.runtimes.torchserve import lru
from legato.runtimes.torchserve.caches import Caches
from legato.runtimes.torchserve.values import UnsupportedValueError, encode
from legato.torchserve import SequenceCache


class Memory:
    """The memory of one worker, and its caches."""

    def __init__(self, **members) -> None:
        self.handler = SimpleNamespace(**members)
        self.warnings: list[str] = []
        self.caches = Caches(lambda: {"handler": vars(self.handler)}, self.warnings.append)
        self.caches.look()

    def take(self, sequence: str) -> bytes:
        self.caches.look()
        return self.caches.capture(sequence)[0]

    def put(self, sequence: str, state: bytes) -> None:
        self.caches.look()
        self.caches.restore(sequence, state)


@pytest.mark.parametrize(
    "kind",
    [dict, OrderedDict, lambda: defaultdict(int), lambda: lru.LRU(2)],
    ids="dict ordered default lru".split(),
)
def test_state_moves_to_another_worker(kind) -> None:
    """Any dictionary that an attribute holds will do."""
    here, there = Memory(cache=kind()), Memory(cache=kind())
    here.handler.cache["a"] = {"sum": 3, "seen": np.arange(3)}

    there.put("a", here.take("a"))

    assert there.handler.cache["a"]["sum"] == 3
    assert there.handler.cache["a"]["seen"].tolist() == [0, 1, 2]


def test_only_the_sequences_own_entries_are_its_state() -> None:
    """A neighbour's entry is not touched."""
    memory = Memory(cache={"a": 1, "b": 2}, other={"x": 9})
    state = memory.take("a")
    memory.handler.cache.update(a=5, b=6)

    memory.put("a", state)

    assert memory.handler.cache == {"a": 1, "b": 6}
    assert memory.handler.other == {"x": 9}


def test_state_of_a_new_sequence_clears_what_an_old_one_left() -> None:
    """An id that begins again begins with nothing, whatever memory holds."""
    memory = Memory(cache={"a": 41})

    memory.put("a", b"")

    assert memory.handler.cache == {}


def test_entry_that_a_step_removed_stays_away() -> None:
    """Removal is state, too."""
    memory = Memory(cache={"a": 1})
    memory.handler.cache.pop("a")
    state = memory.take("a")
    memory.handler.cache["a"] = 7

    memory.put("a", state)

    assert "a" not in memory.handler.cache


def test_none_is_a_value() -> None:
    """An entry that is None is not an entry that is absent."""
    memory = Memory(cache={"a": None})
    state = memory.take("a")
    memory.handler.cache.clear()

    memory.put("a", state)

    assert memory.handler.cache == {"a": None}


def test_numeric_ids_are_found_as_numbers_too() -> None:
    """A handler may keep int(sequence_id)."""
    memory, other = Memory(cache={7: "seven"}), Memory(cache={})

    other.put("7", memory.take("7"))

    assert other.handler.cache == {7: "seven"}


def test_memory_that_has_the_state_is_left_alone() -> None:
    """The warm path makes no new objects."""
    entry = {"sum": 1}
    memory = Memory(cache={"a": entry})

    memory.put("a", memory.take("a"))

    assert memory.handler.cache["a"] is entry


def test_evicted_entry_is_put_back() -> None:
    """A cache that is too small for its sequences forgets none of them."""
    memory = Memory(cache=lru.LRU(1))
    memory.handler.cache["a"] = 1
    state = memory.take("a")
    memory.handler.cache["b"] = 2

    memory.put("a", state)

    assert memory.handler.cache.get("a") == 1


def test_failed_step_leaves_nothing_behind() -> None:
    """What a handler did before it failed is undone from the state."""
    memory = Memory(cache={"a": [1]})
    state = memory.take("a")
    memory.handler.cache["a"].append(2)

    memory.put("a", state)

    assert memory.handler.cache["a"] == [1]


def test_what_cannot_be_stored_is_told_once_and_stays() -> None:
    """The warning names cache and type; the rest of the state is stored all the same."""
    memory = Memory(cache={"a": Counter(x=1)}, sums={"a": 3})

    state, bound = memory.caches.capture("a")
    memory.caches.capture("a")
    memory.put("a", state)

    assert bound
    assert memory.handler.cache["a"] == Counter(x=1)
    assert len(memory.warnings) == 1
    assert "handler.cache" in memory.warnings[0]
    assert "collections.Counter" in memory.warnings[0]


def test_loss_of_what_could_not_be_stored_is_told() -> None:
    """Another worker has the rest, and says what is gone."""
    here, there = Memory(cache={"a": Counter(x=1)}, sums={"a": 3}), Memory(cache={}, sums={})

    there.put("a", here.take("a"))

    assert there.handler.sums == {"a": 3}
    assert any("lost" in warning for warning in there.warnings)


def test_lru_that_no_attribute_holds_is_found() -> None:
    """It may be deep inside the handler."""
    holder = SimpleNamespace(inner=SimpleNamespace(cache=lru.LRU(4)))
    memory = Memory(holder=holder)
    holder.inner.cache["deep"] = 1

    state = memory.take("deep")
    holder.inner.cache["deep"] = 2
    memory.put("deep", state)

    assert holder.inner.cache["deep"] == 1


def test_explicit_cache_refuses_what_cannot_be_stored() -> None:
    """Its owner asked for state, not for luck."""
    memory = Memory()
    cache = SequenceCache("test")
    cache["a"] = object()
    memory.caches.look()

    with pytest.raises(UnsupportedValueError):
        memory.caches.capture("a")
    cache.clear()  # the error's traceback may keep it for a while


def test_ended_sequence_is_forgotten() -> None:
    """Memory does not grow with sequences that are over."""
    memory = Memory(cache={"a": 1, "b": 2})
    memory.take("a")

    memory.caches.forget("a")

    assert memory.handler.cache == {"b": 2}


def test_a_failed_requests_entries_are_let_go() -> None:
    """A request that is run again is new to a handler that remembers requests by their ids."""
    memory = Memory(cache={"a": 1, "request-1": object(), "request-2": object()})

    memory.caches.forget_requests(["request-1"])

    assert list(memory.handler.cache) == ["a", "request-2"]


@pytest.mark.parametrize(("source", "fork"), [("a", "b"), ("7", "8")])
def test_fork_finds_the_entry_under_its_own_id(source: str, fork: str) -> None:
    """Also where a handler keeps the number that the id spells."""
    kept, wanted = (int(source), int(fork)) if source.isdecimal() else (source, fork)
    here, there = Memory(cache={kept: 5}), Memory(cache={kept: 4})

    there.put(fork, here.take(source))

    assert there.handler.cache == {kept: 4, wanted: 5}
    assert not there.warnings


def test_records_that_hold_the_key_itself_are_read() -> None:
    """Entries were stored under the id, and not under its form, once."""
    old = encode([("handler.cache", "7", "", encode(5)), ("handler.sums", 7, "", encode([1]))])
    memory = Memory(cache={}, sums={})

    memory.put("7", old)

    assert memory.handler.cache == {"7": 5}
    assert memory.handler.sums == {7: [1]}
    assert memory.take("7") != old
