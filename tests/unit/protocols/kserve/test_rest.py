"""REST paths over ASGI, without sockets."""

from __future__ import annotations

import gzip
import json

import httpx
import pytest
from starlette.applications import Starlette

from legato.core.errors import StepGapError, StepQueueFullError, UnknownSequenceError
from legato.protocols.kserve import rest_infer
from legato.protocols.kserve.rest import routes

INFER = "/v2/models/accumulator/infer"
BODY = {
    "id": "r",
    "parameters": {"sequence_id": 7, "sequence_start": True},
    "inputs": [{"name": "INPUT", "datatype": "FP32", "shape": [1, 1], "data": [1]}],
}


def client(engine, **options) -> httpx.AsyncClient:
    app = Starlette(routes=routes(engine, **options))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_step_over_json(engine, kit) -> None:
    """The reply has id, data and step number; the number is in a header too."""
    engine.answer = kit.reply(1)

    answer = await client(engine).post(INFER, json=BODY, headers={"legato-step": "1"})

    assert answer.status_code == 200
    assert answer.json()["id"] == "r"
    assert answer.json()["outputs"][0]["data"] == [2.0]
    assert answer.headers["legato-step"] == "1"
    assert engine.steps[0].number == 1


async def test_step_over_binary(engine, kit) -> None:
    """Raw in, raw out, and the header tells where the JSON ends."""
    engine.answer = kit.reply(1)
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [1, 1]}
    head = json.dumps(
        {
            "parameters": {"sequence_id": "s", "binary_data_output": True},
            "inputs": [{**tensor, "parameters": {"binary_data_size": 4}}],
        }
    ).encode()

    answer = await client(engine).post(
        INFER,
        content=gzip.compress(head + b"\0\0\x80\x3f"),
        headers={"Inference-Header-Content-Length": str(len(head)), "Content-Encoding": "gzip"},
    )

    length = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.content[length:] == b"\0\0\0\x40"
    assert engine.steps[0].correlation_id == "s"
    assert engine.steps[0].inputs["INPUT"].tolist() == [[1.0]]


async def test_raw_body_is_the_one_input(engine, kit) -> None:
    """Header 0: nothing but the tensor."""
    engine.answer = kit.reply(0)

    answer = await client(engine).post(
        INFER, content=b"\0\0\x80\x3f", headers={"Inference-Header-Content-Length": "0"}
    )

    assert answer.status_code == 200
    assert engine.steps[0].inputs["INPUT"].tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("error", "status", "header", "value"),
    [
        (UnknownSequenceError(7), 400, "legato-reason", "unknown_sequence"),
        (StepGapError(9, 4), 409, "legato-expected-step", "4"),
        (StepQueueFullError(64), 429, "retry-after", "1"),
    ],
)
async def test_errors_have_status_text_and_headers(engine, error, status, header, value) -> None:
    """The body is ``{"error": text}``; what machines need is in headers."""
    engine.answer = error

    answer = await client(engine).post(INFER, json=BODY)

    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert answer.headers[header] == value


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 500),
        (b"[]", {}, 400),
        (b"{}", {"Inference-Header-Content-Length": "9"}, 400),
        (b"{}", {"Inference-Header-Content-Length": "-1"}, 400),
        (b"{}", {"Content-Encoding": "gzip"}, 400),
        (bytes(2000), {}, 413),
        (gzip.compress(bytes(100_000)), {"Content-Encoding": "gzip"}, 413),
        (b"{}", {"legato-step": "x"}, 400),
    ],
)
async def test_bad_bodies_are_refused(engine, content, headers, status) -> None:
    """Each has its status, all have a text, none reaches the engine."""
    answer = await client(engine, max_body_bytes=1000).post(INFER, content=content, headers=headers)

    assert answer.status_code == status
    assert answer.json()["error"]
    assert not engine.steps


