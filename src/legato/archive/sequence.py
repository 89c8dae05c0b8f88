"""The export file: one sequence as a safetensors file that explains itself.

Any reader of safetensors sees the states by name, with dtype and shape, and the rest as
metadata (all texts). What Legato adds is the order of the states and a checksum over
everything, because a state that is only slightly wrong stays plausible for long.

The format, for those who read it elsewhere: 8 bytes little-endian length of the header,
the header as JSON (tensor name to ``dtype``, ``shape``, ``data_offsets``; metadata under
``__metadata__``), the data of all tensors without gaps.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from xxhash import xxh3_64

from legato.core.errors import ClientError
from legato.core.ids import id_from_text, id_to_text
from legato.core.types import Receipt, RecordHead, SequenceKey, StateRow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import StateSpec

FORMAT = "legato-sequence-1"
MOST_HEADER_BYTES = 64 * 1024 * 1024

_CODES = {
    "bool": ("BOOL", 1),
    "uint8": ("U8", 1),
    "int8": ("I8", 1),
    "uint16": ("U16", 2),
    "int16": ("I16", 2),
    "float16": ("F16", 2),
    "bfloat16": ("BF16", 2),
    "uint32": ("U32", 4),
    "int32": ("I32", 4),
    "float32": ("F32", 4),
    "uint64": ("U64", 8),
    "int64": ("I64", 8),
    "float64": ("F64", 8),
}
_DTYPES = {code: (dtype, size) for dtype, (code, size) in _CODES.items()}
_CHECKSUM = "checksum"


class ArchiveError(ClientError):
    """The file is no export of a sequence, or it is damaged."""

    code = "bad_archive"


class Tensor(NamedTuple):
    """One state in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Archive(NamedTuple):
    """What a file says.

    Attributes:
        key: The sequence it was.
        head: Its head at that moment.
        tensors: Its states in the model's order.
    """

    key: SequenceKey
    head: RecordHead
    tensors: tuple[Tensor, ...]

    @property
    def state(self) -> StateRow:
        """The states as a row."""
        return StateRow(
            tuple(tensor.data for tensor in self.tensors),
            tuple(tensor.shape for tensor in self.tensors),
        )

    def fit(self, specs: Sequence[StateSpec]) -> StateRow:
        """Return the row for a model with these states.

        Raises:
            ArchiveError: Names, order or dtypes of the states are others.
        """
        theirs = [(tensor.name, tensor.dtype) for tensor in self.tensors]
        ours = [(spec.name, spec.dtype) for spec in specs]
        if theirs != ours:
            raise ArchiveError(
                f"the file has the states {_spell(theirs)}, the model has {_spell(ours)}"
            )
        return self.state


def _spell(states: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"'{name}' ({dtype})" for name, dtype in states) or "none"


def tensors_of(state: StateRow, specs: Sequence[StateSpec]) -> tuple[Tensor, ...]:
    """Name the parts of a state."""
    return tuple(
        Tensor(spec.name, spec.dtype, tuple(shape), bytes(data))
        for spec, shape, data in zip(specs, state.shapes, state.data, strict=True)
    )


# -- writing ----------------------------------------------------------------------------


def pack(archive: Archive) -> bytes:
    """Write a file.

    Raises:
        ArchiveError: A state has a dtype that the format does not know.
    """
    metadata = _metadata(archive)
    metadata[_CHECKSUM] = _checksum(metadata, archive.tensors)
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for tensor in archive.tensors:
        if tensor.dtype not in _CODES:
            raise ArchiveError(
                f"state '{tensor.name}' is {tensor.dtype}, which a safetensors file cannot hold"
            )
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype][0],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(tensor.data)],
        }
        at += len(tensor.data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        (struct.pack("<Q", len(text)), text, *(tensor.data for tensor in archive.tensors))
    )


def _metadata(archive: Archive) -> dict[str, str]:
    head = archive.head
    receipts = [
        [receipt.step, *(base64.b64encode(part).decode() for part in receipt[1:])]
        for receipt in head.receipts
    ]
    return {
        "format": FORMAT,
        "model": archive.key.model,
        "correlation_id": id_to_text(archive.key.correlation_id),
        "version": head.version,
        "model_digest": head.model_digest,
        "step": str(head.step),
        "incarnation": head.incarnation.hex(),
        "dialect": head.dialect,
        "created": repr(head.created),
        "ttl_s": repr(head.ttl_s),
        "level": head.level,
        "receipts": json.dumps(receipts, separators=(",", ":")),
        "states": json.dumps([tensor.name for tensor in archive.tensors]),
    }


