"""What models see of requests, what they may answer, and how often: through the engine."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from legato.core.errors import ModelSaysError
from legato.core.types import Reply
from legato.engine.workers import WorkerDiedError
from triton_python_kit import Parts, number, texts, until


def told(what: str) -> np.ndarray:
    return np.array([[what.encode()]], object)


async def mood(bench, what: str, **options):
    return await bench.outcome("moody", None, WHAT=told(what), **options)


async def test_orderly_error_fails_its_row_with_its_own_code(bench) -> None:
    """A TritonError is that request's answer; its neighbours in the call have theirs."""
    handle = await bench.load("moody")

    answers = await asyncio.gather(*[mood(bench, w) for w in ("one", "invalid", "two", "error")])

    assert [texts(answers[0]), texts(answers[2])] == [["one", "4"], ["two", "4"]]
    assert isinstance(answers[1], ModelSaysError)
    assert (answers[1].message, answers[1].category) == ("not like this", "invalid_argument")
    assert (answers[3].message, answers[3].category) == ("no", "internal")
    assert handle.statistics.retried_rows == 0


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("raise", "message: ValueError: boom"),
        ("forget", "InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0"),
        ("none", "gave None where a response was expected"),
    ],
)
async def test_failure_does_not_reach_the_neighbours(bench, what: str, text: str) -> None:
    """Exceptions and missing responses fail one row, in plain words."""
    await bench.load("moody")

    bad, good = await asyncio.gather(mood(bench, what), mood(bench, "fine"))

    assert text in bad.message
    assert bad.message.startswith(("Failed to process the request(s) for model 'moody_0_0'", "Py"))
    assert isinstance(good, Reply)


async def test_request_that_kills_its_worker_fails_alone(bench) -> None:
    """The neighbours are run again, the worker comes back, and the killer is refused."""
    await bench.load("moody")

    bad, good = await asyncio.gather(mood(bench, "die"), mood(bench, "fine"))

    assert isinstance(bad, WorkerDiedError)
    assert texts(good) == ["fine", "1"]
    await until(lambda: bench.pids("moody"))
    assert isinstance(await mood(bench, "still there"), Reply)


async def test_model_sees_its_request(bench) -> None:
    """Id, parameters, outputs, timeout and priority reach ``InferenceRequest``."""
    await bench.load("moody")

    reply = await mood(
        bench, "request", request_id="r1", parameters={"beam": 4, "lang": "de"}, priority=2,
        queue_timeout_s=1.5,
    )  # fmt: skip

    assert json.loads(texts(reply)[0]) == {
        "id": "r1", "correlation": 0, "flags": 0, "parameters": {"beam": 4, "lang": "de"},
        "outputs": ["FACTS"], "model": ["moody", 1], "timeout": 1_500_000, "priority": 2,
        "cancelled": False,
    }  # fmt: skip


async def test_model_is_initialised_with_texts(bench) -> None:
    """``initialize`` gets what Triton gives: texts, and the whole configuration as JSON."""
    await bench.load("moody")

    arguments = json.loads(texts(await mood(bench, "args"))[0])
    folder = texts(await mood(bench, "dir"))[0]

    assert all(isinstance(value, str) for value in arguments.values())
    config = json.loads(arguments.pop("model_config"))
    assert arguments.pop("model_repository") + "/1" == folder
    assert arguments == {
        "model_name": "moody", "model_version": "1", "model_instance_name": "moody_0_0",
        "model_instance_kind": "CPU", "model_instance_device_id": "0",
    }  # fmt: skip
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (8, [1])


async def test_rows_may_have_outputs_of_different_shapes(bench) -> None:
    """What one request gets is its own: nothing is padded, nothing fails."""
    await bench.load("moody")

    many, few = await asyncio.gather(mood(bench, "many"), mood(bench, "few"))

    assert [texts(many), texts(few)] == [["a", "b", "c"], ["few", "2"]]
    assert (many.headers[0].shape, few.headers[0].shape) == ((1, 3), (1, 2))


async def test_model_completes_its_own_configuration(bench) -> None:
    """Without a word in config.pbtxt, tensors come from ``auto_complete_config``."""
    handle = await bench.load("completed")

    reply = await bench.outcome("completed", None, X=np.float32([[1, 2]]))

    assert np.frombuffer(reply.data[0], np.float32).tolist() == [2, 4]
    assert (handle.signature.batching, handle.signature.most_rows) == (True, 4)