async def test_a_refused_body_is_counted(engine) -> None:
    """Though it never was a step, the statistics of its model know of it."""
    await client(engine).post(INFER, content=b"{}", headers={"legato-step": "x"})

    assert engine.counted == [("accumulator", "invalid_argument")]
    assert not engine.steps


async def test_health_and_metadata(engine) -> None:
    """What clients ask at their start."""
    web = client(engine, ready=lambda: False)

    assert (await web.get("/v2/health/live")).status_code == 200
    assert (await web.get("/v2/health/ready")).status_code == 400
    assert (await web.get("/v2")).json()["name"] == "legato"
    metadata = (await web.get("/v2/models/accumulator/versions/1")).json()
    assert metadata["inputs"] == [{"name": "INPUT", "datatype": "FP32", "shape": [-1, 1]}]


async def test_model_ready(engine) -> None:
    """An unknown model is not ready: 400, not 404."""
    web = client(engine)

    assert (await web.get("/v2/models/accumulator/ready")).status_code == 200
    missing = await web.get("/v2/models/x/ready")
    assert (missing.status_code, missing.json()) == (400, {"error": "Model version not ready"})


async def test_config_names_sequence_batching_only_for_stateful_models(engine, kit) -> None:
    """Snake case, enums as names; the key must be absent for stateless models."""
    stateless = type(kit.signature)(kit.signature.inputs, kit.signature.outputs)
    engine.handles["plain"] = kit.served("plain", stateless)
    web = client(engine)

    stateful = (await web.get("/v2/models/accumulator/config")).json()
    plain = (await web.get("/v2/models/plain/config")).json()

    assert stateful["input"][0]["data_type"] == "TYPE_FP32"
    assert stateful["input"][0]["dims"] == [1]
    assert stateful["metric_tags"] == {}
    assert "sequence_batching" in stateful
    assert "sequence_batching" not in plain
    assert plain["model_transaction_policy"] == {"decoupled": False}


async def test_statistics_for_one_and_for_all(engine) -> None:
    """Both paths give a list."""
    web = client(engine)

    for path in ("/v2/models/stats", "/v2/models/accumulator/stats"):
        stats = (await web.get(path)).json()["model_stats"]
        assert [entry["name"] for entry in stats] == ["accumulator"]


async def test_index_and_control(engine) -> None:
    """The index works; loading is refused unless it is allowed."""
    web = client(engine)

    index = await web.post("/v2/repository/index", content=b"")
    load = await web.post("/v2/repository/models/x/load", content=b"")

    assert index.json()[0]["state"] == "READY"
    assert (load.status_code, load.json()["error"]) == (
        503,
        "explicit model load / unload is not allowed if polling is enabled",
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nothing", 404),
        ("GET", "/v2/models/x", 404),
        ("POST", "/v2/models/x/generate", 404),
        ("GET", "/v2/models/x/trace/setting", 404),
        ("GET", "/v2/systemsharedmemory/status", 501),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501),
        ("GET", "/v2/cudasharedmemory/region/r/status", 404),
    ],
)
async def test_what_is_not_there_says_so(engine, method, path, status) -> None:
    """Always a JSON error."""
    answer = await client(engine).request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["infer", "generate", "generate_stream"])
async def test_a_step_whose_client_leaves_while_it_waits_is_cancelled(
    engine, monkeypatch, path
) -> None:
    """It would begin a sequence for nobody, once there is room."""
    monkeypatch.setattr(rest_infer, "LOOK_S", 0)
    body = BODY if path == "infer" else {"INPUT": 1, "sequence_id": 7}
    events = [
        {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False},
        {"type": "http.disconnect"},
    ]
    sent = []

    async def receive():
        return events.pop(0)

    async def send(event) -> None:
        sent.append(event)

    scope = {
        "type": "http", "method": "POST", "path": f"/v2/models/accumulator/{path}",
        "headers": [], "query_string": b"",
    }  # fmt: skip
    await Starlette(routes=routes(engine))(scope, receive, send)

    assert engine.cancelled == [engine.steps[0]]
    assert sent[0]["status"] == 499
