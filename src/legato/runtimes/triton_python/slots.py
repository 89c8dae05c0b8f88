"""Which place in a batch belongs to which sequence, for models that keep state by place.

Triton's direct strategy gives a sequence one place (a slot) of one instance until its end, so a
model may keep state in lists and arrays by the index of the request. An element of such a list
*is* then the state of the sequence in that slot: it is taken out and put back as an entry of a
dictionary would be. What it was right after ``initialize`` stands for "nothing is kept".
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from legato.runtimes.torchserve.values import UnsupportedValueError, decode, encode

if TYPE_CHECKING:
    from legato.core.types import CorrelationId

KEY: Final = ("legato", "slot")
"""Key of a slot's entry: what is kept is the sequence's, whatever slot it has here."""

_LARGEST: Final = 1 << 22
_KINDS: Final = (int, float, complex, str, bytes, list, tuple, dict, type(None))


class Slots:
    """The slots of one worker, the lowest free one first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))
        self._taken: dict[CorrelationId, int] = {}

    def __repr__(self) -> str:
        return f"<Slots {len(self._taken)} of {self.count}>"

    def of(self, sequence: CorrelationId) -> int | None:
        """Return the slot of a sequence."""
        return self._taken.get(sequence)

    def take(self, sequence: CorrelationId) -> int | None:
        """Return the slot of a sequence, a free one if it has none; ``None`` = all are taken."""
        slot = self._taken.get(sequence)
        if slot is None and self._free:
            slot = self._taken[sequence] = heapq.heappop(self._free)
        return slot

    def release(self, sequence: CorrelationId) -> None:
        """Free the slot of a sequence, if it has one."""
        slot = self._taken.pop(sequence, None)
        if slot is not None:
            heapq.heappush(self._free, slot)


class SlotView(MutableMapping[Any, Any]):
    """What a model keeps by slot in one variable, as a dictionary of the current sequence.

    Args:
        holder: Where the variable is: the attributes of an object, or of a module.
        name: Its name there.
        slots: How many there are; with one, the whole variable is that slot's.

    Attributes:
        slot: The one that is looked at; ``None`` = none.
        single: There is only one slot.
        used: Something was kept here once.
    """

    def __init__(self, holder: Any, name: str, slots: int) -> None:
        self._holder = holder
        self._name = name
        self.single = slots == 1
        self.slot: int | None = None
        self.used = False
        self._first = [self._now(slot) for slot in range(slots)]

    def __repr__(self) -> str:
        return f"<SlotView {self._name} slot={self.slot}>"

    @property
    def restorable(self) -> bool:
        """What is kept can be encoded."""
        return all(first is not None for first in self._first)

    def _value(self, slot: int) -> Any:
        variable = vars(self._holder)[self._name]
        return variable if self.single else variable[slot]

    def _now(self, slot: int) -> bytes | None:
        """Encode what a slot holds; ``None`` where that cannot be, ``b""`` where it is gone."""
        try:
            return encode(self._value(slot))
        except UnsupportedValueError:
            return None
        except (KeyError, IndexError, TypeError):
            return b""

    def __contains__(self, key: object) -> bool:
        slot = self.slot
        if key != KEY or slot is None:
            return False
        now = self._now(slot)
        there = now is None or now != self._first[slot]
        self.used = self.used or there
        return there

    def __getitem__(self, key: Any) -> Any:
        if key not in self or self.slot is None:
            raise KeyError(key)
        return self._value(self.slot)

    def __setitem__(self, key: Any, value: Any) -> None:
        slot = self.slot
        if slot is None:
            return
        if not self.single:
            vars(self._holder)[self._name][slot] = value
        elif isinstance(held := vars(self._holder).get(self._name), np.ndarray) and (
            isinstance(value, np.ndarray) and held.shape == value.shape
        ):
            held[...] = value  # others may look at the same array
        else:
            setattr(self._holder, self._name, value)

    def __delitem__(self, key: Any) -> None:
        if key not in self or self.slot is None:
            raise KeyError(key)
        first = self._first[self.slot]
        if first:
            self[key] = decode(first)

    def __iter__(self) -> Iterator[Any]:
        return iter((KEY,) if KEY in self else ())

    def __len__(self) -> int:
        return int(KEY in self)


def by_slot(value: Any, slots: int) -> bool:
    """Tell whether a variable may hold something for each slot."""
    if isinstance(value, np.ndarray):
        fits = slots == 1 or (value.ndim > 0 and value.shape[0] == slots)
        return fits and value.nbytes <= _LARGEST
    if slots == 1:
        return isinstance(value, _KINDS)
    return type(value) is list and len(value) == slots
