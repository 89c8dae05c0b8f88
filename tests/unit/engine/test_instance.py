"""A loaded copy of a model: runs here or in its own thread, and always answers."""

from __future__ import annotations

import asyncio
import threading

import numpy as np

from doubles import CHAIN_SIGNATURE, KSERVE, RAISE_BATCH, ChainRuntime, Step, state_of
from legato.core.errors import ModelError
from legato.core.types import SequenceKey
from legato.engine.batch import RowResult
from legato.engine.model import ModelHandle
from legato.engine.work import Sequence, Work
from legato.repository.config import ModelConfig


def work_of(handle, cid=1, mode=0, number=3, **options) -> Work:
    inputs = {"x": np.array([[5]]), "mode": np.array([mode])}
    step = Step("m", cid, inputs, KSERVE, **options)
    return Work(handle, Sequence(SequenceKey("m", cid)), step, number, state_of([1, 2]))


def handle_of() -> ModelHandle:
    return ModelHandle(ModelConfig(name="m"), [ChainRuntime(CHAIN_SIGNATURE)], "d")


def test_a_plan_runs_here_and_now() -> None:
    """Rows in the order of the plan."""
    handle = handle_of()

    outcome = handle.instances[0].run([work_of(handle, 1), work_of(handle, 2)])

    assert [row.state for row in outcome.rows] == [state_of([1, 2, 5])] * 2
    assert handle.instances[0].runtime.calls == [[1, 2]]


def test_a_plan_that_cannot_be_laid_out_is_answered() -> None:
    """Each step of it gets an error; nothing is raised into the loop."""
    handle = handle_of()
    broken = work_of(handle)
    broken.state = None

    outcome = handle.instances[0].run([broken, work_of(handle, 2)])

    assert isinstance(outcome.rows[0], ModelError)
    assert isinstance(outcome.rows[1], RowResult)


async def test_plans_run_in_one_thread_in_order() -> None:
    """Whatever one does, the next one runs; closing waits for the last."""
    handle = handle_of()
    instance = handle.instances[0]
    loop = asyncio.get_running_loop()
    outcomes: list = []
    threads: set = set()
    full = loop.create_future()

    def done(_instance, plan, outcome) -> None:
        threads.add(threading.current_thread().name)
        outcomes.append([type(row) for row in outcome.rows])
        if len(outcomes) == 3:
            loop.call_soon_threadsafe(full.set_result, None)

    for mode in (0, RAISE_BATCH, 0):
        instance.submit([work_of(handle, mode=mode)], done)
    await full
    instance.close()

    assert outcomes == [[RowResult], [ModelError], [RowResult]]
    assert threads == {"legato-m"}
    assert instance.runtime.closed


def test_closing_an_instance_that_never_ran_frees_the_model() -> None:
    """There is no thread to wait for."""
    instance = handle_of().instances[0]

    instance.close()

    assert instance.runtime.closed