def _checksum(metadata: Mapping[str, str], tensors: Sequence[Tensor]) -> str:
    """Digest of all metadata (but this one) and all tensors, each part after its length."""
    digest = xxh3_64()

    def add(part: bytes) -> None:
        digest.update(struct.pack("<Q", len(part)))
        digest.update(part)

    for name in sorted(metadata):
        if name != _CHECKSUM:
            add(name.encode())
            add(metadata[name].encode())
    for tensor in tensors:
        add(tensor.name.encode())
        add(f"{tensor.dtype}{list(tensor.shape)}".encode())
        add(tensor.data)
    return digest.hexdigest()


# -- reading ----------------------------------------------------------------------------


def unpack(data: bytes) -> Archive:
    """Read a file and verify all of it.

    Raises:
        ArchiveError: It is not an export, or not as it was written.
    """
    try:
        return _unpack(data)
    except ArchiveError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        # JSON can hold anything anywhere; each mismatch means the same.
        raise ArchiveError(
            f"the file is not an exported sequence: {type(error).__name__}: {error}"
        ) from error


def _unpack(data: bytes) -> Archive:
    header, body = _header(data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        found = metadata.get("format") if isinstance(metadata, dict) else None
        raise ArchiveError(
            f"the file is not an exported sequence of format {FORMAT}"
            + (f" but of {str(found)[:40]!r}" if found else "")
        )
    names = json.loads(metadata["states"])
    if sorted(names) != sorted(header):
        raise ArchiveError("the file's list of states does not name its tensors")
    tensors = tuple(_tensor(name, header[name], body) for name in names)
    if sum(len(tensor.data) for tensor in tensors) != len(body):
        raise ArchiveError(f"{len(body)} bytes of data do not fit the tensors of the file")
    stored, computed = metadata[_CHECKSUM], _checksum(metadata, tensors)
    if stored != computed:
        raise ArchiveError(
            f"the file was changed or damaged: its checksum is {computed}, not {str(stored)[:40]}"
        )
    return Archive(_key(metadata), _head(metadata), tensors)


def _header(data: bytes) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        raise ArchiveError(f"{len(data)} bytes are too few for an exported sequence")
    (size,) = struct.unpack_from("<Q", data)
    if size > min(len(data) - 8, MOST_HEADER_BYTES):
        raise ArchiveError(
            f"the file says that its header has {size} bytes; it is cut off, or none"
        )
    header = json.loads(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ArchiveError("the header of the file is no mapping")
    return header, memoryview(data)[8 + size :]


def _tensor(name: str, entry: Mapping[str, Any], body: memoryview) -> Tensor:
    dtype, size = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, start, stop))
    if not whole or stop - start != math.prod(shape) * size or stop > len(body):
        raise ArchiveError(f"the tensor '{name[:80]}' does not fit its place in the file")
    return Tensor(name, dtype, shape, bytes(body[start:stop]))


def _key(metadata: Mapping[str, str]) -> SequenceKey:
    return SequenceKey(metadata["model"], id_from_text(metadata["correlation_id"]))


def _head(metadata: Mapping[str, str]) -> RecordHead:
    ttl_s, created = float(metadata["ttl_s"]), float(metadata["created"])
    step, incarnation = int(metadata["step"]), bytes.fromhex(metadata["incarnation"])
    if (
        step < 0
        or len(incarnation) != 16
        or not (0 <= ttl_s < math.inf)
        or not math.isfinite(created)
    ):
        raise ArchiveError("the file names an impossible step, incarnation or time")
    return RecordHead(
        incarnation=incarnation,
        epoch=0,
        step=step,
        receipts=tuple(_receipt(entry) for entry in json.loads(metadata["receipts"])),
        version=metadata["version"],
        model_digest=metadata["model_digest"],
        dialect=metadata["dialect"],
        created=created,
        ttl_s=ttl_s,
        level=metadata["level"],
    )


def _receipt(entry: Sequence[Any]) -> Receipt:
    step, *parts = entry
    try:
        request_id, digest, response = (base64.b64decode(part, validate=True) for part in parts)
    except binascii.Error as error:
        raise ArchiveError(f"a receipt in the file cannot be read: {error}") from None
    return Receipt(int(step), request_id, digest, response)
