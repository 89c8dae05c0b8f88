"""The serving process is killed in the middle of streams; its clients finish by themselves."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import legato

STEPS = 300


def right(sums: list[float]) -> bool:
    """The n-th answer is 1 + 2 + ... + n: a step lost, repeated or late shows at once."""
    return sums == list(itertools.accumulate(range(1, STEPS + 1)))


def kill_twice(server, started: threading.Event, sums: dict[str, list[float]]) -> list[int]:
    """Kill the serving process after the first steps, and again once it is back.

    Returns:
        How far the last sequence was at each kill.
    """
    seen = []
    assert started.wait(30)
    for times in (2, 3):
        seen.append(min(map(len, sums.values())))
        os.kill(server.pid, signal.SIGKILL)
        server.await_ready(times)
    return seen


def test_kill_is_felt_only_as_a_pause(serve, models, tmp_path) -> None:
    """Threads with one step under way, one with eight."""
    server = serve(models, store="log", data=tmp_path)
    started = threading.Event()
    names = {**{f"a{index}": "accumulator" for index in range(8)}, "deep": "deep"}
    sums: dict[str, list[float]] = {name: [] for name in names}

    def follow(client: legato.Client, name: str, model: str) -> None:
        with client.sequence(model, name, window=8 if model == "deep" else 1) as seq:
            for y in seq.stream(np.full(4, step) for step in range(1, STEPS + 1)):
                sums[name].append(float(y[0, 0]))
                if len(sums[name]) == 20:
                    started.set()

    with legato.Client(server.address) as client, ThreadPoolExecutor(len(names) + 1) as pool:
        following = [pool.submit(follow, client, *pair) for pair in names.items()]
        seen = pool.submit(kill_twice, server, started, sums).result()
        for future in following:
            future.result(60)

    assert max(seen) < STEPS
    assert all(map(right, sums.values()))


async def test_kill_is_felt_only_as_a_pause_with_asyncio(serve, models, tmp_path) -> None:
    """Sixty-four sequences on one connection."""
    server = await asyncio.to_thread(serve, models, store="log", data=tmp_path)
    started = threading.Event()
    sums: dict[str, list[float]] = {str(index): [] for index in range(64)}

    async def follow(client: legato.AsyncClient, name: str) -> None:
        async with client.sequence("accumulator", name) as seq:
            async for y in seq.stream(np.full(4, step) for step in range(1, STEPS + 1)):
                sums[name].append(float(y[0, 0]))
                if len(sums[name]) == 20:
                    started.set()

    killing = asyncio.create_task(asyncio.to_thread(kill_twice, server, started, sums))
    async with legato.AsyncClient(server.address) as client:
        await asyncio.gather(*(follow(client, name) for name in sums))
    seen = await killing

    assert max(seen) < STEPS
    assert all(map(right, sums.values()))


def test_lost_state_is_told_and_not_hidden(serve, models) -> None:
    """A store in memory dies with its process; the client hears of it by name."""
    server = serve(models, store="memory")
    with legato.Client(server.address) as client, client.sequence("accumulator") as seq:
        seq.step(np.ones(4))
        os.kill(server.pid, signal.SIGKILL)
        server.await_ready(2)

        with pytest.raises(legato.StateLostError) as caught:
            seq.step(np.ones(4))

    assert caught.value.code == "DATA_LOSS"
    assert caught.value.expected_step == 1


def test_frozen_server_is_waited_for(serve, models, tmp_path) -> None:
    """A server that stands still and goes on is asked again; the step is applied once."""
    server = serve(models, store="log", data=tmp_path)
    with (
        legato.Client(server.address, attempt_timeout_s=0.5) as client,
        client.sequence("accumulator") as seq,
    ):
        seq.step(np.ones(4))
        os.kill(server.pid, signal.SIGSTOP)
        thaw = threading.Timer(2, os.kill, (server.pid, signal.SIGCONT))
        thaw.start()
        second = seq.step(np.ones(4))
        third = seq.step(np.ones(4))
        thaw.join()

    assert second.tolist() == [[2, 2, 2, 2]]
    assert third.tolist() == [[3, 3, 3, 3]]


def test_given_up_step_is_answered_after_all(serve, models, tmp_path) -> None:
    """``retry`` finds out what became of a step that nobody waited for any more."""
    server = serve(models, store="log", data=tmp_path)
    with (
        legato.Client(server.address, attempt_timeout_s=0.3, retry_for_s=0.5) as client,
        client.sequence("accumulator") as seq,
    ):
        seq.step(np.ones(4))
        os.kill(server.pid, signal.SIGSTOP)
        with pytest.raises(legato.UnavailableError, match="does not answer"):
            seq.step(np.ones(4))
        os.kill(server.pid, signal.SIGCONT)
        (answer,) = seq.retry()
        third = seq.step(np.ones(4))

    assert (answer.step, answer["y"].tolist()) == (2, [[2, 2, 2, 2]])
    assert third.tolist() == [[3, 3, 3, 3]]
