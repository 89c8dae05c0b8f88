"""The disk is full, and later it is not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess

import pytest
from tests.fault.server.conftest import strike
from tests.fault.server.fleet import Fleet
from tests.fault.server.watch import get, metric, until

SIZE = 24 * 1024 * 1024


def writable(served) -> bool:
    """Return what the metrics say of the store."""
    return metric(served, "legato_store_writable") == 1.0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder) -> None:
    """Take all the room that is left."""
    with (folder / "ballast").open("ab", buffering=0) as file:
        for piece in (1024 * 1024, 4096):
            try:
                while file.write(bytes(piece)):
                    pass
            except OSError:
                continue


@pytest.mark.parametrize("store", ["log", "sqlite"])
async def test_a_full_disk_refuses_steps_until_there_is_room(chain, small_disk, store: str) -> None:
    """It is told to clients, monitors and people; nothing acknowledged is lost."""
    data = small_disk / "data"
    served = chain(data=data, store=store)

    async with Fleet(served.address, range(1, 33)) as fleet:
        await fleet.more(500)
        fill(small_disk)
        await fleet.until(lambda: fleet.seen.reasons["storage_full"])
        await until(lambda: not writable(served))
        assert get(f"{served.url}/v2/health/live")[0] == 200
        assert get(f"{served.url}/v2/health/ready")[0] != 200
        status, text = get(f"{served.url}/health")
        assert (status, '"writable":false' in text) == (503, True)
        await until(lambda: "store_not_writable" in served.errors)

        (small_disk / "ballast").unlink()

        await fleet.more(500)
        await fleet.finish()
        await until(lambda: writable(served))
        assert get(f"{served.url}/v2/health/ready")[0] == 200
        await until(lambda: "store_writable_again" in served.errors)
    assert served.stop() == 0

    assert len(served.lines) == 1
    assert set(fleet.seen.reasons) == {"storage_full"}
    fleet.compare(data, store)


async def test_a_store_recovers_by_itself_though_nobody_sends(chain, small_disk) -> None:
    """While it is not ready no balancer sends steps: it must find out without them."""
    served = chain(data=small_disk / "data")
    async with Fleet(served.address, range(1, 9)) as fleet:
        await fleet.more(100)
        fill(small_disk)
        taken = -1
        while fleet.seen.acknowledged != taken:  # single steps still fit into the last page
            taken = fleet.seen.acknowledged
            await asyncio.sleep(1.0)
    assert get(f"{served.url}/v2/health/ready")[0] != 200

    (small_disk / "ballast").unlink()

    await until(lambda: get(f"{served.url}/v2/health/ready")[0] == 200)


async def test_a_process_killed_on_a_full_disk_comes_up_again(chain, small_disk) -> None:
    """Recovery needs no room that it cannot do without."""
    data = small_disk / "data"
    served = chain(data=data)
    async with Fleet(served.address, range(1, 33)) as fleet:
        await fleet.more(500)
        fill(small_disk)
        await fleet.until(lambda: fleet.seen.reasons["storage_full"])
        strike(served, signal.SIGKILL)
        await fleet.until(lambda: len(served.lines) > 1)
        (small_disk / "ballast").unlink()
        await fleet.more(500)
        await fleet.finish()
    assert served.stop() == 0

    fleet.compare(data)


async def test_writes_that_fail_for_a_while_lose_nothing(chain, tmp_path) -> None:
    """The same without a small disk: forty commits in a row find no room."""
    faults = ",".join(f"commit.before_write:enospc:{at}" for at in range(20, 60))
    served = chain(faults=faults)

    async with Fleet(served.address, range(1, 33)) as fleet:
        await fleet.until(lambda: fleet.seen.reasons["storage_full"] >= 40)
        await fleet.more(500)
        await fleet.finish()
    assert served.stop() == 0

    assert set(fleet.seen.reasons) == {"storage_full"}
    fleet.compare(tmp_path / "data")
