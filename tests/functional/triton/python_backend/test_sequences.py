"""Models that keep sums as Triton's users do, through the engine: right, isolated, and kept."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from legato.core.errors import BacklogTimeoutError, ServerError, UnknownSequenceError
from legato.core.types import EndReason, SequenceKey
from legato.engine.manage import Manager
from legato.stores.registry import open_store
from triton_python_kit import Bench, number, until

ADDERS = ["adder_by_id", "adder_by_text", "adder_by_slot", "adder_alone", "adder_hidden"]


@pytest.mark.parametrize("model", ADDERS)
async def test_interleaved_sequences_have_their_own_sums(bench, model: str) -> None:
    """Eight at once, more than some have slots, over several rounds."""
    await bench.load(model)
    ids = [f"s{n}" if model == "adder_by_text" else n + 1 for n in range(8)]
    first = await bench.add(model, ids[0], 1, start=True)  # what is kept where is known by then

    starts = await asyncio.gather(*[bench.add(model, i, n, start=True) for n, i in enumerate(ids)])
    rounds = [
        await asyncio.gather(*[bench.add(model, i, n * turn) for n, i in enumerate(ids)])
        for turn in (10, 100)
    ]
    last = await asyncio.gather(*[bench.add(model, i, n, end=True) for n, i in enumerate(ids)])

    assert first == 1
    assert starts == list(range(8))
    assert rounds == [[n * 11 for n in range(8)], [n * 111 for n in range(8)]]
    assert last == [n * 112 for n in range(8)]


@pytest.mark.parametrize("model", ADDERS[:4])
async def test_sequences_outlive_their_worker(bench, model: str) -> None:
    """A killed worker comes back, and the sums go on: nothing was changed in the models."""
    await bench.load(model)
    ids = ["a", "b"] if model == "adder_by_text" else [1, 2]
    for at, one in enumerate(ids):
        await bench.add(model, one, at + 1, start=True)
        await bench.add(model, one, 10)
    (pid,) = bench.pids(model)

    os.kill(pid, signal.SIGKILL)
    sums = await asyncio.gather(*[bench.add(model, one, 100) for one in ids])

    assert sums == [111, 112]
    assert bench.pids(model) != [pid]


async def test_state_that_only_memory_holds_ends_by_name_with_its_worker(bench) -> None:
    """Generators cannot be stored: the next step is told so, instead of going on from nothing."""
    handle = await bench.load("adder_hidden")
    await bench.add("adder_hidden", 1, 1, start=True)
    await bench.add("adder_hidden", 1, 2)
    (pid,) = bench.pids("adder_hidden")

    os.kill(pid, signal.SIGKILL)
    error = await bench.fails("adder_hidden", 1, 3)
    again = await bench.fails("adder_hidden", 1, 3)

    for outcome in (error, again):
        assert isinstance(outcome, UnknownSequenceError)
        assert (outcome.ending.reason, outcome.ending.step) == (EndReason.LOST, 2)
    assert handle.statistics.ended["lost"] == 1
    assert await bench.add("adder_hidden", 1, 5, start=True) == 5


@pytest.mark.parametrize("model", ["adder_by_id", "adder_by_slot"])
async def test_exception_fails_one_row_and_takes_back_what_it_did(bench, model: str) -> None:
    """The neighbours of the same call are answered once each; the failed one is as it was."""
    handle = await bench.load(model)
    ids = [1, 2, 3]
    for one in ids:
        await bench.add(model, one, one, start=True)
    values = [10, 666, 30]

    sent = [bench.send(model, one, INPUT=_row(v)) for one, v in zip(ids, values, strict=True)]
    outcomes = await asyncio.wait_for(asyncio.gather(*sent), 60)

    assert isinstance(outcomes[1], ServerError)
    assert outcomes[1].message.startswith(
        f"Failed to process the request(s) for model '{model}_0_0', message: RuntimeError: boom"
    )
    assert "1/model.py(" in outcomes[1].message
    assert handle.statistics.retried_rows == 3
    assert [await bench.add(model, one, 0) for one in ids] == [11, 2, 33]


async def test_rows_that_cannot_be_taken_back_never_share_a_call(bench) -> None:
    """Where a second try would apply a step twice, an exception is the failing row's alone."""
    handle = await bench.load("adder_hidden")
    ids = [1, 2, 3]
    for one in ids:
        await bench.add("adder_hidden", one, one, start=True)

    sent = [
        bench.send("adder_hidden", one, INPUT=_row(v))
        for one, v in zip(ids, [10, 666, 30], strict=True)
    ]
    outcomes = await asyncio.wait_for(asyncio.gather(*sent), 60)

    assert isinstance(outcomes[1], ServerError)
    assert handle.statistics.retried_rows == 0
    assert [await bench.add("adder_hidden", one, 0) for one in ids] == [11, 2, 33]


async def test_start_that_fails_leaves_nothing_to_run_on(bench) -> None:
    """After it the id has no sequence: not the new one, and not an older one's sum."""
    await bench.load("adder_by_id")
    await bench.add("adder_by_id", 7, 5, start=True)
    await bench.add("adder_by_id", 7, 5, end=True)

    failed = await bench.fails("adder_by_id", 7, 666, start=True)
    after = await bench.fails("adder_by_id", 7, 1)

    assert "boom" in failed.message
    assert isinstance(after, UnknownSequenceError)
    assert await bench.add("adder_by_id", 7, 1, start=True) == 1


