"""Messages between the server and a worker process.

A frame is ``u32 bytes of the message, u32 bytes of data, u8 descriptors``, the message
(MessagePack: nothing in it is ever executed), then the small arrays. Arrays from a threshold on lie
in shared memory: each side writes into one area of its own, whose descriptor travels with
the first frame that uses it. A call is over before the next begins, so an area is used
again and again, and what was read from it is valid until the next call.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array

HEAD: Final = struct.Struct("<IIB")
_ALIGN: Final = 64
_LEAST_AREA: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")
_MOST_MESSAGE: Final = 1 << 30
_INLINE, _SHARED = 0, 1

# name, dtype, shape, place, offset, bytes
Descriptor = tuple[str, str, tuple[int, ...], int, int, int]


class ChannelClosedError(Exception):
    """The other side is gone."""


class Area:
    """Shared memory that one side writes and the other reads."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._fresh: int | None = None

    def __len__(self) -> int:
        return 0 if self._map is None else len(self._map)

    def reserve(self, size: int) -> memoryview:
        """Get room for one frame; what was written before is gone."""
        if self._map is None or len(self._map) < size:
            room = max(_LEAST_AREA, 1 << (size - 1).bit_length())
            fd = os.memfd_create("legato-worker", os.MFD_CLOEXEC)
            os.ftruncate(fd, room)
            self._forget_fresh()
            # Arrays that still look at the old map keep it alive by themselves.
            self._map = mmap.mmap(fd, room)
            self._fresh = fd
        return memoryview(self._map)

    def take_fresh(self) -> int | None:
        """Give the descriptor of a new map, once; the caller closes it."""
        fresh, self._fresh = self._fresh, None
        return fresh

    def adopt(self, fd: int) -> None:
        """Read from the map that the other side made."""
        try:
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)

    def view(self) -> memoryview:
        """Everything in it.

        Raises:
            ChannelClosedError: The other side speaks of an area that it never gave.
        """
        if self._map is None:
            raise ChannelClosedError("a frame names shared memory that was not given")
        return memoryview(self._map).toreadonly()

    def close(self) -> None:
        """Let go of it."""
        self._forget_fresh()
        self._map = None

    def _forget_fresh(self) -> None:
        if self._fresh is not None:
            os.close(self._fresh)
            self._fresh = None


