"""State of handlers as bytes: versioned, self-contained, and never executed when read.

A byte that names the version, then one value. Every value is a tag and what belongs to it;
lengths are u32, everything is little endian. Types are taken exactly: a subclass may mean
anything, so it is refused rather than changed into its base.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from typing import Any, Final

import numpy as np

VERSION: Final = 1
_DEPTH: Final = 64
_I64: Final = struct.Struct("<q")
_F64: Final = struct.Struct("<d")
_U32: Final = struct.Struct("<I")
_LISTS: Final[dict[type, bytes]] = {
    list: b"l", tuple: b"t", set: b"e", frozenset: b"z",
}  # fmt: skip
_MAKE: Final[dict[bytes, Any]] = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset}
_NUMBERS: Final = "biufcSUmM"


_classes: dict[str, type] = {}
_class_names: dict[type, str] = {}


def register(name: str, kind: type) -> None:
    """Let objects of a class be encoded: as its name, and what they have in ``__dict__``.

    For classes whose objects are nothing but their attributes. Reading one runs no code of it.
    """
    _classes[name] = kind
    _class_names[kind] = name


class UnsupportedValueError(Exception):
    """A value cannot be encoded.

    Attributes:
        kind: Its type, for people.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"a value of type {kind} cannot be stored")
        self.kind = kind


def encode(value: Any) -> bytes:
    """Make bytes of a value.

    Takes ``None``, bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset,
    dict, deque, numpy arrays and numbers, torch tensors (kept on the CPU), in any mixture.

    Raises:
        UnsupportedValueError: Something in it is none of these, or it is nested too deeply.
    """
    parts = [bytes((VERSION,))]
    _put(value, parts, 0)
    return b"".join(parts)


def decode(data: bytes) -> Any:
    """Give back what was encoded.

    Raises:
        ValueError: The bytes are not an encoded value, or of a later version.
    """
    if not data or data[0] != VERSION:
        raise ValueError(f"handler state has version {data[:1].hex()}; this reads {VERSION:02x}")
    try:
        value, end = _get(data, 1)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"handler state cannot be read: {error}") from error
    if end != len(data):
        raise ValueError("handler state is longer than what it says")
    return value


def _put(value: Any, parts: list[bytes], depth: int) -> None:
    kind = type(value)
    if depth > _DEPTH:
        raise UnsupportedValueError(f"{_name(kind)} (nested more than {_DEPTH} deep)")
    if value is None:
        parts.append(b"N")
    elif kind is bool:
        parts.append(b"T" if value else b"F")
    elif kind is int:
        _put_int(value, parts)
    elif kind is float:
        parts += [b"d", _F64.pack(value)]
    elif kind is str:
        _put_bytes(b"s", value.encode("utf-8", "surrogatepass"), parts)
    elif kind is bytes:
        _put_bytes(b"b", value, parts)
    elif kind in _LISTS:
        parts += [_LISTS[kind], _U32.pack(len(value))]
        for item in value:
            _put(item, parts, depth + 1)
    elif kind is dict:
        parts += [b"m", _U32.pack(len(value))]
        for key, item in value.items():
            _put(key, parts, depth + 1)
            _put(item, parts, depth + 1)
    else:
        _put_rare(value, parts, depth)


def _put_rare(value: Any, parts: list[bytes], depth: int) -> None:
    kind = type(value)
    if kind is bytearray:
        _put_bytes(b"a", bytes(value), parts)
    elif kind is complex:
        parts += [b"c", _F64.pack(value.real), _F64.pack(value.imag)]
    elif kind is deque:
        parts += [b"q", _I64.pack(-1 if value.maxlen is None else value.maxlen)]
        parts.append(_U32.pack(len(value)))
        for item in value:
            _put(item, parts, depth + 1)
    elif kind is np.ndarray and value.dtype.kind in _NUMBERS:
        _put_array(b"A", value, parts)
    elif isinstance(value, np.generic) and value.dtype.kind in _NUMBERS:
        _put_array(b"G", np.asarray(value), parts)
    elif _is_tensor(value):
        _put_tensor(value, parts)
    elif kind in _class_names:
        _put_bytes(b"O", _class_names[kind].encode(), parts)
        _put(dict(vars(value)), parts, depth + 1)
    else:
        raise UnsupportedValueError(_name(kind))


def _name(kind: type) -> str:
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def _put_int(value: int, parts: list[bytes]) -> None:
    if -(1 << 63) <= value < 1 << 63:
        parts += [b"i", _I64.pack(value)]
    else:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        _put_bytes(b"I", raw, parts)


