"""Models that ask other models of the same server, from inside a call of theirs.

What is asked is an ordinary step of the other model. Only models without state are asked: a call
that fails is run again, and a sequence would be moved on twice.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from legato.core.errors import ClientError, ServerError
from legato.core.types import KSERVE, Reply, Step
from legato.runtimes.worker.messages import from_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.core.types import Array
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle


def ask(
    engine: Engine, asking: ModelHandle, wish: Mapping[str, Any], inputs: Mapping[str, Array]
) -> Future[dict[str, Any]]:
    """Let a model be asked; from any thread.

    Args:
        engine: Who serves both.
        asking: The model that asks.
        wish: ``model``, ``version``, ``outputs``, ``request_id``, ``parameters``, ``priority``.
        inputs: Tensors, which are not changed afterwards.

    Returns:
        What is told to the worker: ``parts`` of a decoupled model, the ``answer`` and an ``error``.
    """
    told: Future[dict[str, Any]] = Future()
    parts: list[Any] = []

    def done(outcome: Reply | ServerError) -> None:
        if isinstance(outcome, Reply):
            answer = [list(outcome.headers), list(outcome.data)]
            told.set_result({"parts": parts, "answer": answer, "error": None})
        else:
            told.set_result({"parts": parts, "answer": None, "error": from_error(outcome)})

    def submit() -> None:
        try:
            other = engine.model(wish["model"], wish["version"])
        except ServerError as error:
            done(error)
            return
        problem = _problem(asking, other)
        if problem:
            done(ClientError(problem))
            return
        step = Step(wish["model"], None, inputs, KSERVE, done, version=wish["version"])
        step.outputs = tuple(wish["outputs"])
        step.request_id, step.priority = wish["request_id"], wish["priority"]
        step.parameters = wish["parameters"]
        step.partial = lambda body, meta: parts.append([body, meta])
        engine.submit(step)

    engine.loop.call_soon_threadsafe(submit)
    return told


def _problem(asking: ModelHandle, other: ModelHandle) -> str:
    if other is asking:
        return f"model '{asking.name}' cannot ask itself: it would wait for its own end"
    if other.stateful:
        return (
            f"model '{other.name}' keeps sequences, which only clients move on: a call of model "
            f"'{asking.name}' may be run again, and would move them on twice"
        )
    return ""
