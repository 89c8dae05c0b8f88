"""``lru.LRU`` as lru-dict has it, for handlers: the same methods, and its entries can be moved.

In a worker this module is what ``import lru`` finds. Entries of the sequences that take
part in a step are not evicted before it is over, whatever the capacity.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from operator import index
from typing import Any, Final

__all__ = ["LRU"]

_MISSING: Final = object()
_made: list[weakref.ref[LRU]] = []
_pinned: frozenset[Hashable] = frozenset()

Callback = Callable[[Any, Any], Any]


class LRU:
    """A dictionary of bounded size; the least recently used entry goes first.

    Args:
        size: Most entries.
        callback: Called with key and value of each entry that is evicted.
    """

    __iter__ = None  # lru-dict's cannot be iterated either: use keys()

    def __init__(self, size: int, callback: Callback | None = None) -> None:
        self._size = _checked(size)
        self._callback = _callable(callback)
        self._data: OrderedDict[Any, Any] = OrderedDict()  # least recently used first
        self._hits = self._misses = 0
        _made.append(weakref.ref(self))

    def __repr__(self) -> str:
        return repr(dict(self._data))

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __getitem__(self, key: Any) -> Any:
        try:
            value = self._data[key]
        except KeyError:
            self._misses += 1
            raise
        self._data.move_to_end(key)
        self._hits += 1
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._data[key] = value
        self._data.move_to_end(key)
        self._shrink()

    def __delitem__(self, key: Any) -> None:
        del self._data[key]

    def has_key(self, key: Any) -> bool:
        """Tell whether a key is there; its place in the order stays."""
        return key in self._data

    def get(self, key: Any, default: Any = None, /) -> Any:
        """Return a value, or the default; counts as use."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> list[Any]:
        """All keys, most recently used first."""
        return list(reversed(self._data))

    def values(self) -> list[Any]:
        """All values, most recently used first."""
        return [self._data[key] for key in reversed(self._data)]

    def items(self) -> list[tuple[Any, Any]]:
        """All entries, most recently used first."""
        return [(key, self._data[key]) for key in reversed(self._data)]

    def peek_first_item(self) -> tuple[Any, Any] | None:
        """Return the most recently used entry; the order stays."""
        return next(((key, self._data[key]) for key in reversed(self._data)), None)

    def peek_last_item(self) -> tuple[Any, Any] | None:
        """Return the least recently used entry; the order stays."""
        return next(iter(self._data.items()), None)

    def pop(self, key: Any, default: Any = _MISSING, /) -> Any:
        """Take an entry out; without it, give the default or raise ``KeyError``."""
        if key in self._data:
            self._hits += 1
            return self._data.pop(key)
        self._misses += 1
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self, least_recent: bool = True) -> tuple[Any, Any]:
        """Take the least (or most) recently used entry out."""
        if not self._data:
            raise KeyError("popitem(): LRU dict is empty")
        return self._data.popitem(last=not least_recent)

    def setdefault(self, key: Any, default: Any = None, /) -> Any:
        """Return a value; put the default there first if there is none."""
        try:
            return self[key]
        except KeyError:
            self[key] = default
            return default

    def update(self, *entries: Any, **named: Any) -> None:
        """Put in the entries of a dictionary, or pairs."""
        for source in entries:
            if isinstance(source, dict):
                pairs: Iterable[tuple[Any, Any]] = source.items()
            elif hasattr(source, "keys"):
                pairs = [(key, source[key]) for key in source.keys()]  # noqa: SIM118 - not iterable
            else:
                pairs = source
            for key, value in pairs:
                self[key] = value
        for key, value in named.items():
            self[key] = value

    def clear(self) -> None:
        """Forget all entries and counts; no callback is called."""
        self._data.clear()
        self._hits = self._misses = 0

    def get_size(self) -> int:
        """Return the most entries."""
        return self._size

    def set_size(self, size: int) -> None:
        """Change the most entries; what is too much is evicted."""
        self._size = _checked(size)
        self._shrink()

    def set_callback(self, callback: Callback | None) -> None:
        """Call this with each evicted entry from now on."""
        self._callback = _callable(callback)

    def get_stats(self) -> tuple[int, int]:
        """Return hits and misses."""
        return self._hits, self._misses

    def _shrink(self) -> None:
        while len(self._data) > self._size:
            oldest = next((key for key in self._data if key not in _pinned), _MISSING)
            if oldest is _MISSING:
                return
            value = self._data.pop(oldest)
            if self._callback is not None:
                self._callback(oldest, value)


def _checked(size: int) -> int:
    number = index(size)
    if number <= 0:
        raise ValueError("Size should be a positive number")
    return number


def _callable(callback: Callback | None) -> Callback | None:
    if callback is not None and not callable(callback):
        raise TypeError("parameter must be callable")
    return callback


# -- for the worker -------------------------------------------------------------------


def made() -> list[LRU]:
    """All that exist, in the order in which they were made."""
    return [cache for ref in _made if (cache := ref()) is not None]


def entries(cache: LRU) -> OrderedDict[Any, Any]:
    """The entries, to be read and written without counting as use."""
    return cache._data  # noqa: SLF001 - of this module


def pin(keys: Iterable[Hashable]) -> None:
    """Evict none of these entries for now."""
    global _pinned  # noqa: PLW0603 - one worker runs one step at a time
    _pinned = frozenset(keys)


def unpin() -> None:
    """Evict what had to stay until now."""
    pin(())
    for cache in made():
        cache._shrink()  # noqa: SLF001 - of this module
