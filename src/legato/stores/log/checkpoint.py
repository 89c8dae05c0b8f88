"""The checkpoint of the index: written in slices while steps go on, replaced by rename.

It is fuzzy: rows are copied while they change. That is sound because replay starts at
the position noted when it began, every record carries a serial, and the log is flushed
before the rename, so no row points to a record that could be lost.

Layout (little endian): ``8s magic, u32 format, u32 row bytes, u64 rows, u32 segment,
u64 offset, u64 serial, f64 time``, the rows, a JSON footer with the names, ``u32 footer bytes,
u64 xxh3-64`` of everything before.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64, xxh3_64_intdigest

from legato.faults import fault
from legato.stores.base import StoreFailedError
from legato.stores.log.folder import sync_folder
from legato.stores.log.table import ROW_SIZE

if TYPE_CHECKING:
    from pathlib import Path

    from legato.stores.log.segments import Segments
    from legato.stores.log.table import Table

_MAGIC = b"LGTOCKPT"
_FORMAT = 1
_HEADER = struct.Struct("<8sIIQIQQd")
_FOOTER = struct.Struct("<I")
_CHECKSUM = struct.Struct("<Q")
_SLICE_ROWS = 16 * 1024  # about 2 MiB


class Position(NamedTuple):
    """Where replay begins, and the counters at that moment."""

    segment: int = 0
    offset: int = 0
    serial: int = 0
    time: float = 0.0


class Loaded(NamedTuple):
    """A checkpoint as read."""

    position: Position
    rows: bytearray
    models: list[str]
    owners: list[str]


class CheckpointWriter:
    """One checkpoint in the making.

    Attributes:
        finished: Set when it is in place and durable, or has failed with
        error: Why it could not be put in place.
    """

    def __init__(self, table: Table, segments: Segments, position: Position) -> None:
        self.finished = threading.Event()
        self.error: OSError | StoreFailedError | None = None
        self._table = table
        self._segments = segments
        self._count = len(table)
        self._at = 0
        self._path = segments.folder / "index.ckpt.new"
        self._file = self._path.open("wb", buffering=0)
        self._checksum = xxh3_64()
        self._write(_HEADER.pack(_MAGIC, _FORMAT, ROW_SIZE, self._count, *position))

    def step(self) -> bool:
        """Write one slice; true when all is written and :meth:`place` may be called."""
        if self._at < self._count:
            stop = min(self._at + _SLICE_ROWS, self._count)
            self._write(self._table.snapshot_rows(self._at, stop))
            self._at = stop
            return False
        names = {"models": self._table.models.all(), "owners": self._table.owners.all()}
        footer = json.dumps(names).encode()
        self._write(footer + _FOOTER.pack(len(footer)))
        self._write(_CHECKSUM.pack(self._checksum.intdigest()))
        return True

    def place(self) -> None:
        """Flush and put in place; what went wrong is in ``error``. Any thread may do it."""
        try:
            os.fdatasync(self._file.fileno())
            self._segments.flush()
            fault("ckpt.before_rename")
            self._path.replace(self._segments.folder / "index.ckpt")
            sync_folder(self._segments.folder)
            fault("ckpt.after_rename")
            self._file.close()
        except (OSError, StoreFailedError) as error:
            self.error = error
        finally:
            self.finished.set()

    def abandon(self) -> None:
        """Give up; the checkpoint before stays valid."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._checksum.update(data)
        if self._file.write(data) != len(data):
            raise OSError(f"{self._path} could not be written whole")


def load_checkpoint(path: Path) -> Loaded | str:
    """Read a checkpoint, or say why it cannot be used."""
    try:
        with path.open("rb", buffering=0) as file:
            data = bytearray(os.fstat(file.fileno()).st_size)
            if file.readinto(data) != len(data):
                return "the checkpoint could not be read whole"
    except FileNotFoundError:
        return "there is no checkpoint"
    tail = _FOOTER.size + _CHECKSUM.size
    if len(data) < _HEADER.size + tail:
        return "the checkpoint is cut short"
    (stored,) = _CHECKSUM.unpack_from(data, len(data) - _CHECKSUM.size)
    with memoryview(data) as view, view[: -_CHECKSUM.size] as body:
        if stored != xxh3_64_intdigest(body):
            return "the checksum of the checkpoint does not match"
    magic, version, row_size, count, segment, offset, serial, time = _HEADER.unpack_from(data)
    if magic != _MAGIC or version != _FORMAT or row_size != ROW_SIZE:
        return f"the checkpoint has format {version}"
    (footer_size,) = _FOOTER.unpack_from(data, len(data) - tail)
    footer = json.loads(bytes(data[len(data) - tail - footer_size : len(data) - tail]))
    # Cut to the rows in place: at a million sequences a copy would double the memory.
    del data[_HEADER.size + count * ROW_SIZE :]
    del data[: _HEADER.size]
    return Loaded(Position(segment, offset, serial, time), data, footer["models"], footer["owners"])
