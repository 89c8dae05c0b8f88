"""The process is killed, or a call fails, at each named point of a step's life.

An armed point counts its passages anew in every process, so one test kills at the same
point again and again while the clients get on a little further each time.
"""

from __future__ import annotations

import signal

import pytest
from tests.fault.server.conftest import KILLS, kill_all, strike
from tests.fault.server.fleet import Fleet
from tests.fault.server.watch import metric, until

CLIENTS = 32
DEATHS = 1 if KILLS <= 50 else 5

KILLED = [
    ("admit.after_dedupe", 400),
    ("acquire.before", 25),
    ("acquire.after", 25),
    ("page_in.before_read", 25),
    ("step.before_run", 40),
    ("step.after_run", 40),
    ("commit.before_write", 40),
    ("commit.mid_write", 40),
    ("commit.after_write", 40),
    ("commit.before_flush", 40),
    ("commit.after_flush", 40),
    ("commit.before_publish", 200),
    ("reply.before_send", 300),
    ("reply.after_send", 300),
]


def level_of(point: str) -> str:
    """Only at level disk does a commit flush."""
    return "disk" if point.endswith("_flush") else "process"


@pytest.mark.parametrize(("point", "passage"), KILLED, ids=str)
async def test_a_kill_at_a_point_loses_and_repeats_nothing(
    chain, tmp_path, point: str, passage: int
) -> None:
    """Before the commit the step did not happen, after it it happened once."""
    served = chain(faults=f"{point}:exit9:{passage}", durability=level_of(point))

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        if point == "page_in.before_read":  # nothing is read before the first restart
            await fleet.more(2 * CLIENTS)
            strike(served, signal.SIGKILL)
        await fleet.until(lambda: len(served.lines) > DEATHS)
        await fleet.finish()
    served.stop()

    assert served.errors.count("was killed by SIGKILL") >= DEATHS
    fleet.compare(tmp_path / "data")


@pytest.mark.parametrize(
    "point", ["compact.before_unlink", "ckpt.before_rename", "ckpt.after_rename"]
)
async def test_a_kill_while_the_log_makes_room_loses_nothing(chain, tmp_path, point: str) -> None:
    """Segments are emptied, checkpoints replaced; a death in between costs nothing."""
    served = chain(faults=f"{point}:exit9:3", segment_size="64K")
    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.until(lambda: len(served.lines) > DEATHS)
        await fleet.finish()
    served.stop()

    assert served.errors.count("was killed by SIGKILL") >= DEATHS
    fleet.compare(tmp_path / "data")


async def test_a_kill_between_a_copy_and_its_checkpoint_loses_nothing(chain, tmp_path) -> None:
    """Records of idle sequences are carried along; until that is complete both copies are there."""
    served = chain(segment_size="256K")
    async with Fleet(served.address, range(101, 161)) as idle:
        await idle.until(lambda: all(client.step for client in idle.clients))
        await idle.finish()
    async with Fleet(served.address, range(1, 5)) as fleet:
        await fleet.more(1000)
        await fleet.finish()
    kill_all(served)
    dying = chain(faults="compact.after_copy:exit9:1", segment_size="256K")
    async with Fleet(dying.address, range(201, 203)) as slow:
        await slow.more(1000)  # seals the file that the idle ones lie in by now
        await slow.finish()
    await until(lambda: len(dying.lines) > DEATHS)
    kill_all(dying)
    assert chain().stop() == 0

    assert dying.errors.count("was killed by SIGKILL") >= DEATHS
    for each in (idle, fleet, slow):
        each.compare(tmp_path / "data")


async def test_a_kill_in_the_middle_of_recovery_is_recovered_from(chain, tmp_path) -> None:
    """Reading the log changes nothing that a second reading needs."""
    served = chain()
    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.more(1000)
        await fleet.finish()
    kill_all(served)

    dying = chain(faults="recover.mid_scan:exit9:3", ready=False)
    assert dying.wait() == 1
    assert "was killed by SIGKILL while starting" in dying.errors
    chain().stop()

    fleet.compare(tmp_path / "data")


async def test_a_kill_while_sequences_expire_ends_them_later(chain, tmp_path) -> None:
    """What was due is ended by the next process; what was not is untouched."""
    served = chain(faults="expire.before_tombstone:exit9:1")
    async with Fleet(served.address, range(1, 5), sequence_idle_timeout_s=1) as brief:
        await brief.more(100)
        await brief.finish()
    async with Fleet(served.address, range(11, 15)) as lasting:
        await lasting.until(lambda: len(served.lines) > DEATHS)
        await lasting.finish()
    kill_all(served)
    after = chain()
    await until(lambda: ended(after) >= len(brief.clients))

    assert ended(after) == len(brief.clients)
    after.stop()

    assert "was killed by SIGKILL" in served.errors
    lasting.compare(tmp_path / "data")


def ended(served) -> float:
    """Return how many sequences the process has let expire."""
    return metric(served, "legato_sequences_ended_total", 'reason="expired"')


FAILING = {
    "storage_full": [
        ("commit.before_write", "enospc", 10),
        ("commit.mid_write", "short", 15),
        ("commit.after_write", "eio", 20),
    ],
    "": [("commit.before_write", "raise", 30), ("commit.after_write", "raise", 30)],
    "store_unavailable": [("acquire.before", "raise", 10), ("acquire.after", "raise", 20)],
    "model_failed": [("step.before_run", "raise", 10), ("step.after_run", "raise", 20)],
    "internal": [("admit.after_dedupe", "raise", 100)],
}


@pytest.mark.parametrize("reason", FAILING)
async def test_a_call_that_fails_at_a_point_is_told_and_tried_again(
    chain, tmp_path, reason: str
) -> None:
    """The step is refused and as if never sent, or the server finds out by itself."""
    faults = [
        f"{point}:{action}:{first + again}"
        for point, action, first in FAILING[reason]
        for again in (0, 50, 100)
    ]
    served = chain(faults=",".join(faults))

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        if reason:
            await fleet.until(lambda: fleet.seen.reasons[reason])
        await fleet.more(100 * CLIENTS)
        await fleet.finish()
    assert served.stop() == 0

    assert len(served.lines) == 1
    assert set(fleet.seen.reasons) == ({reason} if reason else set())
    fleet.compare(tmp_path / "data")


async def test_a_reply_that_is_lost_is_given_again(chain, tmp_path) -> None:
    """The client sends the step again and gets the first answer."""
    faults = ",".join(f"reply.before_send:drop:{at}" for at in range(40, 400, 20))
    served = chain(faults=faults)

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.more(40 * CLIENTS)
        await fleet.finish()
    served.stop()

    assert fleet.seen.replayed
    assert fleet.seen.breaks
    fleet.compare(tmp_path / "data")


async def test_a_flush_that_fails_ends_the_process(chain, tmp_path) -> None:
    """It is never tried again: the process ends, and recovery decides what survived."""
    served = chain(faults="commit.before_flush:eio:30", durability="disk")

    async with Fleet(served.address, range(1, CLIENTS + 1)) as fleet:
        await fleet.until(lambda: len(served.lines) > DEATHS)
        await fleet.finish()
    served.stop()

    assert served.errors.count("ended with code 70") >= DEATHS
    assert "store_cannot_be_trusted" in served.errors
    fleet.compare(tmp_path / "data")
