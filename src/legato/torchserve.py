"""For TorchServe handlers that want to say what their sequences' state is.

Handlers need not: a dictionary or ``lru.LRU`` attribute whose keys are sequence ids is found by
itself. A :class:`SequenceCache` says so explicitly, and refuses what cannot be stored
instead of keeping it in memory::

    from legato.torchserve import SequenceCache

    class Handler(BaseHandler):
        def initialize(self, context):
            self.sums = SequenceCache("sums")

        def preprocess(self, data):
            for index, row in enumerate(data):
                key = self.context.get_sequence_id(index)
                self.sums[key] = self.sums.get(key, 0) + int(row["data"])

Outside of Legato it is a plain dictionary, so the same handler runs under TorchServe.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, MutableMapping
from typing import Any

__all__ = ["SequenceCache"]

_caches: weakref.WeakValueDictionary[str, SequenceCache] = weakref.WeakValueDictionary()


class SequenceCache(MutableMapping[str, Any]):
    """A dictionary from sequence id to that sequence's state.

    An entry is committed with the step that left it there, and is put back wherever the
    sequence goes on: another worker, another server, after a crash. Values are ``None``,
    bool, int, float, str, bytes, lists, tuples, sets, dictionaries, numpy arrays and torch tensors,
    in any mixture; a step that leaves another value behind fails.

    Args:
        name: Names it among the caches of the handler, in every worker alike.

    Raises:
        ValueError: There is a cache of this name already.
    """

    def __init__(self, name: str = "cache") -> None:
        if name in _caches:
            raise ValueError(f"there is a SequenceCache named '{name}' already")
        self.name = name
        self.entries: dict[str, Any] = {}
        _caches[name] = self

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.entries[key] = value

    def __delitem__(self, key: str) -> None:
        del self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"<SequenceCache '{self.name}' sequences={len(self.entries)}>"


def made_caches() -> list[tuple[str, SequenceCache]]:
    """All caches that exist, by name."""
    return sorted(_caches.items())
