"""The machine loses power: what was not flushed is gone, whatever the page cache held.

A file system of its own in a loop-mounted file is shut down without flushing its journal,
which is what a reset does to it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from tests.fault.server.conftest import kill_all, serving_pid
from tests.fault.server.fleet import MODEL, Fleet, ask
from tests.models.chain import replay

from legato.core.types import SequenceKey
from legato.stores.base import Missing
from legato.stores.registry import open_store

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_JOURNAL_FLUSH = struct.pack("I", 2)
SIZE = 96 * 1024 * 1024
CLIENTS = 32


class Disk:
    """An ext4 file system that can lose power."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self._image = folder / "image"
        self.folder.mkdir()
        with self._image.open("wb") as file:
            file.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self._image)], check=True)

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.folder)], check=True)

    def lose_power(self) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, _EXT4_IOC_SHUTDOWN, _NO_JOURNAL_FLUSH)
        finally:
            os.close(handle)

    def unmount(self) -> None:
        until = time.monotonic() + 10
        while subprocess.run(["umount", str(self.folder)], check=False).returncode:
            if time.monotonic() > until:
                subprocess.run(["umount", "-l", str(self.folder)], check=False)
                return
            time.sleep(0.1)


@pytest.fixture
def disk(tmp_path):
    """A mounted disk that can lose power."""
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("a loss of power can be simulated by root only, with mkfs.ext4")
    made = Disk(tmp_path)
    try:
        made.mount()
    except subprocess.CalledProcessError:
        pytest.skip("a loss of power needs a loop device, and there is none to be had")
    yield made
    made.unmount()


def stop_at_once(served) -> None:
    """Stop the process where it is, so that no flush runs on into the loss of power.

    A real one ends the machine with it; here the kernel goes on, and what it says to a
    flush that was under way when its file system was shut down is not to be relied upon.
    """
    pid = serving_pid(served)
    os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    while any(state(task) not in "tTZ" for task in Path(f"/proc/{pid}/task").iterdir()):
        assert time.monotonic() < until, "it does not stop"
        time.sleep(0.001)


def state(task: Path) -> str:
    """Return the letter for what a thread does."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


async def run_until_power_fails(served, disk: Disk, fleet: Fleet) -> None:
    """Pull the plug under load, and take the remains to where they can be read."""
    await fleet.more(40 * CLIENTS)
    await asyncio.sleep(0.35)
    await asyncio.to_thread(stop_at_once, served)
    disk.lose_power()
    kill_all(served)
    disk.unmount()
    disk.mount()


@pytest.mark.parametrize("store", ["log", "sqlite"])
async def test_at_level_disk_nothing_acknowledged_is_lost(chain, disk, store: str) -> None:
    """The clients go on after the power has come back, as if it had been a pause."""
    data = disk.folder / "data"
    served = chain(data=data, store=store, durability="disk")

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await run_until_power_fails(served, disk, fleet)
        again = chain(data=data, store=store, durability="disk", port=served.port, ready=False)
        await asyncio.to_thread(again.await_ready)
        await fleet.more(10 * CLIENTS)
        await fleet.finish()
    assert again.stop() == 0

    assert set(fleet.seen.levels) == {"disk"}
    fleet.compare(data, store)


@pytest.mark.parametrize("store", ["log", "sqlite"])
async def test_at_level_process_a_clean_prefix_is_left(chain, disk, store: str, report) -> None:
    """At most a tail is lost, each chain is whole up to there, and whoever lost one is told."""
    data = disk.folder / "data"
    served = chain(data=data, store=store)

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await run_until_power_fails(served, disk, fleet)
    kept = {}
    found = open_store(store, data, level="process", clock=time.time)
    for client in fleet.clients:
        record = found.read(SequenceKey(MODEL, client.sequence))
        if isinstance(record, Missing):
            kept[client] = 0
            continue
        head, state = record
        kept[client] = head.step
        assert state.data == (replay(client.sequence, head.step),), client.sequence
    found.close()
    again = chain(data=data, store=store)
    answers = {client: ask(again.address, client) for client in kept if kept[client] < client.step}
    again.stop()

    lost = fleet.seen.acknowledged - sum(kept.values())
    report(f"{store}/process: a loss of power cost {lost} of {fleet.seen}")
    assert sum(kept.values()) > fleet.seen.acknowledged / 4
    assert set(answers.values()) <= {"data_loss DATA_LOSS"}
