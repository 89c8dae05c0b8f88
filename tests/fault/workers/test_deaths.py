"""Workers that are killed, crash, hang or never start: sequences lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from legato.core.errors import ConfigError
from legato.core.types import Reply
from legato.engine.workers import NoWorkerError, WorkerDiedError
from legato.stores.registry import open_store
from torchserve_kit import Bench, lives, until


async def test_killed_idle_worker_is_replaced(bench, archives) -> None:
    """It is noticed without a request, and health is told as it is meanwhile."""
    handle = await bench.load(archives("stateful_handler"))
    await bench.total("a", 5)
    (old,) = bench.pids()

    os.kill(old, signal.SIGKILL)
    await until(lambda: not handle.ready)
    await until(lambda: handle.ready)

    assert await bench.total("a", 1) == 6
    assert bench.pids() != [old]
    assert handle.workers()[0].restarts == 1


async def test_worker_killed_mid_load_costs_no_sum(bench, archives) -> None:
    """Workers die again and again, also all at once, under sixteen sequences."""
    await bench.load(archives("stateful_handler", minWorkers=2, maxWorkers=2))
    rounds = 25

    async def play(sequence: str) -> list[int]:
        return [await bench.total(sequence, 1) for _ in range(rounds)]

    players = [asyncio.ensure_future(play(f"s{n}")) for n in range(16)]
    for kill in range(4):
        await until(lambda: len(bench.pids()) == 2)
        for pid in bench.pids()[: 1 + kill % 2]:
            os.kill(pid, signal.SIGKILL)
    sums = await asyncio.gather(*players)

    assert sums == [list(range(1, rounds + 1))] * 16


async def test_step_that_kills_its_worker_is_found_and_fails_alone(bench, archives) -> None:
    """Neighbours of its batch are answered; the sequence itself goes on."""
    handle = await bench.load(archives("odd_handler"))
    names = "abcd"
    await asyncio.gather(*[bench.facts(name, "x") for name in names])

    outcomes = await asyncio.gather(
        *[bench.send(name, "die" if name == "c" else "x") for name in names]
    )
    after = await asyncio.gather(*[bench.facts(name, "x") for name in names])

    assert [isinstance(one, Reply) for one in outcomes] == [True, True, False, True]
    assert isinstance(outcomes[2], WorkerDiedError)
    assert [fact["count"] for fact in after] == [3, 3, 2, 3]
    assert handle.workers()[0].restarts == 2


async def test_hanging_handler_is_killed_and_answered(bench, archives) -> None:
    """responseTimeout: an error to the one, a new worker for the others."""
    await bench.load(archives("odd_handler", responseTimeout=1))
    await bench.facts("a", "x")
    (old,) = bench.pids()

    error = await bench.fails("a", "sleep 30")

    assert isinstance(error, WorkerDiedError)
    assert "1 s" in error.message
    assert (await bench.facts("a", "x"))["count"] == 2
    assert not lives(old)


async def test_step_that_answered_in_part_is_not_run_again(bench, archives) -> None:
    """A client never gets the same part twice."""
    await bench.load(archives("odd_handler"))
    parts = []

    def kill(body, _meta):
        parts.append(body)
        for pid in bench.pids():
            os.kill(pid, signal.SIGKILL)

    first = bench.send("a", "parts", partial=kill)
    outcome = await asyncio.wait_for(first, 30)

    # Death may come after the answer was sent already; never are there two parts.
    assert len(parts) == 1
    assert isinstance(outcome, WorkerDiedError | Reply)
    await bench.facts("a", "x")


async def test_state_that_cannot_be_stored_stays_with_its_worker(bench, archives) -> None:
    """While that worker lives, its sequences are not moved."""
    await bench.load(archives("odd_handler", minWorkers=2, maxWorkers=2, batchSize=1))
    names = [f"s{n}" for n in range(6)]
    homes = {name: (await bench.facts(name, "odd"))["pid"] for name in names}

    for _ in range(5):
        facts = await asyncio.gather(*[bench.facts(name, "x") for name in names])
        assert {name: fact["pid"] for name, fact in zip(names, facts, strict=True)} == homes
        assert all(fact["kept"] for fact in facts)


async def test_sequence_of_a_dead_worker_goes_on_without_what_could_not_be_stored(
    bench, archives
) -> None:
    """The rest of its state is there."""
    await bench.load(archives("odd_handler"))
    await bench.facts("a", "odd")

    os.kill(bench.pids()[0], signal.SIGKILL)
    facts = await bench.facts("a", "x")

    assert facts["count"] == 2
    assert not facts["kept"]


@pytest.mark.parametrize("kind", ["log", "sqlite"])
async def test_sums_go_on_after_a_restart_of_the_server(tmp_path, archives, kind: str) -> None:
    """The store has what a handler keeps in its LRU."""
    archive = archives("stateful_handler")
    for turn in range(1, 3):
        bench = Bench(open_store(kind, tmp_path / kind, level="process", clock=time.time))
        await bench.load(archive)
        sums = await asyncio.gather(*[bench.total(f"s{n}", n) for n in range(8)])
        await bench.engine.close()

        assert sums == [n * turn for n in range(8)]


async def test_worker_that_cannot_start_again_is_told(bench, archives, tmp_path) -> None:
    """Steps are refused at once with the reason, and a later start is found."""
    archive = archives("stateful_handler", "no-archive")
    handle = await bench.load(archive)
    source = handle.config.folder / "stateful_handler.py"
    text = source.read_text()
    source.write_text("raise RuntimeError('broken meanwhile')\n")
    try:
        os.kill(bench.pids()[0], signal.SIGKILL)
        error = await bench.fails("a", 1)
    finally:
        source.write_text(text)
    await until(lambda: handle.ready)

    assert isinstance(error, NoWorkerError)
    assert "broken meanwhile" in error.message
    assert await bench.total("a", 1) == 1


async def test_start_has_a_time_limit(bench, tmp_path) -> None:
    """startupTimeout, and no process is left."""
    folder = tmp_path / "slow"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "slow.py").write_text("import time\ntime.sleep(60)\n")
    (folder / "MAR-INF" / "MANIFEST.json").write_text(
        '{"model": {"handler": "slow.py", "configFile": "c.yaml"}}'
    )
    (folder / "c.yaml").write_text("startupTimeout: 1\n")

    with pytest.raises(ConfigError, match="not ready within 1 s"):
        await bench.load(folder)


async def test_unload_ends_a_start_under_way(bench, archives) -> None:
    """Nothing waits for a worker that nobody wants any more."""
    handle = await bench.load(archives("stateful_handler"))
    os.kill(bench.pids()[0], signal.SIGKILL)
    await until(lambda: bool(handle.down) or not handle.ready)

    await asyncio.wait_for(bench.engine.unload("m"), 20)

    assert bench.engine.models() == []
