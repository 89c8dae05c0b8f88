"""System shared memory of clients: regions registered by name, tensors copied in and out.

A region is read and written with ``pread`` and ``pwrite``, never mapped. The client owns
the file and may cut it off at any time: a mapping would then end the server with SIGBUS,
where a read just comes back short. A copy is also what the step needs: the client may
change the bytes while the model runs, and a step must be the same when it is run again.
One copy within memory is the price, and less than the same bytes cost over a socket.

Keys name files directly in ``/dev/shm``: no path leads out of it, links are not followed,
and what other programs keep there for themselves is refused.
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from legato.protocols.rpc.service import RpcError, Status

FOLDER = "/dev/shm"  # noqa: S108 - where shm_open() has its files
RESERVED = ("triton_python_backend_shm_region_", "envoy_shared_memory", "legato", "sem.")
"""Beginnings of keys that belong to servers or to the C library."""

_MOST_NAMES = 65_536
_INT64_MAX = 2**63 - 1
_DISABLED = (
    "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable."
)


def disabled() -> RpcError:
    """Return the error for shared memory where it is not allowed."""
    return RpcError(Status.UNIMPLEMENTED, _DISABLED)


class _File:
    """An open file of shared memory, shared by the regions of one key; closed with the last."""

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class Region:
    """A registered part of a client's shared memory.

    It stays usable for the steps that hold it after its name was given back.

    Attributes:
        name: What clients call it.
        key: Key of the shared memory, as the client wrote it.
        offset: Where it begins in the shared memory.
        byte_size: Its length.
    """

    __slots__ = ("_file", "byte_size", "key", "name", "offset")

    def __init__(self, name: str, key: str, offset: int, byte_size: int, file: _File) -> None:
        self.name = name
        self.key = key
        self.offset = offset
        self.byte_size = byte_size
        self._file = file

    def __repr__(self) -> str:
        return f"<Region {self.name} of {self.key} offset={self.offset} bytes={self.byte_size}>"

    def check(self, offset: int, size: int) -> None:
        """Make sure that a tensor lies within the region.

        Raises:
            RpcError: It does not.
        """
        if not 0 <= offset < self.byte_size:
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"Invalid offset for shared memory region: '{self.name}': the region has "
                f"{self.byte_size} bytes, got offset {offset}",
            )
        if not 0 <= size <= self.byte_size - offset:
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"Invalid offset + byte size for shared memory region: '{self.name}': the region "
                f"has {self.byte_size} bytes, got offset {offset} and byte size {size}",
            )

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of some bytes of the region.

        Raises:
            RpcError: They lie outside of it, or the client has cut it off.
        """
        self.check(offset, size)
        try:
            data = os.pread(self._file.fd, size, self.offset + offset)
        except OSError as error:
            raise self._failed("read", error) from None
        if len(data) != size:
            raise self._cut_off(offset + size)
        return data

    def write(self, offset: int, data: bytes) -> None:
        """Copy bytes into the region.

        Raises:
            RpcError: They do not fit, or the client has cut the region off.
        """
        self.check(offset, len(data))
        at = self.offset + offset
        try:
            if os.fstat(self._file.fd).st_size < at + len(data):
                raise self._cut_off(offset + len(data))  # a write would make the file longer
            written = os.pwrite(self._file.fd, data, at)
        except OSError as error:
            raise self._failed("written", error) from None
        if written != len(data):
            raise self._cut_off(offset + len(data))

    def _failed(self, what: str, error: OSError) -> RpcError:
        return RpcError(
            Status.INTERNAL,
            f"shared memory region '{self.name}' cannot be {what}: {error.strerror}",
        )

    def _cut_off(self, needed: int) -> RpcError:
        return RpcError(
            Status.INVALID_ARGUMENT,
            f"shared memory region '{self.name}' was registered with {self.byte_size} bytes, but "
            f"its shared memory '{self.key}' does not reach byte {needed} of it any more; it was "
            "truncated after it was registered",
        )


