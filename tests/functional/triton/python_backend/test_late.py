"""Decoupled models answer when they like: their worker takes other calls meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal

import numpy as np

from legato.core.types import Reply
from legato.engine.workers import WorkerDiedError
from triton_python_kit import Parts, number, until


def repeat(bench, numbers, delay_ms: int, parts: Parts):
    return bench.send(
        "repeat_int32", None, IN=np.int32(numbers), DELAY=np.uint32([delay_ms] * len(numbers)),
        WAIT=np.uint32([0]), partial=parts,
    )  # fmt: skip


async def test_slow_request_holds_up_nobody(bench) -> None:
    """One worker, one call at a time, and yet the quick one is answered first."""
    await bench.load("repeat_int32")
    slow_parts, quick_parts = Parts(), Parts()
    slow = repeat(bench, range(3000), 5, slow_parts)
    await until(lambda: slow_parts.taken)

    quick = await asyncio.wait_for(repeat(bench, [7, 8], 0, quick_parts), 60)

    assert isinstance(quick, Reply)
    assert quick_parts.numbers() == [7, 8]
    assert not slow.done()
    slow.cancel()


async def test_many_requests_are_answered_at_the_same_time(bench) -> None:
    """Each has its own numbers, however their threads take turns."""
    handle = await bench.load("repeat_int32")
    parts = [Parts() for _ in range(16)]

    replies = await asyncio.wait_for(
        asyncio.gather(*[repeat(bench, [n] * 20, 1, each) for n, each in enumerate(parts)]), 60
    )

    assert all(isinstance(reply, Reply) for reply in replies)
    assert [each.numbers() for each in parts] == [[n] * 20 for n in range(16)]
    assert handle.late == 0


async def test_request_that_had_begun_to_answer_ends_with_its_worker(bench) -> None:
    """What was sent cannot be sent again; a request that had said nothing is run anew."""
    await bench.load("repeat_int32")
    begun, silent = Parts(), Parts()
    first = repeat(bench, range(10_000), 1, begun)
    await until(lambda: begun.taken)
    second = repeat(bench, [5], 300, silent)
    await until(lambda: bench.engine.model("repeat_int32").late == 2)

    os.kill(bench.pids("repeat_int32")[0], signal.SIGKILL)
    died, answered = await asyncio.wait_for(asyncio.gather(first, second), 60)

    assert isinstance(died, WorkerDiedError)
    assert "answered in part" in died.message
    assert isinstance(answered, Reply)
    assert silent.numbers() == [5]


async def test_unload_waits_for_answers_to_come(bench) -> None:
    """As for any other step that runs."""
    await bench.load("repeat_int32")
    parts = Parts()
    sent = repeat(bench, [1, 2, 3], 50, parts)
    await until(lambda: bench.engine.model("repeat_int32").late == 1)

    await asyncio.wait_for(bench.engine.unload("repeat_int32"), 60)

    assert isinstance(sent.result(), Reply)
    assert parts.numbers() == [1, 2, 3]


async def test_decoupled_steps_of_a_sequence_are_committed_with_their_last_answer(bench) -> None:
    """Threads change what is kept; it is taken out when they are done, and outlives the worker."""
    await bench.load("running")
    parts = Parts()
    value = np.int32([[5]])

    first = await bench.outcome("running", 7, INPUT=value, start=True, partial=parts)
    os.kill(bench.pids("running")[0], signal.SIGKILL)
    second = await bench.outcome("running", 7, INPUT=value, partial=parts)

    assert [number(first), number(second)] == [5, 10]
    assert parts.numbers() == [0, 5]
