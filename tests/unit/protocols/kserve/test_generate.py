"""``generate``: flat JSON in, flat JSON out."""

from __future__ import annotations

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from legato.core.errors import UnknownSequenceError
from legato.core.types import OutputHeader, Reply, Signature, TensorSpec
from legato.protocols.kserve.rest import routes

PATH = "/v2/models/accumulator/generate"


def client(engine) -> httpx.AsyncClient:
    app = Starlette(routes=routes(engine, max_body_bytes=1000))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.fixture
def texts(engine, kit):
    """A model of text and numbers."""
    inputs = (
        TensorSpec("text_input", "object", (1, 1)),
        TensorSpec("numbers", "int32", (1, -1, 2), optional=True),
    )
    outputs = (TensorSpec("text_output", "object", (1, 1)),)
    engine.handles["accumulator"] = kit.served("accumulator", Signature(inputs, outputs))
    engine.answer = Reply(
        (OutputHeader("text_output", "object", (1, 1)), OutputHeader("n", "int32", (1, 2))),
        (b"\x02\0\0\0hi", np.int32([3, 4]).tobytes()),
        0,
        0,
        "1",
    )  # fmt: skip
    return engine


async def test_keys_are_inputs_and_outputs(texts) -> None:
    """One element is a value, several are a list; the shape is the model's."""
    answer = await client(texts).post(
        PATH, json={"id": "r", "text_input": "hello", "numbers": [1, 2, 3, 4]}
    )

    step = texts.steps[0]
    assert step.inputs["text_input"].tolist() == [[b"hello"]]
    assert step.inputs["numbers"].tolist() == [[[1, 2], [3, 4]]]
    assert answer.json() == {
        "model_name": "accumulator",
        "model_version": "1",
        "id": "r",
        "text_output": "hi",
        "n": [3, 4],
    }


async def test_other_keys_are_parameters(texts) -> None:
    """Beside the inputs or in an object of their own; sequences are named as ever."""
    await client(texts).post(
        PATH,
        json={
            "text_input": "x",
            "temperature": 0.5,
            "nothing": None,
            "parameters": {"sequence_id": 7, "sequence_start": True, "stream": False},
        },
    )

    step = texts.steps[0]
    assert (step.correlation_id, step.start) == (7, True)
    assert step.parameters == {"temperature": 0.5, "stream": False}


async def test_the_step_number_is_told(engine, kit) -> None:
    """And may be given as a header."""
    engine.answer = kit.reply(3)

    answer = await client(engine).post(
        PATH, json={"INPUT": 1, "sequence_id": 7}, headers={"legato-step": "3"}
    )

    assert answer.json()["sequence_step"] == 3
    assert engine.steps[0].number == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"text_input": 7}, "elements must be strings"),
        ({"text_input": ["a", "b"]}, "has 2 elements, which do not fit its shape"),
        ({"text_input": "a", "numbers": [1, 2, 3]}, "has 3 elements, which do not fit its shape"),
        ({"text_input": "a", "numbers": ["x"]}, "has data that is no INT32 tensor"),
        ({"text_input": "a", "other": [1]}, "'other' is no input of model 'accumulator'"),
        ({"text_input": "a", "parameters": 1}, "'parameters' of the request must be an object"),
        ({"text_input": "a", "id": 1}, "'id' must be a string"),
        ({"text_input": "a", "triton_x": 1}, "reserved for Triton usage"),
        ({"text_input": "a", "sequence_start": 1}, "invalid value type for 'sequence_start'"),
        ([], "must be a JSON object"),
    ],
)
async def test_bad_requests_are_refused(texts, body, text) -> None:
    """The text says what was expected."""
    answer = await client(texts).post(PATH, json=body)

    assert answer.status_code == 400
    assert text in answer.json()["error"]
    assert not texts.steps


@pytest.mark.parametrize("path", ["generate", "generate_stream"])
async def test_errors_keep_their_status_and_reason(engine, path) -> None:
    """Also on a stream that has not begun."""
    engine.answer = UnknownSequenceError(7)

    answer = await client(engine).post(
        f"/v2/models/accumulator/{path}", json={"INPUT": 1, "sequence_id": 7}
    )

    assert answer.status_code == 400
    assert "must specify the START flag" in answer.json()["error"]
    assert answer.headers["legato-reason"] == "unknown_sequence"


async def test_large_bodies_are_refused(engine) -> None:
    """413, before they are read."""
    answer = await client(engine).post(PATH, json={"INPUT": [1] * 1000})

    assert answer.status_code == 413


async def test_a_versions_own_path(texts) -> None:
    """The step is for that version."""
    await client(texts).post("/v2/models/accumulator/versions/1/generate", json={"text_input": "x"})

    assert texts.steps[0].version == "1"
