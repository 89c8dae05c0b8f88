"""What a module keeps in its attributes: found, put in before a step, taken out after it.

A module that assigns to itself (``self._state = ...``) remembers one sequence only, and
mixes them up as soon as two share it. Served one row a call, with its attributes set
before each step and read after it, every sequence has a copy of its own, and a durable one.
"""

from __future__ import annotations

import copy
import json
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from legato.core.errors import PoisonError, StateDamagedError
from legato.runtimes.torch.program import Argument, Lifted, Program, flatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NAME = "attributes"
_PLAIN = (torch.Tensor, bool, int, float, str, type(None))


class Slot(NamedTuple):
    """One attribute: the submodule it belongs to ("" = the whole), and its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


class Attributes:
    """Some attributes of a module.

    Args:
        root: The module, as it was loaded.
        slots: Which of its attributes.
    """

    def __init__(self, root: Any, slots: Iterable[Slot]) -> None:
        self.root = root
        self.slots = tuple(slots)
        self._owners = [attrgetter(s.module)(root) if s.module else root for s in self.slots]
        self._pristine = self.take()
        self._marks: list[Any] = []

    def take(self) -> list[Any]:
        """Copy the attributes as they are now."""
        return [_copied(value) for value in self.now()]

    def put(self, values: Sequence[Any]) -> None:
        """Set the attributes."""
        for owner, slot, value in zip(self._owners, self.slots, values, strict=True):
            setattr(owner, slot.name, value)

    def reset(self) -> None:
        """Set the attributes to what they were when the module was loaded."""
        self.put([_copied(value) for value in self._pristine])

    def watch(self) -> None:
        """Begin to look for changes; not in inference mode, where tensors do not count writes."""
        self.reset()
        self._marks = [_mark(value) for value in self.now()]

    def changed(self) -> set[Slot]:
        """Name the attributes that were written to since :meth:`watch`, or have other values."""
        now = self.now()
        rows = zip(self.slots, self._pristine, self._marks, now, strict=True)
        return {
            slot for slot, was, mark, value in rows if mark != _mark(value) or not _same(was, value)
        }

    def now(self) -> list[Any]:
        """Return the attributes as they are, not copied."""
        return [getattr(o, slot.name) for o, slot in zip(self._owners, self.slots, strict=True)]


def is_plain(value: Any) -> bool:
    """Tell whether a value can be taken out of a module and kept."""
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    return False


def isolated(
    arguments: tuple[Argument, ...],
    attributes: Attributes,
    forward: Callable[..., Any],
    *,
    why: str,
    reject_non_finite: bool,
) -> Program:
    """Make a program of a module that keeps its state in attributes: one row a call.

    The attributes of a sequence are one piece of state, in the safetensors format.
    """

    def call(values: Sequence[Any], lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        # Every call sets every attribute first, so what the last one left is never read.
        blob = lifted[0]
        if blob.numel():
            attributes.put(unpack(blob.cpu().numpy().tobytes(), str(blob.device)))
        else:
            attributes.reset()
        outputs = [tensor for _, tensor in flatten(forward(*values))]
        kept = attributes.now()
        if reject_non_finite:
            _refuse_poison(attributes.slots, kept)
        packed = np.frombuffer(pack(kept), np.uint8)
        return outputs, [torch.from_numpy(packed.copy())]

    names = ", ".join(map(str, attributes.slots))
    state = Lifted(NAME, "uint8", (-1,), None, f"the module's own attributes: {names}")
    return Program(arguments, (state,), call, alone=why)


def pack(values: Sequence[Any]) -> bytes:
    """Write attributes as bytes: tensors in the safetensors format, the rest in its header."""
    tensors: dict[str, Any] = {}
    skeleton = [_skeleton(value, tensors) for value in values]
    written: bytes = write_tensors(tensors, {"values": json.dumps(skeleton)})
    return written


def unpack(blob: bytes, device: str = "cpu") -> list[Any]:
    """Read what :func:`pack` wrote.

    Raises:
        StateDamagedError: It is something else.
    """
    try:
        size = int.from_bytes(blob[:8], "little")
        skeleton = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["values"])
        tensors = {name: value.to(device) for name, value in read_tensors(blob).items()}
        return [_value(each, tensors) for each in skeleton]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        msg = f"the stored attributes of the module cannot be read: {error}"
        raise StateDamagedError(msg) from error


def _skeleton(value: Any, tensors: dict[str, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_skeleton(each, tensors) for each in value]}
    if isinstance(value, dict):
        return {"dict": {key: _skeleton(each, tensors) for key, each in value.items()}}
    return {"value": value}


def _value(skeleton: Any, tensors: dict[str, Any]) -> Any:
    ((kind, held),) = skeleton.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {key: _value(each, tensors) for key, each in held.items()}
    if kind == "value":
        return held
    values = [_value(each, tensors) for each in held]
    return values if kind == "list" else tuple(values)


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return copy.deepcopy(value) if isinstance(value, list | tuple | dict) else value


def _mark(value: Any) -> Any:
    """Tell a tensor from another one, and from itself before it was written to."""
    if not isinstance(value, torch.Tensor):
        return None
    return value.data_ptr(), value._version  # noqa: SLF001 - the name that PyTorch documents


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        alike = a.shape == b.shape and a.dtype == b.dtype
        return alike and bool(torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)))
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _refuse_poison(slots: Sequence[Slot], values: Sequence[Any]) -> None:
    """Do for packed attributes what the engine does for states that it can read.

    Raises:
        PoisonError: A tensor holds NaN or infinity.
    """
    for slot, value in zip(slots, values, strict=True):
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        if floats and not bool(torch.isfinite(value).all()):
            raise PoisonError(
                f"the next value of attribute '{slot}' is not finite; the step was not applied "
                "and the sequence is as it was"
            )
