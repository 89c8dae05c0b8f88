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

from xxhash import xxh3_64

from legato.faults import fault
from legato.stores.base import StoreFailedError
from legato.stores.log.folder import sync_folder
from legato.stores.log.table import PAGE_BYTES, PAGE_ROWS, ROW_SIZE

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from legato.stores.log.segments import Segments
    from legato.stores.log.table import Table

_MAGIC = b"LGTOCKPT"
_FORMAT = 1
_HEADER = struct.Struct("<8sIIQIQQd")
_FOOTER = struct.Struct("<I")
_CHECKSUM = struct.Struct("<Q")


class Position(NamedTuple):
    """Where replay begins, and the counters at that moment."""

    segment: int = 0
    offset: int = 0
    serial: int = 0
    time: float = 0.0


class Loaded(NamedTuple):
    """A checkpoint as read."""

    position: Position
    pages: list[bytearray]
    rows: int
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
        left = self._count - self._at * PAGE_ROWS
        if left > 0:
            self._write(self._table.page_bytes(self._at, left))
            self._at += 1
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
            return _load(file)
    except FileNotFoundError:
        return "there is no checkpoint"


def _load(file: FileIO) -> Loaded | str:
    """Read the rows to where they stay: at a million sequences a copy would double the memory."""
    size = os.fstat(file.fileno()).st_size
    header = file.read(_HEADER.size)
    if size < _HEADER.size + _FOOTER.size + _CHECKSUM.size or len(header) < _HEADER.size:
        return "the checkpoint is cut short"
    magic, version, row_size, count, segment, offset, serial, time = _HEADER.unpack(header)
    rest_size = size - _HEADER.size - count * ROW_SIZE
    if magic != _MAGIC or version != _FORMAT or row_size != ROW_SIZE:
        return f"the checkpoint has format {version}"
    if rest_size < _FOOTER.size + _CHECKSUM.size:
        return "the checkpoint is cut short"
    checksum = xxh3_64(header)
    pages = []
    for start in range(0, count, PAGE_ROWS):
        page = bytearray(PAGE_BYTES)
        with memoryview(page)[: min(count - start, PAGE_ROWS) * ROW_SIZE] as part:
            if file.readinto(part) != len(part):
                return "the checkpoint could not be read whole"
            checksum.update(part)
        pages.append(page)
    rest = file.read(rest_size)
    if len(rest) != rest_size:
        return "the checkpoint could not be read whole"
    checksum.update(rest[: -_CHECKSUM.size])
    (stored,) = _CHECKSUM.unpack_from(rest, rest_size - _CHECKSUM.size)
    if stored != checksum.intdigest():
        return "the checksum of the checkpoint does not match"
    footer = json.loads(rest[: -_FOOTER.size - _CHECKSUM.size])
    position = Position(segment, offset, serial, time)
    return Loaded(position, pages, count, footer["models"], footer["owners"])