async def test_execute_may_be_a_coroutine(bench) -> None:
    """What it awaits for the requests of a call, it awaits together; errors stay with their row."""
    await bench.load("patient")

    replies = await asyncio.gather(
        *[bench.outcome("patient", None, INPUT=np.int32([[n]])) for n in (1, -1, 3)]
    )

    assert [number(replies[0]), number(replies[2])] == [2, 6]
    assert "ValueError: negative" in replies[1].message


# -- any number of answers ---------------------------------------------------------------


def repeat(bench, numbers, parts: Parts | None, **options):
    return bench.send(
        "repeat_int32", None, IN=np.int32(numbers), DELAY=np.uint32([0] * len(numbers)),
        WAIT=np.uint32([0]), partial=parts, **options,
    )  # fmt: skip


async def test_decoupled_model_answers_as_often_as_it_likes(bench) -> None:
    """Each response of a thread is a part; the final flag alone is an answer without outputs."""
    await bench.load("repeat_int32")
    parts = Parts()

    last = await asyncio.wait_for(repeat(bench, [4, 2, 0, 1], parts), 60)

    assert parts.numbers(0) == [4, 2, 0, 1]
    assert parts.numbers(1) == [0, 1, 2, 3]
    assert (last.headers, last.data) == ((), ())


async def test_decoupled_model_may_answer_nothing(bench) -> None:
    """No response at all is an answer too."""
    await bench.load("repeat_int32")
    parts = Parts()

    last = await asyncio.wait_for(repeat(bench, [], parts), 60)

    assert (parts.taken, last.data) == ([], ())


async def test_decoupled_error_is_one_of_the_answers(bench) -> None:
    """An error in the middle has its text and code, and the responses go on after it."""
    await bench.load("repeat_int32")
    parts = Parts()

    await asyncio.wait_for(repeat(bench, [1, -1, 2], parts), 60)

    first, error, last = parts.taken
    assert (error.message, error.category) == ("a number is negative", "invalid_argument")
    assert [first.data[0], last.data[0]] == [np.int32(1).tobytes(), np.int32(2).tobytes()]


async def test_cancelled_request_is_seen_by_its_model(bench) -> None:
    """``is_cancelled`` is asked of the server while the call goes on."""
    await bench.load("repeat_int32")
    parts = Parts()
    sent = bench.send(
        "repeat_int32", None, IN=np.int32([7] * 1000), DELAY=np.uint32([20] * 1000),
        WAIT=np.uint32([0]), partial=parts,
    )  # fmt: skip
    await until(lambda: parts.taken)

    bench.engine.cancel(bench.last)
    last = await asyncio.wait_for(sent, 60)

    assert isinstance(last, Reply)
    assert len(parts.taken) < 1000


async def test_iterative_request_is_run_until_the_model_releases_it(bench) -> None:
    """Requests without ids are sequences of their own, batched together round by round."""
    handle = await bench.load("countdown")

    replies = await asyncio.gather(
        *[bench.outcome("countdown", None, INPUT=np.int32([[n]])) for n in (1, 5, 3)]
    )

    assert [number(reply) for reply in replies] == [1, 5, 3]
    assert handle.statistics.ended["ended"] == 3
    assert handle.statistics.batches < 9


async def test_iterative_decoupled_model_streams_a_token_a_round(bench) -> None:
    """Each round's token leaves after the round was committed; the last one is the reply."""
    await bench.load("tokens")
    parts = Parts()

    last = await bench.outcome("tokens", None, INPUT=np.int32([[4]]), partial=parts)

    assert parts.numbers() == [3, 2, 1]
    assert number(last) == 0


async def test_iterative_request_goes_on_after_its_worker_was_killed(bench) -> None:
    """Rounds are steps like any others: the count is not begun anew."""
    import os
    import signal

    await bench.load("tokens")
    parts = Parts()
    sent = bench.send("tokens", None, INPUT=np.int32([[400]]), partial=parts)
    await until(lambda: len(parts.taken) > 5)

    os.kill(bench.pids("tokens")[0], signal.SIGKILL)
    last = await asyncio.wait_for(sent, 60)

    assert parts.numbers() == list(range(399, 0, -1))
    assert number(last) == 0
