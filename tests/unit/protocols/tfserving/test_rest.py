"""REST: both forms of bodies, every route, every text."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette

from legato.core.errors import SequenceLimitError, UnknownSequenceError
from legato.core.types import OutputHeader, Reply, Signature, StateSpec, TensorSpec
from legato.engine.catalog import Known, ReloadError, VersionState, VersionStateError
from legato.protocols.tfserving.rest import routes

PREDICT = "/v1/models/summator:predict"
X = [[1.0] * 10]
ND = "Could not parse input content. Not valid ndarray detected"
ROW_ND = "Could not parse instance content. Not valid ndarray detected"


class Client:
    """Asks an ASGI application, one request at a time."""

    def __init__(self, app) -> None:
        self.transport = httpx.ASGITransport(app)

    def request(self, method, path, **options):
        async def ask():
            async with httpx.AsyncClient(transport=self.transport, base_url="http://t") as client:
                return await client.request(method, path, **options)

        return asyncio.run(ask())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, **options):
        return self.request("POST", path, **options)


@pytest.fixture
def client(engine, catalog, kit, counts):
    engine.answer = lambda step: kit.reply(name=step.correlation_id or 1)
    return Client(Starlette(routes=routes(engine, catalog, counts, max_body_bytes=100_000)))


@pytest.fixture
def post(client):
    def post(body, path=PREDICT, **options):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.post(path, content=data, **options)

    return post


def column(**special):
    return {"inputs": {"x": X, **special}}


def test_requests_are_counted_by_how_they_end(client, post, counts) -> None:
    """Refused ones too, where there is a model to count them for."""
    post(column(sequence_id=[1], sequence_control_input=[1]))
    post(column())
    post(b"no json")
    post(column(), "/v1/models/nobody:predict")
    client.get("/v1/models/summator")
    client.get("/v1/models/nobody")
    client.get("/v1/models/dummy/versions/1/metadata")
    client.get("/v1/models/gone/metadata")

    assert counts.counted == [
        ("Predict", "summator", "1", True),
        ("Predict", "summator", "1", False),
        ("Predict", "summator", "1", False),
        ("GetModelStatus", "summator", "", True),
        ("GetModelMetadata", "dummy", "1", True),
    ]
    assert counts.timed == [("summator", "1")]


# -- both forms ----------------------------------------------------------------------------------


def test_column_form_answers_with_named_outputs(post, engine) -> None:
    """A named object, and the id as a list: clients look for both."""
    answer = post(column(sequence_id=[10], sequence_control_input=[1]))

    step = engine.steps[0]
    assert answer.status_code == 200
    assert answer.json() == {"outputs": {"y": [list(range(10))], "sequence_id": [10]}}
    assert (step.correlation_id, step.start, step.inputs["x"].dtype) == (10, True, np.float32)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["legato-step"] == "1"


def test_row_form_answers_in_rows(post, engine) -> None:
    """One instance a step; the batch axis is the list of instances."""
    body = {"instances": [{"x": X[0], "sequence_id": [10], "sequence_control_input": 2}]}

    answer = post(body)

    assert answer.json() == {"predictions": [{"y": list(range(10)), "sequence_id": 10}]}
    assert (engine.steps[0].end, engine.steps[0].inputs["x"].shape) == (True, (1, 10))


@pytest.mark.parametrize("form", ["bare", "list"])
@pytest.mark.parametrize("rows", [False, True])
def test_special_values_are_bare_or_lists(post, engine, form, rows) -> None:
    """In both forms."""
    name, control = (2**64 - 1, 1) if form == "bare" else ([2**64 - 1], [1])
    special = {"sequence_id": name, "sequence_control_input": control}
    body = {"instances": [{"x": X[0], **special}]} if rows else column(**special)

    answer = post(body)

    assert answer.status_code == 200
    assert engine.steps[0].correlation_id == 2**64 - 1


def test_the_signature_name_is_not_looked_at(post) -> None:
    """Nor are other keys."""
    body = {"signature_name": "x", "more": 1, **column(sequence_id=[1], sequence_control_input=[1])}

    assert post(body).status_code == 200


def test_the_only_input_needs_no_name(post, engine, kit) -> None:
    """Of a model without state; several rows come back as several."""
    headers = (OutputHeader("a", "float32", (1, 10)),)
    engine.answer = lambda step: Reply(headers, (step.inputs["b"].tobytes(),), 0, 0, "2")
    rows = np.arange(20, dtype=np.float32).reshape(2, 10).tolist()

    columns = post({"inputs": rows}, "/v1/models/dummy:predict").json()
    instances = post({"instances": rows}, "/v1/models/dummy:predict").json()

    assert columns == {"outputs": rows}
    assert instances == {"predictions": rows}


def test_a_zero_id_is_none(post, engine) -> None:
    """The server gives one."""
    post(column(sequence_id=[0], sequence_control_input=[1]))

    assert engine.steps[0].correlation_id is None


def test_versions_and_labels_in_the_path(post, engine) -> None:
    """0 is the default one; labels are not looked at; names may be percent-encoded."""
    body = {"inputs": {"b": X}}
    paths = ("dummy/versions/1", "dummy/versions/0", "dummy/labels/stable", "%64ummy")
    for path in paths:
        engine.answer = Reply((OutputHeader("a", "float32", (1, 1)),), (bytes(4),), 0, 0, "1")
        assert post(body, f"/v1/models/{path}:predict").status_code == 200

    assert [step.version for step in engine.steps] == ["1", "", "", ""]


def test_the_step_header_is_read(post, engine) -> None:
    """As over gRPC."""
    body = column(sequence_id=[1], sequence_control_input=[1])

    post(body, headers={"legato-step": "1"})
    wrong = post(body, headers={"legato-step": "x"})

    assert engine.steps[0].number == 1
    assert wrong.status_code == 400


def test_bodies_may_be_compressed(post, engine) -> None:
    """With gzip."""
    data = json.dumps(column(sequence_id=[1], sequence_control_input=[1])).encode()

    assert post(gzip.compress(data), headers={"content-encoding": "gzip"}).status_code == 200


def test_large_bodies_are_refused(post) -> None:
    """Beyond the limit."""
    assert post(b" " * 100_001).status_code == 413


# -- types ---------------------------------------------------------------------------------------


def typed(catalog, kit, dtype, shape=(1, 2)):
    states = (StateSpec("s", "s", "n", "float32", (1, 1)),)
    signature = Signature((TensorSpec("x", dtype, shape),), (), states)
    catalog.models["typed"] = {"1": kit.served("typed", signature)}


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        ("int64", [[1, 2**62]], [[1, 2**62]]),
        ("uint64", [[1, 2**64 - 1]], [[1, 2**64 - 1]]),
        ("int32", [[1.9, -1.9]], [[1, -1]]),
        ("float16", [[1, 0.5]], [[1, 0.5]]),
        ("float32", [[1e300, -1]], [[np.inf, -1]]),
        ("bool", [[True, 0]], [[True, False]]),
        ("object", [["a", {"b64": base64.b64encode(b"\xff").decode()}]], [[b"a", b"\xff"]]),
    ],
)
def test_numbers_are_cast_to_the_type_of_the_input(
    post, engine, catalog, kit, dtype, given, expected
) -> None:
    """Objects with ``b64`` are binary."""
    typed(catalog, kit, dtype)
    body = {"inputs": {"x": given, "sequence_id": 1, "sequence_control_input": 1}}

    answer = post(body, "/v1/models/typed:predict")

    assert answer.status_code == 200, answer.text
    assert engine.steps[0].inputs["x"].tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "given"),
    [
        ("int8", [[1, 200]]),
        ("uint8", [[-1, 1]]),
        ("uint64", [[-1, 2**64 - 1]]),
        ("int64", [[1e300, 1]]),
        ("float32", [["a", "b"]]),
        ("float32", [[1, None]]),
        ("float32", [[1], [1, 2]]),
        ("float32", [[True, False]]),
        ("float32", {"a": 1}),
        ("object", [["a", 1]]),
        ("object", [["a", {"b64": "%"}]]),
        ("object", [["a"], "b"]),
    ],
)
def test_values_that_do_not_fit_are_refused(post, engine, catalog, kit, dtype, given) -> None:
    """None of them reaches the model as another number."""
    typed(catalog, kit, dtype)
    body = {"inputs": {"x": given, "sequence_id": 1, "sequence_control_input": 1}}

    answer = post(body, "/v1/models/typed:predict")

    assert (answer.status_code, answer.json()) == (400, {"error": ND})
    assert not engine.steps


def test_nan_is_written_as_other_servers_write_it(post, engine) -> None:
    """Python and others read it, although it is no JSON."""
    headers = (OutputHeader("y", "float32", (1, 3)),)
    data = np.float32([np.nan, np.inf, 1]).tobytes()
    engine.answer = Reply(headers, (data,), 7, 1, "1")

    answer = post(column(sequence_id=[7], sequence_control_input=[1]))

    (row,) = json.loads(answer.content)["outputs"]["y"]
    assert np.isnan(row[0])
    assert row[1:] == [np.inf, 1.0]


def test_strings_come_back_as_text_or_base64(post, engine) -> None:
    """What is no text is binary."""
    headers = (OutputHeader("words", "object", (1, 2)),)
    engine.answer = Reply(headers, (b"\x01\0\0\0a\x01\0\0\0\xff",), 7, 1, "1")

    answer = post(column(sequence_id=[7], sequence_control_input=[1]))

    assert answer.json()["outputs"]["words"] == [["a", {"b64": "/w=="}]]


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ([1], 400, "Request body should be JSON object"),
        ({}, 400, "Invalid JSON structure. Could not detect row or column format"),
        (
            {"inputs": {}, "instances": []},
            400,
            "Invalid JSON structure. Could not detect row or column format",
        ),
        (
            {"inputs": "text"},
            400,
            "Invalid JSON structure. One of inputs is not a JSON object.",
        ),
        ({"inputs": True}, 400, "Invalid JSON structure. One of inputs is not a JSON object."),
        ({"inputs": {}}, 400, "Invalid JSON structure, missing inputs"),
        ({"instances": []}, 400, "Invalid JSON structure. Missing instances in row format"),
        ({"instances": {}}, 400, "Invalid JSON structure. Missing instances in row format"),
        (
            {"instances": [{"x": X[0], "sequence_id": 1}, {"x": X[0]}]},
            400,
            "Invalid JSON structure. Request inputs have different batch sizes",
        ),
        ({"instances": [{"x": X[0]}, X[0]]}, 400, ROW_ND),
        (
            {"inputs": {"x": X, "sequence_control_input": [1], "z": 1}},
            400,
            "Invalid number of inputs - Expected: 2; Actual: 3",
        ),
        (
            {"inputs": {"w": X, "sequence_control_input": [1]}},
            400,
            "Missing input with specific name - Required input: x",
        ),
        (
            {"inputs": {"x": [[1.0] * 11], "sequence_control_input": [1]}},
            400,
            "Invalid input shape - Expected: (1,10); Actual: (1,11); input name: x",
        ),
        (
            {"inputs": {"x": X + X, "sequence_control_input": [1]}},
            400,
            "Invalid input batch size - Expected: 1; Actual: 2; input name: x",
        ),
        ({"inputs": {"x": [[1], [1, 2]], "sequence_control_input": [1]}}, 400, ND),
        ({"instances": [{"x": "a", "sequence_control_input": [1]}]}, 400, ROW_ND),
        (
            column(sequence_id=[1, 2]),
            400,
            "Invalid input shape - Required shape for sequence_id is: (1)",
        ),
        (column(sequence_id=[[1]]), 400, ND),
        (column(sequence_id=["a"]), 400, ND),
        (column(sequence_id=[-1]), 400, ND),
        (column(sequence_id=[1.5]), 400, ND),
        (column(sequence_id=[True]), 400, ND),
        (column(sequence_id=[]), 400, ND),
        (column(sequence_id="a"), 400, ND),
        (column(sequence_id=[2**64]), 400, ND),
        (column(sequence_control_input=[2**32]), 400, ND),
        (
            column(sequence_control_input=[1, 1]),
            400,
            "Invalid input shape - Required shape for sequence_control_input is: (1)",
        ),
        (
            column(sequence_id=[1], sequence_control_input=[3]),
            400,
            "Unexpected value of sequence control input",
        ),
        (column(), 400, "Sequence ID has not been provided in request inputs"),
        (column(sequence_id=[0]), 400, "Sequence ID has not been provided in request inputs"),
        ({"inputs": X}, 400, "Sequence ID has not been provided in request inputs"),
        (
            {"instances": [{"x": X[0], "sequence_id": 1}] * 2},
            400,
            "Invalid input shape - Required shape for sequence_id is: (1)",
        ),
    ],
)
def test_each_mistake_has_its_text(post, engine, body, status, text) -> None:
    """And its status; nothing reaches the engine."""
    answer = post(body)

    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert not engine.steps


def test_what_is_no_json_is_told_apart(post) -> None:
    """With where it goes wrong."""
    answer = post(b'{"inputs": nope}')

    assert answer.status_code == 412
    assert answer.json()["error"].startswith("The file is not valid json - Error: ")
    assert "Offset: 11" in answer.json()["error"]


def test_unnamed_data_needs_a_model_with_one_input(post, catalog, kit) -> None:
    """Nobody could say which one is meant."""
    two = (TensorSpec("a", "float32", (1, 1)), TensorSpec("b", "float32", (1, 1)))
    catalog.models["two"] = {"1": kit.served("two", Signature(two, ()))}

    for body in ({"inputs": [[1]]}, {"instances": [[1]]}):
        answer = post(body, "/v1/models/two:predict")
        assert answer.json() == {"error": "Inputs inside buffer does not match expected format."}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nobody", "Model with requested name is not found"),
        ("summator/versions/9", "Model with requested version is not found"),
        ("gone/versions/1", "Model with requested version is retired"),
        ("gone/versions/2", "Model with requested version is not loaded yet"),
    ],
)
def test_models_that_are_not_there(post, path, text) -> None:
    """404, whatever the reason; before the body is parsed."""
    answer = post(b"no json", f"/v1/models/{path}:predict")

    assert (answer.status_code, answer.json()) == (404, {"error": text})


def test_a_model_that_is_being_loaded_is_waited_for(post, catalog, monkeypatch) -> None:
    """And then served; one that never comes is refused in the end."""
    monkeypatch.setattr("legato.protocols.tfserving.rest.BETWEEN_LOOKS_S", 0.0)
    looks = []
    find = catalog.find

    def slowly(*names, **options):
        looks.append(names)
        if len(looks) < 5:
            raise VersionStateError("summator", "1", VersionState.LOADING)
        return find(*names, **options)

    catalog.find = slowly
    served = post(column(sequence_id=[1], sequence_control_input=[1]))
    catalog.states["summator"] = [Known("1", VersionState.LOADING)]
    never = post(column(sequence_id=[1]), "/v1/models/summator/versions/1:predict")

    assert served.status_code == 200
    assert (never.status_code, never.json()) == (
        404,
        {"error": "Model with requested version is not loaded yet"},
    )


def test_errors_of_the_engine(post, engine) -> None:
    """With what is known in headers."""
    engine.answer = UnknownSequenceError(7)
    missing = post(column(sequence_id=[7]))
    engine.answer = SequenceLimitError("m", 1)
    full = post(column(sequence_id=[7], sequence_control_input=[1]))

    assert (missing.status_code, missing.json()["error"]) == (
        404,
        "Sequence with provided ID does not exist",
    )
    assert full.status_code == 503
    assert full.headers["retry-after"] == "1"


# -- other routes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/models/summator:classify", 404, "Requested REST resource not found"),
        ("POST", "/v1/models/summator:regress", 404, "Requested REST resource not found"),
        ("GET", "/v1/models/summator:predict", 406, "Unsupported method"),
        ("PUT", "/v1/models/summator:predict", 406, "Unsupported method"),
        ("POST", "/v1/models/summator", 406, "Unsupported method"),
        ("POST", "/v1/models/summator/metadata", 406, "Unsupported method"),
        ("POST", "/v1/config", 406, "Unsupported method"),
        ("GET", "/v1/config/reload", 406, "Unsupported method"),
        ("GET", "/v1/models", 400, "Invalid request URL"),
        ("GET", "/v1/models/summator/versions/x", 400, "Invalid request URL"),
        ("POST", "/v1/models/summator:other", 400, "Invalid request URL"),
        ("GET", "/v1/elsewhere", 400, "Invalid request URL"),
        ("GET", "/v1/models/%2E%2E/etc", 400, "Invalid request URL"),
    ],
)
def test_other_paths_and_methods(client, method, path, status, text) -> None:
    """Each refusal has its own status."""
    answer = client.request(method, path)

    assert (answer.status_code, answer.json()) == (status, {"error": text})


def test_status_is_told_in_strings_and_names(client) -> None:
    """Versions are strings."""
    assert client.get("/v1/models/summator").json() == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": "OK"},
            }
        ]
    }


def test_metadata_is_told_in_lower_camel_case(client) -> None:
    """64-bit numbers are strings, as protobuf writes them."""
    answer = client.get("/v1/models/summator/versions/1/metadata").json()

    definition = answer["metadata"]["signature_def"]["signatureDef"]["serving_default"]
    assert answer["modelSpec"] == {"name": "summator", "signatureName": "", "version": "1"}
    assert answer["metadata"]["signature_def"]["@type"] == (
        "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    )
    assert definition["methodName"] == ""
    assert definition["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "tensorShape": {
                "dim": [{"size": "1", "name": ""}, {"size": "10", "name": ""}],
                "unknownRank": False,
            },
            "name": "x",
        }
    }


def test_config_tells_all_models(client) -> None:
    """By name."""
    found = client.get("/v1/config").json()

    assert sorted(found) == ["dummy", "summator"]
    assert len(found["dummy"]["model_version_status"]) == 2


@pytest.mark.parametrize(("changed", "status"), [(True, 201), (False, 200)])
def test_reload_tells_whether_anything_changed(client, catalog, changed, status) -> None:
    """The body of the request is not looked at."""
    catalog.reloaded = changed

    answer = client.post("/v1/config/reload", content=b"anything")

    assert answer.status_code == status
    assert sorted(answer.json()) == ["dummy", "summator"]


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("config", 412, "Reloading config file failed. Check server logs for more info."),
        ("models", 500, "Reloading models versions failed. Check server logs for more info."),
        ("missing", 500, "Config file not found or cannot open."),
        ("off", 500, "own words"),
    ],
)
def test_reload_tells_what_failed(client, catalog, kind, status, text) -> None:
    """With Model Server's texts."""
    catalog.reloaded = ReloadError("own words", kind=kind, status=status)

    answer = client.post("/v1/config/reload")

    assert (answer.status_code, answer.json()) == (status, {"error": text})
