"""The REST inference API."""

from __future__ import annotations

import asyncio

import pytest

from legato.core.errors import ModelError
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.http import Cors
from legato.protocols.torchserve.rest_inference import InferenceApp, target_of

ID = "ts_request_sequence_id"


@pytest.fixture
def app(bench) -> InferenceApp:
    bench.add()
    return InferenceApp(bench.door, lambda _header: True, 1000, Cors("", "", ""))


async def predict(app, http, *answers, engine=None):
    """Send a request and answer it once it has become a step."""
    task = asyncio.ensure_future(http.ask(app))
    while not engine.steps and not task.done():  # noqa: ASYNC110 - a turn or two
        await asyncio.sleep(0)
    for answer in answers:
        answer()
    return await task


@pytest.mark.parametrize(
    ("path", "model", "version", "rest", "explain"),
    [
        ("/predictions/m", "m", "", "", False),
        ("/predictions/m/2.0", "m", "2.0", "", False),
        ("/predictions/m/2.0/more/parts", "m", "2.0", "more/parts", False),
        ("/explanations/m/2.0", "m", "2.0", "", True),
        ("/invocations", "m", "", "", False),
        ("/models/m/invoke", "m", "", "", False),
        ("/m/predict", "m", "", "", False),
        ("/m/2.0/predict", "m", "2.0", "", False),
        ("/v1/models/m:predict", "m", "", "", False),
        ("/v1/models/m:explain", "m", "", "", True),
        ("/v2/models/m/infer", "m", "", "", False),
        ("/v2/models/m/explain", "m", "", "", True),
    ],
)
def test_paths_of_predictions(path, model, version, rest, explain) -> None:
    """All of spec 5.1."""
    found = target_of(path, {"model_name": ["m"]}, lambda: "")

    assert (found.model, found.version, found.rest) == (model, version, rest)
    assert found.explain is explain


@pytest.mark.parametrize("path", ["/", "/nope", "/predictions", "/predictions/", "/v1/models/m"])
def test_other_paths_are_no_predictions(path: str) -> None:
    """They are not found."""
    assert target_of(path, {}, lambda: "only") is None


def test_the_only_model_need_not_be_named() -> None:
    """With several, the parameter is asked for."""
    assert target_of("/invocations", {}, lambda: "only").model == "only"
    with pytest.raises(Failure, match="Parameter model_name is required"):
        target_of("/invocations", {}, lambda: "")


async def test_an_answer_has_torchserves_headers(app, bench, http) -> None:
    """The handler's own, the fixed ones, the request's id, the sequence's id and step."""
    asked = http("POST", "/predictions/adder", b"5", content_type="text/plain").header(ID, "a")

    found = await predict(
        app,
        asked,
        lambda: bench.engine.reply(
            b"5", number=2, status=201, content_type="text/x", headers={"X-Own": "1\r\nSet: 2"}
        ),
        engine=bench.engine,
    )

    assert (found.status, found.body, found.complete) == (201, b"5", True)
    assert found.headers["x-request-id"] == bench.engine.steps[0].parameters["request_id"]
    assert found.headers[ID] == "a"
    assert found.headers["legato-step"] == "2"
    assert found.headers["content-type"] == "text/x"
    assert found.headers["x-own"] == "1 Set: 2"
    assert found.headers["pragma"] == "no-cache"
    assert found.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 UTC"
    assert found.headers["content-length"] == "1"


async def test_the_handler_sees_headers_and_path_but_no_key(app, bench, http) -> None:
    """``url_path`` and ``explain`` are among them; the authorization is not."""
    asked = http("GET", "/explanations/adder/1/a/b", authorization="Bearer x", x_own="1")

    await predict(app, asked, lambda: bench.engine.reply(b""), engine=bench.engine)

    shown = bench.engine.shown()
    assert (shown["url_path"], shown["explain"], shown["x-own"]) == ("a/b", "True", "1")
    assert shown["ts_request_sequence_start"] == "true"
    assert "authorization" not in shown
    assert bench.engine.row() == {}


async def test_no_content_type_unless_the_handler_sets_one(app, bench, http) -> None:
    """As in TorchServe."""
    found = await predict(
        app, http("POST", "/predictions/adder"), lambda: bench.engine.reply(b"x"),
        engine=bench.engine,
    )  # fmt: skip

    assert "content-type" not in found.headers


async def test_query_parameters_reach_the_row_on_sagemakers_path(app, bench, http) -> None:
    """Beside the body."""
    asked = http("POST", "/invocations", b"1", "model_name=adder&k=v")

    await predict(app, asked, lambda: bench.engine.reply(b""), engine=bench.engine)

    assert bench.engine.row() == {"model_name": b"adder", "k": b"v", "body": b"1"}