class Channel:
    """One end of the socket between the server and a worker. One user at a time."""

    def __init__(self, sock: socket.socket, *, shared_from: int) -> None:
        self._sock = sock
        self._shared_from = shared_from
        self._mine = Area()
        self._theirs = Area()
        self._received: int | None = None
        # Of a frame that did not come whole before a deadline: the next call goes on with it.
        self._head: tuple[int, int, bool] | None = None
        self._begun: tuple[memoryview, int] | None = None

    def set_threshold(self, shared_from: int) -> None:
        """Send arrays by shared memory from this many bytes on."""
        self._shared_from = shared_from

    def send(
        self,
        message: dict[str, Any],
        arrays: Mapping[str, Mapping[str, Array]] | None = None,
        deadline: float | None = None,
    ) -> None:
        """Send a message with groups of arrays; each group is described under its name.

        Raises:
            ChannelClosedError: The other side is gone.
            TimeoutError: It took nothing before the deadline (monotonic seconds).
            TypeError: The message holds something that is no plain data.
        """
        inline: list[Any] = []
        at = 0
        shared: list[tuple[int, Any]] = []
        room = 0
        for group, members in (arrays or {}).items():
            described: list[Descriptor] = []
            for name, value in members.items():
                payload, size = _payload(value)
                kind = "object" if value.dtype.hasobject else value.dtype.str
                if size >= self._shared_from and size:
                    described.append((name, kind, value.shape, _SHARED, room, size))
                    shared.append((room, payload))
                    room += -(-size // _ALIGN) * _ALIGN
                else:
                    described.append((name, kind, value.shape, _INLINE, at, size))
                    inline.append(payload)
                    at += size
            message[group] = described
        if room:
            memory = self._mine.reserve(room)
            for offset, payload in shared:
                _write(memory, offset, payload)
        body = msgspec.msgpack.encode(message)
        try:
            self._sock.settimeout(_left(deadline))
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            raise ChannelClosedError(str(error)) from error
        self._send(body, [_flat(piece) for piece in inline], at)

    def _send(self, body: bytes, inline: list[Any], size: int) -> None:
        fd = self._mine.take_fresh()
        pieces = [HEAD.pack(len(body), size, fd is not None), body, *inline]
        try:
            first = b"".join(pieces)
            if fd is None:
                self._sock.sendall(first)
            else:
                sent = socket.send_fds(self._sock, [first], [fd])
                if sent < len(first):
                    self._sock.sendall(memoryview(first)[sent:])
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosedError(str(error)) from error
        finally:
            if fd is not None:
                os.close(fd)

    def receive(self, deadline: float | None = None) -> tuple[dict[str, Any], memoryview]:
        """Wait for a message; the second value is for :meth:`arrays`.

        After a TimeoutError it may be called again: nothing that has arrived is lost.

        Args:
            deadline: Monotonic seconds; ``None`` = for ever.

        Raises:
            ChannelClosedError: The other side is gone, or said what cannot be understood.
            TimeoutError: The deadline passed.
        """
        if self._head is None:
            self._head = HEAD.unpack(self._read(HEAD.size, deadline))
        length, size, fds = self._head
        if length > _MOST_MESSAGE or size > _MOST_MESSAGE:
            raise ChannelClosedError("a frame is longer than any that is sent")
        body = self._read(length + size, deadline)
        self._head = None
        if fds and self._received is None:
            raise ChannelClosedError("a frame announces shared memory and brings none")
        if self._received is not None:
            self._theirs.adopt(self._received)
            self._received = None
        try:
            message = msgspec.msgpack.decode(body[:length])
        except msgspec.DecodeError as error:
            raise ChannelClosedError(f"a frame cannot be read: {error}") from error
        return message, body[length:]

    def _read(self, size: int, deadline: float | None) -> memoryview:
        data, at = self._begun or (memoryview(bytearray(size)), 0)
        self._begun = None
        while at < size:
            try:
                self._sock.settimeout(_left(deadline))
                got, ancillary, _flags, _address = self._sock.recvmsg_into(
                    [data[at:]], socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC
                )
            except TimeoutError:
                self._begun = data, at
                raise
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    (self._received,) = struct.unpack("<i", content[:4])
            if not got:
                raise ChannelClosedError("the other side is gone")
            at += got
        return data

    def arrays(self, described: Any, data: memoryview) -> dict[str, Array]:
        """Read a group of arrays: views, valid until the next call, that cannot be written."""
        found: dict[str, Array] = {}
        for name, kind, shape, place, offset, size in described or ():
            source = self._theirs.view() if place == _SHARED else data.toreadonly()
            piece = source[offset : offset + size]
            if kind == "object":
                found[name] = _objects(piece, tuple(shape))
            else:
                found[name] = np.frombuffer(piece, np.dtype(kind)).reshape(shape)
        return found

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
        self._mine.close()
        self._theirs.close()


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _payload(value: Array) -> tuple[Any, int]:
    """What to write for an array, and how many bytes that is."""
    if not value.dtype.hasobject:
        return value, value.nbytes
    pieces = []
    size = 0
    for element in value.ravel().tolist():
        raw = element if isinstance(element, bytes) else str(element).encode()
        pieces += [_LENGTH.pack(len(raw)), raw]
        size += _LENGTH.size + len(raw)
    return pieces, size


def _flat(payload: Any) -> bytes:
    return b"".join(payload) if isinstance(payload, list) else payload.tobytes()


def _write(memory: memoryview, offset: int, payload: Any) -> None:
    if isinstance(payload, list):
        for piece in payload:
            memory[offset : offset + len(piece)] = piece
            offset += len(piece)
    else:
        target = np.frombuffer(memory, payload.dtype, payload.size, offset)
        np.copyto(target.reshape(payload.shape), payload)


def _objects(piece: memoryview, shape: tuple[int, ...]) -> Array:
    values: list[bytes] = []
    at = 0
    while at < len(piece):
        (size,) = _LENGTH.unpack_from(piece, at)
        at += _LENGTH.size
        values.append(bytes(piece[at : at + size]))
        at += size
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
