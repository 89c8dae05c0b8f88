"""Models that ask other models of the same server."""

from __future__ import annotations

import numpy as np
import pytest

from doubles import EchoRuntime, Harness
from legato.engine.asking import ask

WISH = {"model": "echo", "version": "", "outputs": ["y"], "request_id": "r", "parameters": {},
        "priority": 0}  # fmt: skip


@pytest.fixture
def served():
    """A model without state that doubles, one with sequences, and one that asks."""
    h = Harness()
    h.load("chain")
    h.make_runtime = EchoRuntime
    h.load("echo")
    asking = h.load("asking")
    h.loop.call_soon_threadsafe = h.loop.call_soon
    yield h, asking
    h.close()


def told(served, value: int = 4, **changes):
    h, asking = served
    future = ask(h.engine, asking, {**WISH, **changes}, {"x": np.array([[value]], np.int64)})
    h.settle()
    return future.result(0)


def test_answer_is_told_as_plain_data(served) -> None:
    """Headers and bytes of the outputs that were asked for."""
    answer = told(served)

    headers, data = answer["answer"]
    assert [header.name for header in headers] == ["y"]
    assert np.frombuffer(data[0], np.int64).tolist() == [8]
    assert (answer["parts"], answer["error"]) == ([], None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model": "nobody"}, "model 'nobody' is not served here"),
        ({"model": "asking"}, "cannot ask itself"),
        ({"model": "chain"}, "keeps sequences"),
        ({"value": -1}, "negative"),
        ({"outputs": ["z"]}, "has no output 'z'"),
    ],
)
def test_errors_are_told_as_plain_data(served, changes: dict, text: str) -> None:
    """Of the asking as of the model that was asked."""
    answer = told(served, **changes)

    assert answer["answer"] is None
    assert text in answer["error"]["text"]
