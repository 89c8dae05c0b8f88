"""Our LRU does what lru-dict's does, whatever is done to it."""

from __future__ import annotations

import lru as published
import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.runtimes.torchserve import lru

KEYS = st.integers(0, 5)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("__setitem__"), KEYS, st.integers()),
        st.tuples(st.sampled_from(["__getitem__", "__delitem__", "get", "has_key", "pop"]), KEYS),
        st.tuples(st.sampled_from(["get", "setdefault", "pop"]), KEYS, st.integers()),
        st.tuples(st.just("__contains__"), KEYS),
        st.tuples(st.just("popitem")),
        st.tuples(st.just("popitem"), st.booleans()),
        st.tuples(st.just("set_size"), st.integers(0, 4)),
        st.tuples(st.just("update"), st.dictionaries(KEYS, st.integers(), max_size=6)),
        st.tuples(st.sampled_from(["clear", "peek_first_item", "peek_last_item", "__len__"])),
    ),
    max_size=40,
)


def outcome(cache, name: str, arguments) -> object:
    """What a call gives, or how it fails."""
    try:
        return getattr(cache, name)(*arguments)
    except Exception as error:  # noqa: BLE001 - compared
        return type(error)


@given(st.integers(1, 4), OPERATIONS)
def test_same_as_the_published_one(size: int, operations) -> None:
    """Results, order, evictions and counts agree after every operation."""
    evicted: tuple[list, list] = ([], [])
    ours = lru.LRU(size, callback=lambda k, v: evicted[0].append((k, v)))
    theirs = published.LRU(size, callback=lambda k, v: evicted[1].append((k, v)))

    for name, *arguments in operations:
        assert outcome(ours, name, arguments) == outcome(theirs, name, arguments), name
        assert ours.items() == theirs.items()
        assert ours.keys() == theirs.keys()
        assert ours.values() == theirs.values()
        assert ours.get_stats() == theirs.get_stats()
        assert ours.get_size() == theirs.get_size()
        assert evicted[0] == evicted[1]


@pytest.mark.parametrize("size", [0, -1, "a", None])
def test_sizes_are_refused_alike(size) -> None:
    """A handler that is wrong is wrong in the same way."""
    problems = []
    for kind in (lru.LRU, published.LRU):
        with pytest.raises((ValueError, TypeError)) as caught:
            kind(size)
        problems.append(caught.type)

    assert problems[0] is problems[1]


def test_has_every_method_of_the_published_one() -> None:
    """No handler misses one."""
    methods = {name for name in dir(published.LRU) if not name.startswith("_")}

    assert methods <= set(dir(lru.LRU))


def test_pinned_entries_stay_until_the_step_is_over() -> None:
    """A batch larger than the capacity keeps the entries of all its rows."""
    cache = lru.LRU(2)
    lru.pin(["a", "b", "c"])
    for key in "xabc":
        cache[key] = key

    during = set(cache.keys())
    lru.unpin()

    assert during == {"a", "b", "c"}
    assert cache.keys() == ["c", "b"]
