"""Models that answer a request any number of times: on streams, and as events."""

from __future__ import annotations

import json

import httpx
import pytest
from starlette.applications import Starlette

from legato.core.errors import ModelError
from legato.core.reply import encode_reply
from legato.core.types import OutputHeader, Reply
from legato.protocols.kserve.infer import STREAM_HIGH, Door, InferCall, InferStream
from legato.protocols.kserve.rest import routes
from legato.protocols.rpc.service import RpcError, Status

HEADERS = (OutputHeader("OUTPUT", "float32", (1, 1)),)
EMPTY = Reply((), (), 7, 2, "1")


def part(value: bytes = b"\0\0\x80\x3f") -> tuple[bytes, dict]:
    return encode_reply(HEADERS, (value,)), {}


@pytest.fixture(autouse=True)
def decoupled(engine) -> None:
    engine.decoupled.add("accumulator")


@pytest.fixture
def stream(engine, call) -> InferStream:
    return InferStream(Door(engine, "sequence"), call)


def send(handler, message) -> None:
    handler.message(message.SerializeToString())


def told(call) -> list[tuple[str, bool, str]]:
    """Id, final flag and error of each answer."""
    return [
        (
            answer.infer_response.id,
            answer.infer_response.parameters["triton_final_response"].bool_param,
            answer.error_message,
        )
        for answer in call.stream_replies()
    ]


def test_every_answer_says_whether_it_is_the_last(engine, stream, call, kit) -> None:
    """The request's id is on all of them, whatever the engine made of the step meanwhile."""
    send(stream, kit.request(7, "r"))
    step = engine.steps[0]
    step.partial(*part())
    step.request_id = ""
    step.partial(*part())

    step.done(kit.reply(3))

    assert told(call) == [("r", False, ""), ("r", False, ""), ("r", True, "")]
    first = call.stream_replies()[0].infer_response
    assert (first.model_version, first.raw_output_contents[0]) == ("1", b"\0\0\x80\x3f")


@pytest.mark.parametrize("asked", [True, False])
def test_an_empty_last_answer_is_sent_to_those_who_asked(engine, stream, call, kit, asked) -> None:
    """Others count answers and would take it for one."""
    send(stream, kit.request(7, "r", triton_enable_empty_final_response=asked))
    engine.steps[0].partial(*part())

    engine.steps[0].done(EMPTY)

    assert told(call) == [("r", False, ""), ("r", True, "")][: 2 if asked else 1]
    stream.half_close()
    assert call.status is Status.OK


def test_several_answers_may_come_together(engine, stream, call, kit) -> None:
    """An error among them ends nothing."""
    send(stream, kit.request(7, "r"))
    failed = (b"", {"error": "too loud", "category": "invalid_argument"})

    engine.steps[0].partial(b"", {"parts": [part(), failed, part()]})
    engine.steps[0].done(kit.reply(1))

    assert told(call) == [
        ("r", False, ""), ("r", False, "too loud"), ("r", False, ""), ("r", True, ""),
    ]  # fmt: skip
    assert (
        call.stream_replies()[1].infer_response.parameters["legato-status"].string_param
        == "INVALID_ARGUMENT"
    )


@pytest.mark.parametrize("order", ["sequence", "request"])
def test_answers_leave_in_the_order_of_completion(engine, call, kit, order) -> None:
    """Also those of one sequence, and also where other models keep the order of requests."""
    stream = InferStream(Door(engine, order), call)
    for name in ("a", "b", "c"):
        send(stream, kit.request(7, name))

    for at in (2, 0, 1):
        engine.steps[at].done(kit.reply(1))

    assert call.ids() == ["c", "a", "b"]


def test_a_failed_step_is_told_with_its_id(engine, stream, call, kit) -> None:
    """After answers that were none of its errors."""
    send(stream, kit.request(7, "r"))
    engine.steps[0].partial(*part())
    engine.steps[0].request_id = ""

    engine.steps[0].done(ModelError("boom"))

    assert told(call) == [("r", False, ""), ("r", True, "boom")]


def test_grpc_errors_close_the_stream_at_the_first_error(engine, kit) -> None:
    """The metadata asks for it; nothing is sent after that."""
    call = kit.Call({"triton_grpc_error": "true"})
    stream = InferStream(Door(engine, "sequence"), call)
    send(stream, kit.request(7, "r"))
    step = engine.steps[0]

    step.partial(b"", {"error": "too loud", "category": "not_found"})
    step.partial(*part())

    assert (call.status, call.text) == (Status.NOT_FOUND, "too loud")
    assert call.sent == []


