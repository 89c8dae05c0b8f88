"""States that stay on the device: what one step gave there is what the next one takes.

The committed state of a sequence is an immutable :class:`StateRow` of bytes, made from what
a call gave. As long as a sequence hands in that very row again, the tensors that it was made
from are its value, and nothing is uploaded. Any other row (read from the store, forked,
rolled back) is uploaded. So this is a cache that can be emptied at any moment, and what the
store holds stays the truth: one transfer a call brings the next states to the host for it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import StateRow, StateSpec

LIMIT_BYTES = 256 << 20
"""Bytes of states on the device that one instance keeps at most."""


class _Call:
    """States that one model call gave, and the rows that were made of them and are still asked."""

    def __init__(self, tensors: dict[str, Any], rows: Sequence[StateRow]) -> None:
        self.tensors = tensors
        self.rows = {id(row): row for row in rows}  # held, so that no other row has this identity
        self.nbytes = sum(value.numel() * value.element_size() for value in tensors.values())


class Resident:
    """The states of recent calls on a device.

    Args:
        states: What the model carries.
        device: Where it runs.
        limit: Bytes kept at most; the oldest calls are forgotten first.

    Attributes:
        uploads: Rows that had to be uploaded.
    """

    def __init__(self, states: Sequence[StateSpec], device: str, limit: int = LIMIT_BYTES) -> None:
        self.uploads = 0
        self._states = states
        self._device = device
        self._limit = limit
        self._held = 0
        self._calls: OrderedDict[int, _Call] = OrderedDict()
        self._places: dict[int, tuple[_Call, int]] = {}

    def gather(self, rows: Sequence[StateRow]) -> dict[str, Any]:
        """Lay the states of rows side by side on the device; in inference mode.

        The tensors may be those of an earlier call: whoever writes to them copies them first.
        """
        sources: dict[int, tuple[dict[str, Any], list[int], list[int]]] = {}
        missing: list[int] = []
        for at, row in enumerate(rows):
            place = self._places.get(id(row))
            if place is None:
                missing.append(at)
                continue
            call, index = place
            _, indices, goals = sources.setdefault(id(call), (call.tensors, [], []))
            indices.append(index)
            goals.append(at)
        if missing:
            uploaded = self._upload([rows[at] for at in missing])
            sources[0] = (uploaded, list(range(len(missing))), missing)
        self._forget(rows)
        parts = list(sources.values())
        order = [at for _, _, goals in parts for at in goals]
        return {
            spec.name: _joined(
                [(tensors[spec.name], indices) for tensors, indices, _ in parts],
                order,
                spec.batch_axis,
            )
            for spec in self._states
        }

    def keep(self, tensors: dict[str, Any], rows: Sequence[StateRow]) -> None:
        """Remember which tensors rows were made of."""
        call = _Call(tensors, rows)
        self._calls[id(call)] = call
        self._held += call.nbytes
        for at, row in enumerate(rows):
            self._places[id(row)] = (call, at)
        while self._held > self._limit:
            self._drop(next(iter(self._calls.values())))

    def clear(self) -> None:
        """Forget everything."""
        self._calls.clear()
        self._places.clear()
        self._held = 0

    def _forget(self, rows: Sequence[StateRow]) -> None:
        """Let go of rows that are moved on from; if they are needed again, they are uploaded."""
        for row in rows:
            place = self._places.pop(id(row), None)
            if place is not None:
                call = place[0]
                del call.rows[id(row)]
                if not call.rows:
                    self._drop(call)

    def _drop(self, call: _Call) -> None:
        del self._calls[id(call)]
        self._held -= call.nbytes
        for identity in call.rows:
            del self._places[identity]

    def _upload(self, rows: Sequence[StateRow]) -> dict[str, Any]:
        self.uploads += len(rows)
        uploaded = {}
        for at, spec in enumerate(self._states):
            pieces = [
                np.frombuffer(row.data[at], spec.dtype).reshape(row.shapes[at]) for row in rows
            ]
            joined = np.concatenate(pieces, spec.batch_axis)
            uploaded[spec.name] = torch.from_numpy(joined).to(self._device)
        return uploaded


def _joined(parts: list[tuple[Any, list[int]]], order: list[int], axis: int) -> Any:
    """Pick rows of some tensors and lay them side by side, row ``order[i]`` from pick ``i``."""
    picked = [_picked(tensor, indices, axis) for tensor, indices in parts]
    value = picked[0] if len(picked) == 1 else torch.cat(picked, axis)
    places = [0] * len(order)
    for at, goal in enumerate(order):
        places[goal] = at
    return _picked(value, places, axis)


def _picked(tensor: Any, indices: list[int], axis: int) -> Any:
    if indices == list(range(tensor.shape[axis])):
        return tensor
    if len(indices) == 1:
        return tensor.narrow(axis, indices[0], 1)
    return tensor.index_select(axis, torch.tensor(indices, device=tensor.device))