async def test_restart_that_fails_leaves_the_old_sequence_as_it_was(bench) -> None:
    """A START of a live id that fails did not happen, though the model had reset its sum."""
    await bench.load("adder_by_id")
    await bench.add("adder_by_id", 7, 5, start=True)

    await bench.fails("adder_by_id", 7, 666, start=True)

    assert await bench.add("adder_by_id", 7, 1) == 6


@pytest.mark.parametrize("model", ["adder_by_id", "adder_hidden"])
async def test_restart_of_a_live_sequence_keeps_the_new_one(bench, model: str) -> None:
    """That the old one is displaced is told after the new one's first step, and hurts nothing."""
    await bench.load(model)
    await bench.add(model, 7, 5, start=True)

    again = await bench.add(model, 7, 1, start=True)

    assert [again, await bench.add(model, 7, 1), await bench.add(model, 7, 1)] == [1, 2, 3]


async def test_sequences_move_between_workers(bench) -> None:
    """With two instances any of them takes any step, and memory follows."""
    await bench.load("adder_by_id", instances=2)
    totals = dict.fromkeys(range(1, 9), 0)
    await asyncio.gather(*[bench.add("adder_by_id", one, 0, start=True) for one in totals])

    for turn in range(1, 6):
        sums = await asyncio.gather(*[bench.add("adder_by_id", i, i * turn) for i in totals])
        for one in totals:
            totals[one] += one * turn
        assert sums == list(totals.values())


async def test_hidden_state_keeps_its_sequences_with_their_worker(bench) -> None:
    """With two instances each step goes where the memory is."""
    await bench.load("adder_hidden", instances=2)
    ids = range(1, 7)
    await asyncio.gather(*[bench.add("adder_hidden", one, one, start=True) for one in ids])

    for turn in range(1, 5):
        sums = await asyncio.gather(*[bench.add("adder_hidden", one, 10) for one in ids])
        assert sums == [one + 10 * turn for one in ids]


async def test_sequences_wait_for_a_slot_where_slots_matter(bench) -> None:
    """Sums of nothing give nothing to be found, so each keeps its slot; the fifth one waits."""
    await bench.load("adder_by_slot")
    for one in range(1, 5):
        await bench.add("adder_by_slot", one, 0, start=True)

    fifth = bench.send("adder_by_slot", 5, INPUT=_row(7), start=True)
    sixth = await bench.outcome("adder_by_slot", 6, INPUT=_row(7), start=True, queue_timeout_s=0.2)
    waiting = not fifth.done()
    await bench.add("adder_by_slot", 2, 0, end=True)
    reply = await asyncio.wait_for(fifth, 60)

    assert waiting
    assert isinstance(sixth, BacklogTimeoutError)
    assert number(reply) == 7


async def test_sums_survive_the_server(tmp_path) -> None:
    """A store on disk brings them back into another server's worker."""
    clock = __import__("time").time
    first = Bench(open_store("log", tmp_path, level="process", clock=clock))
    await first.load("adder_by_slot")
    await first.add("adder_by_slot", 3, 4, start=True)
    await first.add("adder_by_slot", 3, 4)
    await first.engine.close()

    second = Bench(open_store("log", tmp_path, level="process", clock=clock))
    await second.load("adder_by_slot")
    total = await second.add("adder_by_slot", 3, 4)
    await second.engine.close()

    assert total == 12


async def test_ended_sequences_leave_nothing_in_memory(bench) -> None:
    """A model that never deletes is freed of what it kept, when the server ends a sequence."""
    await bench.load("adder_by_text")
    for at in range(50):
        await bench.add("adder_by_text", f"gone{at}", 1, start=True, end=at % 2 == 0)
    engine = bench.engine

    await until(lambda: not any(i.runtime.untold for i in engine.model("adder_by_text").instances))

    assert await bench.add("adder_by_text", "gone0", 2, start=True) == 2
    assert await bench.add("adder_by_text", "gone1", 2) == 3


def _row(value: int):
    import numpy as np

    return np.array([[value]], np.int32)


@pytest.mark.parametrize("model", ["adder_by_id", "adder_by_slot"])
async def test_fork_goes_on_from_its_source_s_sum(bench, model: str) -> None:
    """Under its own id, and apart from then on."""
    await bench.load(model)
    await bench.add(model, 1, 5, start=True)
    await bench.add(model, 1, 5)

    await Manager(bench.engine).fork(SequenceKey(model, 1), 2)

    assert [await bench.add(model, 2, 1), await bench.add(model, 1, 100)] == [11, 110]
    assert [await bench.add(model, 2, 1), await bench.add(model, 1, 100)] == [12, 210]


async def test_rollback_of_bound_state_is_told_to_be_lost(bench) -> None:
    """Memory is ahead of the snapshot, and cannot go back: it must not run on."""
    await bench.load("adder_hidden")
    manager = Manager(bench.engine)
    key = SequenceKey("adder_hidden", 1)
    await bench.add("adder_hidden", 1, 5, start=True)
    await manager.snapshot(key, "early")
    await bench.add("adder_hidden", 1, 5)

    await manager.rollback(key, "early")
    error = await bench.fails("adder_hidden", 1, 5)

    assert isinstance(error, UnknownSequenceError)
    assert error.ending.reason is EndReason.LOST