def test_cancelling_drops_them_from_the_back(engine, stream, kit) -> None:
    """No later step of a sequence may begin because an earlier one was dropped."""
    for name in ("a", "b", "c"):
        send(stream, kit.request(7, name))

    stream.cancel()

    assert [step.request_id for step in engine.cancelled] == ["c", "b", "a"]


def test_a_stream_with_many_unanswered_requests_is_paused(engine, stream, call, kit) -> None:
    """And goes on when half of them are answered."""
    for _request in range(STREAM_HIGH):
        send(stream, kit.request(7))
    paused = call.paused

    for step in list(engine.steps)[: STREAM_HIGH // 2]:
        step.done(EMPTY)

    assert (paused, call.resumed) == (1, 1)


def test_unary_calls_are_refused(engine, call, kit) -> None:
    """The text is Triton's."""
    with pytest.raises(RpcError) as caught:
        send(InferCall(Door(engine, "sequence"), call), kit.request(7))

    assert caught.value.status is Status.UNIMPLEMENTED
    assert (
        caught.value.message
        == "ModelInfer RPC doesn't support models with decoupled transaction policy"
    )
    assert not engine.steps


# -- HTTP ---------------------------------------------------------------------------------


class Answers:
    """An engine whose model gives some answers to each step at once."""

    def __init__(self, engine, last: object, *parts: tuple[bytes, dict]) -> None:
        self.unloaded, self.decoupled = engine.unloaded, engine.decoupled
        self.model, self.models, self.cancel = engine.model, engine.models, engine.cancel
        self.refused = engine.refused
        self.last, self.parts = last, parts

    def submit(self, step) -> None:
        for one in self.parts:
            step.partial(*one)
        step.done(self.last)


def client(engine) -> httpx.AsyncClient:
    app = Starlette(routes=routes(engine))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def events(text: str) -> list[dict]:
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]


async def test_infer_is_refused(engine, kit) -> None:
    """As UNSUPPORTED, in Triton's words."""
    body = {"inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}

    answer = await client(engine).post("/v2/models/accumulator/infer", json=body)

    assert (answer.status_code, answer.json()["error"]) == (
        501,
        "HTTP end point doesn't support models with decoupled transaction policy",
    )


async def test_each_answer_is_an_event(engine) -> None:
    """An error among them, too; an empty last one is none."""
    model = Answers(
        engine,
        EMPTY,
        part(),
        (b"", {"error": "too loud", "category": "internal"}),
        part(b"\0\0\0\x40"),
    )

    answer = await client(model).post(
        "/v2/models/accumulator/generate_stream", json={"INPUT": 1, "id": "r"}
    )

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events(answer.text) == [
        {"model_name": "accumulator", "model_version": "1", "id": "r", "OUTPUT": 1.0},
        {"error": "too loud"},
        {"model_name": "accumulator", "model_version": "1", "id": "r", "OUTPUT": 2.0},
    ]


async def test_an_error_after_answers_is_the_last_event(engine) -> None:
    """The status has left already."""
    model = Answers(engine, ModelError("boom"), part())

    answer = await client(model).post("/v2/models/accumulator/generate_stream", json={"INPUT": 1})

    assert answer.status_code == 200
    assert events(answer.text)[-1] == {"error": "boom", "legato-reason": "model_failed"}


@pytest.mark.parametrize("count", [0, 2])
async def test_generate_wants_exactly_one_answer(engine, count) -> None:
    """Triton's words."""
    model = Answers(engine, EMPTY, *[part()] * count)

    answer = await client(model).post("/v2/models/accumulator/generate", json={"INPUT": 1})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith(
        "generate expects model to produce exactly 1 response, use generate stream"
    )


async def test_generate_takes_the_one_answer(engine) -> None:
    """Although the model is decoupled."""
    answer = await client(Answers(engine, EMPTY, part())).post(
        "/v2/models/accumulator/generate", json={"INPUT": 1}
    )

    assert (answer.status_code, answer.json()["OUTPUT"]) == (200, 1.0)


async def test_generate_fails_with_the_one_answer(engine) -> None:
    """An error is no answer with status 200."""
    answer = await client(
        Answers(engine, EMPTY, (b"", {"error": "too loud", "category": "internal"}))
    ).post("/v2/models/accumulator/generate", json={"INPUT": 1})

    assert (answer.status_code, answer.json()) == (500, {"error": "too loud"})
