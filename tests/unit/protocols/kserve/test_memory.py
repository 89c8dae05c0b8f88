"""Regions of shared memory: what may be registered, and that no client can hurt the server."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from legato.protocols.kserve.memory import Regions
from legato.protocols.rpc.service import RpcError, Status


@pytest.fixture
def folder(tmp_path):
    """Stands in for /dev/shm; ``mine`` has the bytes 0 to 99."""
    (tmp_path / "mine").write_bytes(bytes(range(100)))
    return tmp_path


@pytest.fixture
def regions(folder):
    return Regions(str(folder))


def refused(run, *arguments) -> RpcError:
    with pytest.raises(RpcError) as caught:
        run(*arguments)
    return caught.value


@pytest.mark.parametrize("key", ["/mine", "mine"])
def test_a_region_is_a_window_of_the_file(regions, folder, key) -> None:
    """Offsets of tensors count from its beginning, and nothing beside it is touched."""
    regions.register("r", key, 10, 20)

    region = regions.find("r")
    region.write(4, b"abc")

    assert region.read(0, 4) == bytes([10, 11, 12, 13])
    assert (folder / "mine").read_bytes() == bytes(range(14)) + b"abc" + bytes(range(17, 100))


def test_status_lists_what_is_registered(regions) -> None:
    """One by its name, or all."""
    regions.register("a", "/mine", 0, 10)
    regions.register("b", "/mine", 10, 20)

    assert [(r.name, r.key, r.offset, r.byte_size) for r in regions.status()] == [
        ("a", "/mine", 0, 10),
        ("b", "/mine", 10, 20),
    ]
    assert [r.name for r in regions.status("b")] == ["b"]
    error = refused(regions.status, "c")
    assert error.status is Status.NOT_FOUND
    assert error.message == "Unable to find system shared memory region: 'c'"


def test_a_name_is_registered_once(regions) -> None:
    """The first one stays."""
    regions.register("r", "/mine", 0, 10)

    error = refused(regions.register, "r", "/mine", 0, 20)

    assert error.status is Status.ALREADY_EXISTS
    assert error.message == "shared memory region 'r' already in manager"
    assert regions.find("r").byte_size == 10


def test_unregistered_regions_are_gone(regions) -> None:
    """One, or all; what is not there is no error, and the name is free again."""
    for name in ("a", "b", "c"):
        regions.register(name, "/mine", 0, 10)

    regions.unregister("a")
    regions.unregister("a")
    left = [region.name for region in regions.status()]
    regions.unregister()

    assert left == ["b", "c"]
    assert regions.status() == []
    regions.register("a", "/mine", 0, 10)


@pytest.mark.parametrize(
    ("key", "status", "text"),
    [
        ("", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("/", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("/../mine", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("..", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("/a/b", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("//etc", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("/a\0b", Status.INVALID_ARGUMENT, "the key must be '/' and a name"),
        ("/envoy_shared_memory_7", Status.INVALID_ARGUMENT, "contains the reserved prefix"),
        ("/triton_python_backend_shm_region_1", Status.INVALID_ARGUMENT, "reserved prefix"),
        ("/sem.lock", Status.INVALID_ARGUMENT, "contains the reserved prefix 'sem.'"),
        ("/nobody", Status.INTERNAL, "Unable to open shared memory region: '/nobody': No such"),
        ("/" + "x" * 300, Status.INTERNAL, "File name too long"),
        ("/link", Status.INTERNAL, "Unable to open shared memory region: '/link'"),
        ("/folder", Status.INTERNAL, "Unable to open shared memory region: '/folder'"),
        ("/pipe", Status.INTERNAL, "it is no shared memory"),
    ],
)
def test_keys_that_lead_elsewhere_are_refused(regions, folder, key, status, text) -> None:
    """No path, no link, no pipe, nothing of other programs."""
    (folder / "link").symlink_to(folder / "mine")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")

    error = refused(regions.register, "r", key, 0, 1)

    assert error.status is status
    assert text in error.message
    assert regions.status() == []


@pytest.mark.parametrize(("offset", "size"), [(0, 101), (50, 51), (100, 1), (0, 0), (2**63, 1)])
def test_a_region_lies_within_its_file(regions, offset, size) -> None:
    """Triton's words, and how long the file is."""
    error = refused(regions.register, "r", "/mine", offset, size)

    assert error.status is Status.INVALID_ARGUMENT
    assert "failed to register shared memory region 'r': invalid args" in error.message
    assert "which has 100 bytes" in error.message


def test_a_region_needs_a_name(regions) -> None:
    """The empty name means all of them."""
    assert refused(regions.register, "", "/mine", 0, 1).status is Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [
        (20, 0, "Invalid offset for shared memory region: 'r'"),
        (-1, 4, "Invalid offset for shared memory region: 'r'"),
        (0, 21, "Invalid offset + byte size for shared memory region: 'r'"),
        (19, 2, "Invalid offset + byte size for shared memory region: 'r'"),
        (0, -1, "Invalid offset + byte size for shared memory region: 'r'"),
    ],
)
def test_nothing_outside_a_region_can_be_read_or_written(regions, offset, size, text) -> None:
    """Although the file is longer."""
    regions.register("r", "/mine", 0, 20)
    region = regions.find("r")

    assert text in refused(region.read, offset, size).message
    if size > 0:
        assert text in refused(region.write, offset, bytes(size)).message


def test_a_file_that_was_cut_off_is_an_error_and_no_crash(regions, folder) -> None:
    """The server lives, and does not make the file longer again."""
    regions.register("r", "/mine", 0, 100)
    region = regions.find("r")
    os.truncate(folder / "mine", 10)

    assert "was truncated" in refused(region.read, 8, 4).message
    assert "was truncated" in refused(region.write, 8, b"abcd").message
    assert (folder / "mine").stat().st_size == 10
    assert region.read(0, 10) == bytes(range(10))


def test_a_region_in_use_outlives_its_name(regions, folder) -> None:
    """A step that is under way finds its place although the client has tidied up."""
    regions.register("r", "/mine", 0, 10)
    region = regions.find("r")

    regions.unregister("r")
    (folder / "mine").unlink()
    region.write(0, b"x")

    assert region.read(0, 1) == b"x"
    assert "Unable to find shared memory region: 'r'" in refused(regions.find, "r").message


def test_regions_of_one_file_share_its_descriptor(folder) -> None:
    """Only files are counted against the limit, and freed ones are no longer counted."""
    regions = Regions(str(folder), most_files=1)
    (folder / "other").write_bytes(bytes(10))
    for index in range(50):
        regions.register(f"r{index}", "/mine", index, 1)

    error = refused(regions.register, "x", "/other", 0, 1)
    regions.unregister()
    regions.register("x", "/other", 0, 1)

    assert error.status is Status.RESOURCE_EXHAUSTED


def test_descriptors_are_closed_with_the_last_region(folder) -> None:
    """Registering and unregistering for ever leaks none."""
    regions = Regions(str(folder))

    for _round in range(20):
        regions.register("r", "/mine", 0, 1)
        held = opened(folder)
        regions.unregister("r")

    assert held == 1
    assert opened(folder) == 0


def opened(folder) -> int:
    """Count this process's descriptors of files in a folder; others may come and go."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found += str(path.readlink()).startswith(str(folder))
    return found
