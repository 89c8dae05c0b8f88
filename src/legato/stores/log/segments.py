"""The segment files: append, read, flush, remove. Knows nothing of records.

Nothing is ever overwritten. A write that fails is undone by cutting the file back
to where it was; a flush that fails is final, because after it nobody knows which
pages reached the disk.
"""

from __future__ import annotations

import os
import threading
from array import array
from typing import TYPE_CHECKING, NamedTuple

from legato.faults import armed, fault
from legato.stores.base import StoreFailedError
from legato.stores.log.folder import sync_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SEGMENT_BYTES = 256 * 1024 * 1024
_MAX_BUFFERS = 1024
_MAX_WRITE = 1 << 30
_LATE_BYTES = 1 << 20
_LARGE_FILE = 16 << 20


class ShortWriteError(OSError):
    """The file system took only a part of a write."""


class Place(NamedTuple):
    """Where a record lies."""

    segment: int
    offset: int
    length: int


class Segment:
    """One file.

    Attributes:
        number: The number in its name.
        fd: Open for reading and appending.
        size: Bytes of whole records.
        live: Bytes of records that are still needed.
        flushed: Bytes known to be durable.
        pinned: Bytes of ``live`` that are tombstones out of the index, kept because an
            older segment in ``pins`` may hold a record that they cover.
        pins: First and last of those segments.
        movable: It may be compacted; not if a damaged record lies in it.
        marks: Where its tombstones and changes of owner lie, in a file that this process has
            written from its beginning; ``None`` = nobody knows without reading it.
    """

    __slots__ = ("fd", "flushed", "live", "marks", "movable", "number", "pinned", "pins", "size")

    def __init__(self, number: int, fd: int, size: int, *, fresh: bool = False) -> None:
        self.number = number
        self.fd = fd
        self.size = size
        self.live = 0
        self.flushed = 0
        self.pinned = 0
        self.pins = (0, 0)
        self.movable = True
        self.marks: array[int] | None = array("I") if fresh else None

    def mark(self, offset: int) -> None:
        """Note that a tombstone or a change of owner was written here."""
        if self.marks is not None:
            self.marks.append(offset)

    def __repr__(self) -> str:
        return f"Segment({self.number}, size={self.size}, live={self.live})"