def _put_bytes(tag: bytes, raw: bytes, parts: list[bytes]) -> None:
    parts += [tag, _U32.pack(len(raw)), raw]


def _put_array(tag: bytes, value: Any, parts: list[bytes]) -> None:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    text = little.dtype.str.encode()
    parts += [tag, bytes((len(text), value.ndim)), text, *map(_I64.pack, value.shape)]
    raw = little.tobytes()
    parts += [_U32.pack(len(raw)), raw]


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and type(value) is torch.Tensor


def _put_tensor(value: Any, parts: list[bytes]) -> None:
    torch = sys.modules["torch"]
    plain = value.detach().cpu().contiguous()
    name = str(plain.dtype).removeprefix("torch.").encode()
    parts += [b"X", bytes((len(name), plain.dim(), value.requires_grad)), name]
    parts += map(_I64.pack, plain.shape)
    # As bytes: numpy knows no bfloat16.
    raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    parts += [_U32.pack(len(raw)), raw]


# -- reading --------------------------------------------------------------------------


def _get(data: bytes, at: int) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[tag], at
    if tag == b"i":
        return _I64.unpack_from(data, at)[0], at + 8
    if tag == b"d":
        return _F64.unpack_from(data, at)[0], at + 8
    if tag == b"c":
        return complex(*struct.unpack_from("<dd", data, at)), at + 16
    if tag in (b"s", b"b", b"a", b"I"):
        raw, at = _get_bytes(data, at)
        return _from_bytes(tag, raw), at
    if tag in _MAKE:
        items, at = _get_items(data, at)
        return _MAKE[tag](items), at
    if tag == b"q":
        (limit,) = _I64.unpack_from(data, at)
        items, at = _get_items(data, at + 8)
        return deque(items, None if limit < 0 else limit), at
    if tag == b"m":
        return _get_dict(data, at)
    if tag in (b"A", b"G"):
        return _get_array(data, at, scalar=tag == b"G")
    if tag == b"X":
        return _get_tensor(data, at)
    if tag == b"O":
        return _get_object(data, at)
    raise ValueError(f"handler state has an unknown tag {tag!r}")


def _get_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    (size,) = _U32.unpack_from(data, at)
    end = at + 4 + size
    if end > len(data):
        raise ValueError("handler state is cut off")
    return data[at + 4 : end], end


def _from_bytes(tag: bytes, raw: bytes) -> Any:
    if tag == b"s":
        return raw.decode("utf-8", "surrogatepass")
    if tag == b"I":
        return int.from_bytes(raw, "little", signed=True)
    return bytearray(raw) if tag == b"a" else raw


def _get_items(data: bytes, at: int) -> tuple[list[Any], int]:
    (count,) = _U32.unpack_from(data, at)
    at += 4
    items = []
    for _ in range(count):
        item, at = _get(data, at)
        items.append(item)
    return items, at


def _get_dict(data: bytes, at: int) -> tuple[dict[Any, Any], int]:
    (count,) = _U32.unpack_from(data, at)
    at += 4
    found = {}
    for _ in range(count):
        key, at = _get(data, at)
        found[key], at = _get(data, at)
    return found, at


def _get_object(data: bytes, at: int) -> tuple[Any, int]:
    raw, at = _get_bytes(data, at)
    members, at = _get(data, at)
    kind = _classes[raw.decode()]
    made: Any = object.__new__(kind)
    vars(made).update(members)
    return made, at


def _get_array(data: bytes, at: int, *, scalar: bool) -> tuple[Any, int]:
    n_text, rank = data[at], data[at + 1]
    dtype = np.dtype(data[at + 2 : at + 2 + n_text].decode())
    at += 2 + n_text
    shape = struct.unpack_from(f"<{rank}q", data, at)
    raw, at = _get_bytes(data, at + 8 * rank)
    array = np.frombuffer(raw, dtype).reshape(shape)
    return array[()] if scalar else array.copy(), at  # a copy can be written


def _get_tensor(data: bytes, at: int) -> tuple[Any, int]:
    import torch  # type: ignore[import-not-found, unused-ignore]

    n_name, rank, requires_grad = data[at], data[at + 1], bool(data[at + 2])
    dtype = getattr(torch, data[at + 3 : at + 3 + n_name].decode())
    at += 3 + n_name
    shape = struct.unpack_from(f"<{rank}q", data, at)
    raw, at = _get_bytes(data, at + 8 * rank)
    if raw:
        value = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(shape)
    else:
        value = torch.empty(shape, dtype=dtype)
    return value.requires_grad_(requires_grad), at
