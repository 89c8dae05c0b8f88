"""Models that ask other models of the server, from inside their own call."""

from __future__ import annotations

import asyncio

import numpy as np

from legato.core.errors import ModelSaysError
from legato.core.types import Reply
from triton_python_kit import Parts, number


def ask(bench, value: int, whom: str = "patient"):
    return bench.outcome(
        "asking", None, INPUT=np.int32([[value]]), WHOM=np.array([[whom.encode()]], object)
    )


async def test_model_asks_another_one_twice_at_once(bench) -> None:
    """``async_exec`` is awaited for both; the other model doubles what it is given."""
    await bench.load("patient")
    await bench.load("asking")

    replies = await asyncio.gather(*[ask(bench, n) for n in (1, 5, 9)])

    assert [number(reply) for reply in replies] == [4, 20, 36]


async def test_what_cannot_be_asked_is_an_error_of_the_row(bench) -> None:
    """Unknown models, itself, models with sequences, and errors of the one that is asked."""
    for model in ("patient", "asking", "adder_by_id"):
        await bench.load(model)

    unknown, itself, sequences, negative = await asyncio.gather(
        ask(bench, 1, "nobody"), ask(bench, 1, "asking"), ask(bench, 1, "adder_by_id"),
        ask(bench, -1),
    )  # fmt: skip

    outcomes = (unknown, itself, sequences, negative)
    assert all(isinstance(outcome, ModelSaysError) for outcome in outcomes)
    assert "'nobody' is not served" in unknown.message
    assert "cannot ask itself" in itself.message
    assert "keeps sequences" in sequences.message
    assert "ValueError: negative" in negative.message
    assert isinstance(await ask(bench, 1), Reply)


async def test_answers_of_a_decoupled_model_are_all_given(bench) -> None:
    """From a thread that outlives its call, while others do the same."""
    await bench.load("repeat_int32")
    await bench.load("asking_late")
    parts = [Parts() for _ in range(4)]

    replies = await asyncio.wait_for(
        asyncio.gather(
            *[
                bench.send("asking_late", None, IN=np.int32([n, 1, 2]), partial=each)
                for n, each in enumerate(parts)
            ]
        ),
        60,
    )

    assert all(isinstance(reply, Reply) for reply in replies)
    assert [each.numbers() for each in parts] == [[2 * n, 2, 4] for n in range(4)]