class Segments:
    """All files of a log; the last is the tail, which takes the writes.

    Attributes:
        by_number: The files.
        tail: The last of them.
        written: Bytes written since the log was opened.
        failed: Why the log has failed for good, "" = it has not.
        patient: A thread flushes all the time; set by who has one.
    """

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.folder = folder
        self.limit = segment_bytes
        self.by_number: dict[int, Segment] = {}
        self.written = 0
        self.failed = ""
        self.patient = False
        self._closing = threading.Lock()
        for path in sorted(folder.glob("*.seg")):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.by_number[int(path.stem)] = Segment(int(path.stem), fd, os.fstat(fd).st_size)
        self.tail = self.by_number[max(self.by_number)] if self.by_number else self._create(0)

    def __repr__(self) -> str:
        return f"Segments({len(self.by_number)} files, {self.size} bytes)"

    @property
    def size(self) -> int:
        """Bytes in all files."""
        return sum(segment.size for segment in self.by_number.values())

    def path(self, number: int) -> Path:
        """Path of a segment."""
        return self.folder / f"{number:08d}.seg"

    def make_room(self, size: int) -> None:
        """Begin a new segment if the tail cannot take this many bytes.

        The tail is flushed first. Where a thread flushes anyhow, waiting for the moment
        after it has done so (for up to a quarter more bytes) makes that a short flush.
        """
        tail = self.tail
        if not tail.size or tail.size + size <= self.limit:
            return
        late = tail.size - tail.flushed > _LATE_BYTES
        if not (self.patient and late and tail.size + size <= self.limit + self.limit // 4):
            self.roll()

    def roll(self) -> None:
        """Flush the tail and begin a new one. Only a flushed segment has a successor."""
        self.flush()
        self.tail = self._create(self.tail.number + 1)

    def append(self, buffers: Sequence[bytes], size: int, *, faults: bool = False) -> int:
        """Write at the end of the tail; give the offset.

        Raises:
            OSError: Nothing was written, the file is as it was.
            StoreFailedError: The file could not be put back, or a flush failed before.
        """
        self.refuse_if_failed()
        tail = self.tail
        start = tail.size
        try:
            if faults:
                fault("commit.before_write")
            if faults and armed("commit.mid_write"):
                _write_in_halves(tail.fd, buffers, start)
            else:
                _write(tail.fd, buffers, start, size)
            if faults:
                fault("commit.after_write")
        except OSError as error:
            self._cut_back(tail, error)
            raise
        tail.size = start + size
        self.written += size
        return start

    def read(self, place: Place) -> bytes | None:
        """Bytes of a record; ``None`` if its file is gone or too short."""
        segment = self.by_number.get(place.segment)
        if segment is None:
            return None
        data = os.pread(segment.fd, place.length, place.offset)
        return data if len(data) == place.length else None

    def flush(self, *, faults: bool = False) -> None:
        """Make the tail durable, also from another thread; waits without the GIL.

        Raises:
            StoreFailedError: It failed. Never retried: the kernel may have dropped the
                pages and would call the next flush a success.
        """
        self.refuse_if_failed()
        with self._closing:
            tail = self.tail
            size = tail.size
            if tail.flushed >= size:
                return
            # A descriptor of its own: another thread may seal and remove the file meanwhile.
            fd = os.dup(tail.fd)
        try:
            if faults:
                fault("commit.before_flush")
            os.fdatasync(fd)
            if faults:
                fault("commit.after_flush")
        except OSError as error:
            self._fail(f"flushing {self.path(tail.number)} failed: {error}", error)
        finally:
            os.close(fd)
        tail.flushed = max(tail.flushed, size)

    def refuse_if_failed(self) -> None:
        """Raise if the log has failed for good."""
        if self.failed:
            raise StoreFailedError(self.failed)

    def retire(self, segment: Segment, freed: int) -> None:
        """Note that a record of a segment is no longer needed."""
        segment.live -= freed

    def pin(self, size: int, first: int, last: int) -> None:
        """Note that a tombstone at the end of the tail must stay while these segments do."""
        tail = self.tail
        low, high = tail.pins if tail.pinned else (first, last)
        tail.pins = min(low, first), max(high, last)
        tail.pinned += size
        tail.live += size

    def holds_any(self, first: int, last: int, besides: int) -> bool:
        """Whether one of the segments ``first..last`` exists, not counting one."""
        return any(first <= number <= last and number != besides for number in self.by_number)

    def remove(self, segment: Segment) -> None:
        """Delete a segment, and let go of the tombstones that it alone kept."""
        self.path(segment.number).unlink()
        del self.by_number[segment.number]
        with self._closing:
            pass  # a flush that found it to be the tail has a descriptor of its own by now
        if segment.size < _LARGE_FILE:
            os.close(segment.fd)
        else:
            # The last descriptor frees the blocks: a third of a second for a full segment.
            threading.Thread(target=os.close, args=(segment.fd,), name="legato-unlink").start()
        sync_folder(self.folder)
        for other in self.by_number.values():
            if other.pinned and not self.holds_any(*other.pins, besides=other.number):
                other.live -= other.pinned
                other.pinned = 0

    def cut(self, segment: Segment, size: int) -> None:
        """Cut a torn tail off, durably."""
        os.ftruncate(segment.fd, size)
        os.fsync(segment.fd)
        segment.size = segment.flushed = size

    def free_bytes(self) -> int:
        """Free space of the file system."""
        space = os.statvfs(self.folder)
        return space.f_bavail * space.f_frsize

    def close(self) -> None:
        """Close all files; flushing is the caller's decision."""
        for segment in self.by_number.values():
            os.close(segment.fd)
        self.by_number.clear()

    def _create(self, number: int) -> Segment:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        segment = Segment(number, os.open(self.path(number), flags, 0o644), 0, fresh=True)
        self.by_number[number] = segment
        sync_folder(self.folder)
        return segment

    def _cut_back(self, segment: Segment, cause: OSError) -> None:
        try:
            os.ftruncate(segment.fd, segment.size)
        except OSError as error:
            self._fail(f"a failed write to {self.path(segment.number)} could not be undone", cause)
            raise AssertionError from error  # unreachable: _fail raises

    def _fail(self, problem: str, cause: OSError) -> None:
        self.failed = problem
        raise StoreFailedError(problem) from cause


def _write(fd: int, buffers: Sequence[bytes], start: int, size: int) -> None:
    if len(buffers) <= _MAX_BUFFERS and size <= _MAX_WRITE:
        done = os.pwritev(fd, buffers, start)
        if done != size:
            raise ShortWriteError(f"{done} of {size} bytes were written")
        return
    at = 0
    while at < len(buffers):
        stop, chunk = at, 0
        while stop < len(buffers) and stop - at < _MAX_BUFFERS:
            if stop > at and chunk + len(buffers[stop]) > _MAX_WRITE:
                break
            chunk += len(buffers[stop])
            stop += 1
        _write_whole(fd, buffers[at:stop], start, chunk)
        start += chunk
        at = stop


def _write_whole(fd: int, buffers: Sequence[bytes], start: int, size: int) -> None:
    """Write one chunk; a single buffer above the kernel's limit of 2 GiB takes several calls."""
    if size <= _MAX_WRITE:
        done = os.pwritev(fd, buffers, start)
        if done != size:
            raise ShortWriteError(f"{done} of {size} bytes were written")
        return
    view = memoryview(buffers[0])
    for at in range(0, size, _MAX_WRITE):
        piece = view[at : at + _MAX_WRITE]
        if os.pwrite(fd, piece, start + at) != len(piece):
            raise ShortWriteError(f"a write of {size} bytes was cut short")


def _write_in_halves(fd: int, buffers: Sequence[bytes], start: int) -> None:
    """The write with a fault point in its middle: half is in the file when it fires."""
    whole = b"".join(buffers)
    half = len(whole) // 2
    os.pwrite(fd, whole[:half], start)
    if fault("commit.mid_write") == "short":
        raise ShortWriteError(f"{half} of {len(whole)} bytes were written")
    os.pwrite(fd, whole[half:], start + half)