async def test_flags_and_numbers_come_as_headers(app, bench, http) -> None:
    """Start, end, and the number of a step."""
    asked = http("POST", "/predictions/adder", legato_step="1")
    asked.header(ID, "a").header("ts_request_sequence_start", "true")
    asked.header("ts_request_sequence_end", "true")

    await predict(app, asked, lambda: bench.engine.reply(b""), engine=bench.engine)

    (step,) = bench.engine.steps
    assert (step.start, step.end, step.number) == (True, True, 1)


async def test_a_stream_is_chunked(app, bench, http) -> None:
    """Head and headers with the first chunk; the last answer ends the body."""

    def answers() -> None:
        bench.engine.steps[0].partial(b"1", {"headers": {"ts_stream_next": "true"}})
        bench.engine.steps[0].partial(b"2", {})
        bench.engine.reply(b"3")

    found = await predict(app, http("POST", "/predictions/adder"), answers, engine=bench.engine)

    assert found.chunks == [b"1", b"2", b"3"]
    assert found.complete
    assert found.headers["ts_stream_next"] == "true"
    assert "content-length" not in found.headers


async def test_a_client_that_leaves_a_stream_cancels_it(app, bench, http) -> None:
    """At the next chunk."""
    asked = http("POST", "/predictions/adder")

    def answers() -> None:
        asked.gone = True
        bench.engine.steps[0].partial(b"1", {})

    await predict(app, asked, answers, engine=bench.engine)

    assert bench.engine.cancelled == bench.engine.steps


async def test_a_failure_is_json_with_the_requests_id(app, bench, http) -> None:
    """Code, type and message."""
    found = await predict(
        app, http("POST", "/predictions/adder"), lambda: bench.engine.fail(ModelError("x")),
        engine=bench.engine,
    )  # fmt: skip

    assert found.status == 503
    assert found.json == {
        "code": 503, "type": "InternalServerException", "message": "Prediction failed",
    }  # fmt: skip
    assert found.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/nope", 404, "ResourceNotFoundException"),
        ("/predictions/nope", 404, "ModelNotFoundException"),
        ("/predictions/adder/9", 404, "ModelVersionNotFoundException"),
    ],
)
async def test_what_is_not_there(app, http, path: str, status: int, kind: str) -> None:
    """Told apart by type."""
    found = await http("POST", path).ask(app)

    assert (found.status, found.json["type"]) == (status, kind)


async def test_a_body_that_is_too_large_is_refused(app, http) -> None:
    """413 with an empty body, as TorchServe has it."""
    found = await http("POST", "/predictions/adder", b"x" * 1001).ask(app)

    assert (found.status, found.body) == (413, b"")


async def test_a_broken_step_number_is_refused(app, bench, http) -> None:
    """Nothing is applied."""
    found = await http("POST", "/predictions/adder", legato_step="x").ask(app)

    assert found.status == 400
    assert bench.engine.steps == []


async def test_ping_is_honest(app, bench, http) -> None:
    """500 while a model has fewer workers than it should."""
    healthy = await http("GET", "/ping").ask(app)
    bench.registry.find("adder").handle.instances.clear()
    unhealthy = await http("GET", "/ping").ask(app)

    assert (healthy.status, healthy.json) == (200, {"status": "Healthy"})
    assert (unhealthy.status, unhealthy.json) == (500, {"status": "Unhealthy"})


async def test_everything_but_the_description_needs_the_key(bench, http) -> None:
    """Also the health."""
    app = InferenceApp(bench.door, lambda header: header == "Bearer x", 1000, Cors("", "", ""))

    refused = await http("GET", "/ping").ask(app)
    taken = await http("GET", "/ping", authorization="Bearer x").ask(app)
    described = await http("OPTIONS", "/").ask(app)

    assert (refused.status, refused.json["type"]) == (400, "InvalidKeyException")
    assert taken.status == described.status == 200
    assert described.json["openapi"] == "3.0.1"


async def test_a_model_describes_itself(app, http) -> None:
    """By OPTIONS on its path."""
    found = await http("OPTIONS", "/predictions/adder").ask(app)

    assert "/predictions/adder/1" in found.json["paths"]


async def test_browsers_are_told_only_when_configured(bench, http) -> None:
    """Three headers of three properties."""
    app = InferenceApp(bench.door, lambda _h: True, 1000, Cors("https://x", "GET", "a, b"))

    found = await http("GET", "/ping").ask(app)

    assert found.headers["access-control-allow-origin"] == "https://x"
    assert found.headers["access-control-allow-headers"] == "a, b"
