"""What a Python model keeps for its sequences, taken out, put back, and held to account.

Triton's Python models have no implicit state: they keep variables of their own, and lose them
with their process. Here an entry of a dictionary under a sequence's id, or a list's element in its
slot, is committed with the step and put back wherever the sequence goes on. What cannot be
taken out stays in this worker's memory: such a sequence is **bound** to the worker. Its record
says so, with a stamp that changes at every step, so that nobody goes on from what memory holds of
an earlier or a later step, or from nothing at all.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from xxhash import xxh3_128_digest

from legato.core.errors import NoSlotError, StateLostError
from legato.runtimes.torchserve import lru
from legato.runtimes.torchserve.caches import Caches
from legato.runtimes.triton_python.slots import KEY, Slots, SlotView, by_slot
from legato.runtimes.triton_python.watch import Watch, changed, members, walk
from legato.runtimes.worker.messages import Held
from legato.torchserve import made_caches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import CorrelationId

_BOUND: Final = struct.Struct("<B16sQ")
_BOUND_MARK: Final = 0  # encoded entries begin with their version, which is never 0
_WORKER: Final = os.urandom(16)
_BITS: Final = (32, 64)

AUTO, BY_ID, IN_MEMORY = "auto", "by_id", "memory"


class Taken(NamedTuple):
    """The state of a sequence after a step.

    Attributes:
        state: To be committed.
        bound: Part of it is in the memory of this worker alone.
    """

    state: bytes
    bound: bool


class Memory:
    """The variables of one model.

    Args:
        roots: The model, its class and its module, by name.
        own: Classes of the model's own code.
        slots: How many slots it has under the direct strategy; 0 = sequences have none.
        fills_holes: The model is told which places of a call are empty (READY).
        mode: What was declared: ``auto``, ``by_id`` or ``memory``.

    Attributes:
        slots: The slots that sequences keep, where they must.
        by_place: In this step a request's place in the list is its sequence's slot.
        elsewhere: The model keeps something that is nobody's, as far as can be seen.
    """

    def __init__(
        self,
        roots: dict[str, Any],
        own: frozenset[type],
        *,
        slots: int,
        fills_holes: bool,
        mode: str,
    ) -> None:
        self._roots = roots
        self._own = own
        mode = BY_ID if mode == AUTO and made_caches() else mode  # it says by itself what it keeps
        self._mode = mode
        self._fills_holes = fills_holes
        self._views: dict[tuple[int, str], SlotView] = {}
        self._view_names: dict[str, SlotView] = {}
        self.slots = Slots(slots) if slots else None
        self._make_views(slots)
        self._caches = Caches(self._holders, _say, keys_of, self._view_names.items)
        self._watch = Watch(lambda: walk(self._roots, self._own), single=slots == 1)
        self._stamps: dict[CorrelationId, int] = {}
        self._stamp = 0
        self._seen: set[Any] = set()
        self._before: dict[str, int] | None = None
        self._places: dict[CorrelationId, int] = {}
        self.by_place = False
        self._one_place = False
        self._proven = mode == BY_ID
        self._kept = False  # something was found under some sequence's id, or in its slot
        self.elsewhere = mode == IN_MEMORY

    def __repr__(self) -> str:
        return f"<Memory {self._mode} proven={self._proven} bound={len(self._stamps)}>"

    def _holders(self) -> dict[str, Any]:
        return {path: members(holder) for path, holder in walk(self._roots, self._own)}

    def _make_views(self, slots: int) -> None:
        """Find what may be kept by slot; what holds other things than values cannot be moved."""
        if not slots or self._mode != AUTO:
            return
        for path, holder in walk(self._roots, self._own):
            if path.partition(".")[0] != "model" or isinstance(holder, dict):
                continue
            for name, value in list(vars(holder).items()):
                if by_slot(value, slots):
                    view = SlotView(holder, name, slots)
                    if view.restorable:
                        self._views[id(holder), name] = view
                        self._view_names[f"slots.{path}.{name}"] = view

    # -- before a call ------------------------------------------------------------------

    def assign(self, sequences: Sequence[CorrelationId], states: Sequence[bytes | Held]) -> bool:
        """Give each sequence of a step its slot; tell whether each must run by itself.

        A call that fails is repeated row by row. Where a row's state cannot be put back, that
        would apply it twice, so such rows never share a call.

        Where everything can be taken out and put back, rows are just numbered: no sequence waits
        for a slot, and there are no holes. Where not, and the model can tell holes, each keeps
        its slot until its end.
        """
        alone = not all(map(self.restorable, states))
        self.by_place = alone and self._fills_holes and self.slots is not None
        self._places = {}
        self._one_place = alone and not self.by_place and len(states) > 1
        if self.slots is not None and not self.by_place:
            count = 1 if alone else self.slots.count
            self._places = {one: at % count for at, one in enumerate(sequences)}
        return alone and len(states) > 1

    def place(self, sequence: CorrelationId) -> int | None:
        """Return the slot of a sequence in this step."""
        if self.slots is not None and self.by_place:
            return self.slots.of(sequence)
        return self._places.get(sequence)

    def restorable(self, state: bytes | Held) -> bool:
        """Tell whether a step from this state can be taken back."""
        if self._mode == BY_ID:
            return True
        if self.elsewhere or not self._proven:
            return False
        return isinstance(state, Held) or not state or state[0] != _BOUND_MARK

    def look(self) -> None:
        """Find the dictionaries anew."""
        self._caches.look()

    def has(self, sequence: CorrelationId, digest: bytes) -> bool:
        """Tell whether memory holds the state of a sequence that has this digest."""
        if self._one_place and self._view_names:
            return False  # a row before it will have had its place
        self._point(sequence)
        entries, stays = self._caches.capture(sequence)
        bound = stays or sequence in self._stamps
        return xxh3_128_digest(self._packed(sequence, entries, bound=bound)) == digest

    def restore(self, sequence: CorrelationId, state: bytes) -> None:
        """Make memory hold this state of a sequence.

        Raises:
            StateLostError: Part of it was in the memory of a worker, as it is there no more.
            NoSlotError: The sequence needs a slot and none is free.
        """
        if self.slots is not None and self.by_place and self.slots.take(sequence) is None:
            raise NoSlotError(
                f"all {self.slots.count} slots of this instance of the model are taken by other "
                "sequences; end one, raise max_batch_size, or try again",
                retry_after_s=0.5,
            )
        self._point(sequence)
        self._seen.update(keys_of(sequence).values())
        entries = state
        if state and state[0] == _BOUND_MARK:
            _mark, worker, stamp = _BOUND.unpack_from(state)
            if worker != _WORKER or self._stamps.get(sequence) != stamp:
                raise StateLostError(
                    "the state of the sequence was kept in the memory of a worker process, and is "
                    "not there any more"
                )
            entries = state[_BOUND.size :]
        else:
            self._stamps.pop(sequence, None)
        self._caches.restore(sequence, entries)

    def _point(self, sequence: CorrelationId) -> None:
        """Let the views by slot show a sequence's slot."""
        slot = self.place(sequence)
        for view in self._view_names.values():
            view.slot = slot

    def begin(self, sequences: Sequence[CorrelationId]) -> None:
        """A call begins: note how everything is, where that is due."""
        lru.pin(key for sequence in sequences for key in keys_of(sequence).values())
        self._before = None
        if self._mode == AUTO and not self.elsewhere and self._watch.due():
            self._before = self._watch.look(self._seen, self._views)

    # -- after a call -------------------------------------------------------------------

    def ended(self, sequences: Sequence[CorrelationId], *, judge: bool) -> None:
        """A call is over: see whether something changed that is nobody's.

        Args:
            sequences: Whose call it was.
            judge: It succeeded; what a failed one left behind is taken back anyway.
        """
        lru.unpin()
        self._caches.look()
        before, self._before = self._before, None
        if before is None or not judge:
            return
        slots = [self.place(one) for one in sequences]
        after = self._watch.look(self._seen, self._views)
        found = changed(before, after, [slot for slot in slots if slot is not None])
        if found:
            self.elsewhere = True
            _say(
                f"the model changes {', '.join(found[:3])}, which is neither an entry under a "
                "sequence's id nor kept by slot: its sequences stay with one worker, run one at a "
                "time and end if that worker dies. If this is no state of sequences, say so: "
                'parameters { key: "legato.options.state" value { string_value: "by_id" } }'
            )

    def take(self, sequence: CorrelationId, *, over: bool) -> Taken:
        """Encode what memory holds of a sequence after a step.

        Args:
            sequence: Whose.
            over: It ends with this step, so nothing of it is needed.
        """
        self._point(sequence)
        entries, stays = self._caches.capture(sequence)
        self._kept = self._kept or (bool(entries) and not stays)
        hidden = self._mode != BY_ID and (self.elsewhere or not (entries or self._kept))
        bound = not over and (stays or hidden)
        if not over:
            self._proven = self._mode == BY_ID or not bound
        if bound:
            self._stamp += 1
            self._stamps[sequence] = self._stamp
        else:
            self._stamps.pop(sequence, None)
            self.release(sequence)
        return Taken(self._packed(sequence, entries, bound=bound), bound)

    def _packed(self, sequence: CorrelationId, entries: bytes, *, bound: bool) -> bytes:
        if not bound:
            return entries
        return _BOUND.pack(_BOUND_MARK, _WORKER, self._stamps.get(sequence, 0)) + entries

    def forget(self, sequence: CorrelationId) -> None:
        """Let go of a sequence that is over."""
        self._caches.look()
        self._point(sequence)
        self._caches.forget(sequence)
        self._stamps.pop(sequence, None)
        self._seen.difference_update(keys_of(sequence).values())
        self.release(sequence)

    def release(self, sequence: CorrelationId) -> None:
        """Free the slot of a sequence that did not begin, or is over."""
        if self.slots is not None:
            self.slots.release(sequence)


def keys_of(sequence: CorrelationId) -> dict[str, Any]:
    """The keys under which models keep a sequence: its id in every form that they are told it."""
    if isinstance(sequence, str):
        return {"id": sequence, "bytes": sequence.encode(), "slot": KEY}
    text = str(sequence)
    found: dict[str, Any] = {"id": sequence, "text": text, "bytes": text.encode()}
    for bits in _BITS:
        low = sequence & ((1 << bits) - 1)
        found[f"uint{bits}"] = low
        found[f"int{bits}"] = low - (1 << bits) if low >= 1 << (bits - 1) else low
    # Forms that are spelt alike are one key, the first.
    forms = {key: form for form, key in reversed(found.items())}
    return {form: key for form, key in found.items() if forms[key] == form} | {"slot": KEY}


def _say(text: str) -> None:
    sys.stderr.write(f"WARNING {text}\n")