class Regions:
    """The regions that clients have registered.

    Args:
        folder: Where shared memory has its files.
        most_files: Bound on different keys, each of which takes a file descriptor;
            by default half of what the process may have.
    """

    def __init__(self, folder: str = FOLDER, most_files: int | None = None) -> None:
        self._folder = folder
        self._regions: dict[str, Region] = {}
        self._files: WeakValueDictionary[tuple[int, int], _File] = WeakValueDictionary()
        if most_files is None:
            most_files = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._most_files = most_files

    def __repr__(self) -> str:
        return f"<Regions {len(self._regions)}>"

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Make a part of a shared memory known by a name.

        Raises:
            RpcError: The name is taken, the key leads nowhere, or the part is not inside.
        """
        if name in self._regions:
            raise RpcError(
                Status.ALREADY_EXISTS, f"shared memory region '{name}' already in manager"
            )
        if not name:
            raise RpcError(
                Status.INVALID_ARGUMENT, "a shared memory region must have a name that is not empty"
            )
        file = self._open(name, key)
        found = os.fstat(file.fd).st_size
        if byte_size < 1 or offset < 0 or offset + byte_size > found:
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"failed to register shared memory region '{name}': invalid args: offset {offset} "
                f"and byte size {byte_size} do not fit '{key}', which has {found} bytes",
            )
        self._regions[name] = Region(name, key, offset, byte_size, file)

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all of them for ""; one that is not known is no error.

        (Triton's clients begin by giving back what an earlier run may have left.)
        """
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = "") -> list[Region]:
        """Return one region, or all of them for "".

        Raises:
            RpcError: It is not registered.
        """
        if not name:
            return list(self._regions.values())
        region = self._regions.get(name)
        if region is None:
            raise RpcError(
                Status.NOT_FOUND, f"Unable to find system shared memory region: '{name}'"
            )
        return [region]

    def find(self, name: str) -> Region:
        """Return a region that a tensor names.

        Raises:
            RpcError: It is not registered.
        """
        region = self._regions.get(name)
        if region is None:
            raise RpcError(Status.NOT_FOUND, f"Unable to find shared memory region: '{name}'")
        return region

    # -- opening ----------------------------------------------------------------------------

    def _open(self, name: str, key: str) -> _File:
        """Open the file of a key, or share it with the region that has it open."""
        opened = _File(_open_checked(self._folder, name, key))
        found = os.fstat(opened.fd)
        file = self._files.get((found.st_dev, found.st_ino))
        full = len(self._files) >= self._most_files and file is None
        if full or len(self._regions) >= _MOST_NAMES:
            raise RpcError(
                Status.RESOURCE_EXHAUSTED,
                f"cannot register shared memory region '{name}': {len(self._regions)} regions are "
                "registered, which is all that this server can hold; unregister some",
            )
        if file is None:
            file = self._files[found.st_dev, found.st_ino] = opened
        return file


def _open_checked(folder: str, name: str, key: str) -> int:
    plain = key.removeprefix("/")
    if not plain or "/" in plain or "\0" in plain or plain in (".", ".."):
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"cannot register shared memory region '{name}': the key must be '/' and a name "
            "without further '/', as for shm_open()",
        )
    if plain.startswith(RESERVED):
        prefix = next(prefix for prefix in RESERVED if plain.startswith(prefix))
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"cannot register shared memory region '{name}' with key '{key[:80]}' as the key "
            f"contains the reserved prefix '{prefix}'",
        )
    unable = f"Unable to open shared memory region: '{key[:80]}'"
    try:
        # Not blocked by a pipe of that name, and not led elsewhere by a link.
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(Path(folder, plain), flags)
    except (OSError, UnicodeEncodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RpcError(Status.INTERNAL, f"{unable}: {why}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RpcError(Status.INTERNAL, f"{unable}: it is no shared memory")
    return fd


# -- where a tensor lies ------------------------------------------------------------------


class Place(NamedTuple):
    """Where a request says that a tensor lies, or shall lie.

    Attributes:
        region: Name of a registered region.
        offset: Where in the region it begins.
        byte_size: Room for it; for inputs, its length.
    """

    region: str
    offset: int
    byte_size: int


def place_of(tensor: str, parameters: dict[str, object]) -> Place | None:
    """Read where a tensor lies from its parameters; ``None`` = not in shared memory.

    Raises:
        RpcError: The parameters contradict themselves.
    """
    region = parameters.get("shared_memory_region")
    offset = parameters.get("shared_memory_offset", 0)
    byte_size = parameters.get("shared_memory_byte_size")
    if region is None:
        for key in ("shared_memory_offset", "shared_memory_byte_size"):
            if key in parameters:
                raise RpcError(
                    Status.INVALID_ARGUMENT,
                    f"'{key}' can not be specified without 'shared_memory_region' parameter for "
                    f"tensor '{tensor}'",
                )
        return None
    if not isinstance(region, str):
        raise _wrong_type("shared_memory_region", tensor, "string_param")
    if byte_size is None:
        raise RpcError(
            Status.INVALID_ARGUMENT,
            "'shared_memory_byte_size' must be specified along with 'shared_memory_region' "
            f"parameter for tensor '{tensor}'",
        )
    return Place(
        region,
        _bytes("shared_memory_offset", offset, tensor),
        _bytes("shared_memory_byte_size", byte_size, tensor),
    )


def _bytes(key: str, value: object, tensor: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(key, tensor, "int64_param")
    if not 0 <= value <= _INT64_MAX:
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"invalid value for '{key}' parameter for tensor '{tensor}': expected 0 or more, "
            f"got {value}",
        )
    return value


def _wrong_type(key: str, tensor: str, expected: str) -> RpcError:
    return RpcError(
        Status.INVALID_ARGUMENT,
        f"invalid value type for '{key}' parameter for tensor '{tensor}', expected {expected}.",
    )
