"""A PyTorch model as a function: tensors in, tensors out, nothing kept inside.

Whatever a model remembers in buffers or attributes is handed to it and taken from it
(*lifted*), so the same step can be run again, and many sequences can share one model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import _pytree as pytree

from legato.core.errors import ModelError

if TYPE_CHECKING:
    from legato.core.types import Array

Call = Callable[[Sequence[Any], Sequence[Any]], tuple[list[Any], list[Any]]]
"""``(values, lifted) -> (outputs, next lifted)``: one row, or several laid side by side."""

DTYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.uint16: "uint16",
    torch.uint32: "uint32",
    torch.uint64: "uint64",
    torch.bool: "bool",
}
NUMBERS: dict[str, type] = {"int": int, "float": float, "bool": bool}
NUMBER_DTYPES = {int: "int64", float: "float32", bool: "bool"}
REQUIRED = object()
_LONGEST = 300
_ALIGNED = 8


class Argument(NamedTuple):
    """Something that a model's forward takes.

    Attributes:
        name: Its name.
        number: ``int``, ``float`` or ``bool`` for a plain number, ``None`` for a tensor.
        default: Value if it is left out; :data:`REQUIRED` = there is none.
        optional: It may be ``None``.
    """

    name: str
    number: type | None = None
    default: Any = REQUIRED
    optional: bool = False


class Lifted(NamedTuple):
    """Something that a model keeps inside, and that is kept outside here.

    Attributes:
        name: Name in the model.
        dtype: Numpy dtype name.
        shape: Shape in the model, without rows; -1 = varies, empty at the start.
        initial: First value; ``None`` = empty.
        why: Half a sentence for people.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    initial: Array | None
    why: str


@dataclass(frozen=True, slots=True)
class Program:
    """A model as a function.

    Attributes:
        arguments: What it takes, in the order of ``values``.
        lifted: What it remembers, in the order of ``lifted``.
        call: Runs it; rows may be laid side by side if the graph happens to allow it.
        per_row: Makers of forms of it that ``torch.vmap`` may run for many rows at once.
        alone: Why it must run one row a call, "" if that is open.
        shareable: Several instances may call it at the same time.
        pure: It never writes to what it is given.
        notes: Sentences for people.
    """

    arguments: tuple[Argument, ...]
    lifted: tuple[Lifted, ...]
    call: Call
    per_row: tuple[Callable[[], Call], ...] = ()
    alone: str = ""
    shareable: bool = False
    pure: bool = False
    notes: tuple[str, ...] = ()


def flatten(result: Any) -> list[tuple[str, Any]]:
    """List the tensors that a forward returned, with names.

    Keys of a dict and fields of a named tuple are names; other places are numbered.

    Raises:
        ModelError: It returned something else than tensors.
    """
    found = []
    for path, leaf in pytree.tree_flatten_with_path(result)[0]:
        if leaf is None:
            continue
        if not isinstance(leaf, torch.Tensor):
            msg = f"forward returned a {type(leaf).__name__}; it must return tensors"
            raise ModelError(msg)
        found.append((name_of(path), leaf))
    return found


def name_of(path: Sequence[Any]) -> str:
    """Name a place in what a forward returned."""
    parts = [str(next(getattr(key, a) for a in ("key", "name", "idx") if hasattr(key, a)))
             for key in path]  # fmt: skip
    if not parts:
        return "output_0"
    return "_".join(parts if not parts[0].isdigit() else ["output", *parts])


def reason(error: BaseException) -> str:
    """Return the telling line of a PyTorch error; TorchScript's stands last."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = lines[-1] if "TorchScript interpreter" in lines[0] else lines[0]
    text = re.sub(r"^(RuntimeError|builtins\.\w+|torch\.jit\.\w+): ", "", text)
    text = text.partition(" We don't support that yet")[0]
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def to_array(tensor: Any) -> Array:
    """Give a tensor as an array of this process.

    Raises:
        ModelError: Its dtype is none that numpy has.
    """
    if tensor.dtype not in DTYPES:
        msg = f"a {tensor.dtype} cannot be handed out: numpy has no such type"
        raise ModelError(msg)
    array: Array = tensor.detach().cpu().contiguous().numpy()
    return array


def to_arrays(tensors: Sequence[Any]) -> list[Array]:
    """Give tensors as arrays of this process; from another device in one transfer.

    Raises:
        ModelError: A dtype is none that numpy has.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or devices.pop().type == "cpu":
        return [to_array(tensor) for tensor in tensors]
    return unpacked(pack_bytes(tensors).cpu(), tensors)


def pack_bytes(tensors: Sequence[Any]) -> Any:
    """Lay the bytes of tensors one after another, each from a multiple of eight."""
    parts = []
    for tensor in tensors:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        parts += [raw, raw.new_zeros(-raw.numel() % _ALIGNED)]
    return torch.cat(parts)


def unpacked(packed: Any, tensors: Sequence[Any]) -> list[Array]:
    """Read what :func:`pack_bytes` laid, once it is in this process."""
    raw, at = packed.numpy(), 0
    arrays: list[Array] = []
    for tensor in tensors:
        if tensor.dtype not in DTYPES:
            return [to_array(each) for each in tensors]  # which says what is wrong
        size = tensor.numel() * tensor.element_size()
        arrays.append(raw[at : at + size].view(DTYPES[tensor.dtype]).reshape(tuple(tensor.shape)))
        at += size + -size % _ALIGNED
    return arrays
