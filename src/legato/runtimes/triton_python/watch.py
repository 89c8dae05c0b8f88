"""Does a model change anything that is not known to be a sequence's? Found out by looking.

What a model keeps under a sequence's id, or by its slot, is taken out after each step and put back
before the next one. That is all of the state only if nothing else changes: so the variables of a
model are compared before and after its first calls, and now and then later. Libraries written in
other languages hide what they hold; that cannot be seen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from xxhash import xxh3_64_intdigest

from legato.runtimes.torchserve.lru import LRU
from legato.runtimes.torchserve.values import UnsupportedValueError, encode
from legato.torchserve import SequenceCache

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from legato.runtimes.triton_python.slots import SlotView

_FIRST: Final = 64
_EVERY: Final = 64
_DEEP: Final = 3
_MOST_MEMBERS: Final = 64
_SAMPLED_FROM: Final = 1 << 20
_LARGE: Final = 10_000
_DEAR_S: Final = 0.02
_SKIPPED: Final = -1
_SCALARS: Final = (int, float, complex, str, bytes, type(None), np.generic)


def walk(roots: Mapping[str, Any], own: Collection[type]) -> Iterator[tuple[str, Any]]:
    """Yield the objects whose attributes are a model's variables, under names.

    Args:
        roots: Where to begin, by name.
        own: Classes of the model's own code: their objects are looked into.
    """
    seen: set[int] = set()
    level = list(roots.items())
    for _depth in range(_DEEP):
        deeper: list[tuple[str, Any]] = []
        for path, holder in level:
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            yield path, holder
            for name, value in list(members(holder).items()):
                if type(value) in own or _is_tree(value):
                    deeper.append((f"{path}.{name}", value))
        level = deeper


def _is_tree(value: Any) -> bool:
    """Tell whether a dictionary holds further dictionaries under names."""
    return (
        type(value) is dict
        and 0 < len(value) <= _MOST_MEMBERS
        and all(type(key) is str and isinstance(inner, dict) for key, inner in value.items())
    )


def members(holder: Any) -> Mapping[Any, Any]:
    """Return the variables of a holder: attributes, or what a dictionary holds."""
    return holder if isinstance(holder, dict) else vars(holder)


class Watch:
    """Compares a model's variables before and after a call.

    Args:
        holders: Gives the objects that have variables, by name.
        single: There is one slot, so a mere number may be state.
    """

    def __init__(self, holders: Any, *, single: bool) -> None:
        self._holders = holders
        self._single = single
        self._calls = 0
        self._dear: set[str] = set()

    def due(self) -> bool:
        """Tell whether the next call is looked at."""
        self._calls += 1
        return self._calls <= _FIRST or self._calls % _EVERY == 0

    def look(
        self, known: Collection[Any], views: Mapping[tuple[int, str], SlotView]
    ) -> dict[str, int]:
        """Take a fingerprint of every variable, what is known to be a sequence's left out.

        Args:
            known: Keys of entries that belong to sequences.
            views: Variables that are kept by slot, by their holder and name.
        """
        found: dict[str, int] = {}
        for path, holder in self._holders():
            for name, value in list(members(holder).items()):
                if isinstance(name, str) and name.startswith("__"):
                    continue
                view = views.get((id(holder), str(name)))
                where = f"{path}.{name}"
                if view is None:
                    print_ = self._of(where, value, known)
                    if print_ is not None:
                        found[where] = print_
                elif not view.single:
                    for slot in range(len(value)):
                        found[f"{where}[{slot}]"] = _digest(value[slot])
        return found

    def _of(self, where: str, value: Any, known: Collection[Any]) -> int | None:
        """Return a fingerprint; ``None`` for what cannot be state, or is looked at elsewhere.

        What takes long to look at is large, a table or weights, and is not looked at again.
        """
        if where in self._dear:
            return _SKIPPED
        begun = time.perf_counter()
        print_ = self._fingerprint(value, known)
        if time.perf_counter() - begun > _DEAR_S:
            self._dear.add(where)
        return print_

    def _fingerprint(self, value: Any, known: Collection[Any]) -> int | None:
        if isinstance(value, _SCALARS):
            return _digest(value) if self._single else None
        if isinstance(value, LRU | SequenceCache):
            return None
        if isinstance(value, dict):
            if len(value) > _LARGE:
                return None
            rest = {key: inner for key, inner in list(value.items()) if key not in known}
            return _digest_items(rest)
        return _digest(value)


def _digest_items(items: Mapping[Any, Any], depth: int = _DEEP) -> int:
    return hash(frozenset((_key(key), _digest(value, depth - 1)) for key, value in items.items()))


def _key(key: Any) -> Any:
    return key if isinstance(key, Hashable) else id(key)


def _digest(value: Any, depth: int = _DEEP) -> int:
    """Return a number that another value hardly has; what cannot be read is known by itself."""
    if isinstance(value, np.ndarray) and value.nbytes > _SAMPLED_FROM:
        value = value.reshape(-1)[:: max(1, value.size // 65_536)]
    if isinstance(value, list | tuple | set) and len(value) > _LARGE:
        return id(value) ^ len(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return hash((value.data_ptr(), value._version))  # noqa: SLF001 - its count of writes
    try:
        return xxh3_64_intdigest(encode(value))
    except UnsupportedValueError:
        if depth and isinstance(value, dict):
            return _digest_items(value, depth)
        if depth and isinstance(value, list | tuple):
            return hash(tuple(_digest(inner, depth - 1) for inner in value))
        return id(value)


def changed(
    before: Mapping[str, int], after: Mapping[str, int], allowed: Collection[int]
) -> list[str]:
    """Name what changed, elements of these slots left out."""
    fine = tuple(f"[{slot}]" for slot in allowed) or ("[]",)
    return [
        path
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
        and _SKIPPED not in (before.get(path), after.get(path))
        and not path.endswith(fine)
    ]
