"""Every row of the error tables, as clients see it over gRPC and REST."""

from __future__ import annotations

import itertools
import json

import httpx
import numpy as np
import pytest
from tests.functional.tfserving.conftest import Failed

IDS = itertools.count(3_000_000)
NO_SHAPE = "Special input proto does not contain tensor shape information"
ID_TYPE = "Could not find sequence id in expected tensor proto field uint64_val"
CONTROL_TYPE = "Could not find sequence control input in expected tensor proto field uint32_val"


@pytest.fixture(scope="module")
def server(ovms, kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kit.save(folder, "wide", kit.models.accumulator(10))
    kit.save(folder, "picky", kit.models.picky())
    kit.save(folder, "laborious", kit.models.laborious())
    kit.save(folder, "two", kit.models.lstm_given_first())
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    path = kit.write_config(
        folder / "config.json",
        {"name": "wide", "base_path": "wide", "stateful": True},
        {"name": "picky", "base_path": "picky", "stateful": True},
        {"name": "laborious", "base_path": "laborious", "stateful": True},
        {"name": "two", "base_path": "two", "stateful": True},
        {"name": "broken", "base_path": "broken"},
    )
    return ovms("--config_path", path)


@pytest.fixture
def plain(server, kit):
    made = kit.Plain(server.address)
    yield made
    made.close()


def right(kit):
    return {"x": kit.content(np.ones((1, 10), np.float32)), kit.CONTROL: kit.uint32(1)}


@pytest.mark.parametrize(
    ("name", "write", "text"),
    [
        ("id", lambda kit: kit.uint64(7, None), NO_SHAPE),
        ("id", lambda kit: kit.uint64(7, ()), NO_SHAPE),
        ("control", lambda kit: kit.uint32(1, None), NO_SHAPE),
        ("id", lambda kit: kit.uint64(7, (1, 1)),
         "Invalid number of shape dimensions - Required shape for sequence_id is: (1)"),
        ("control", lambda kit: kit.uint32(1, (1, 1)),
         "Invalid number of shape dimensions - Required shape for sequence_control_input is: (1)"),
        ("id", lambda kit: kit.uint64(7, (2,)),
         "Invalid input shape - Required shape for sequence_id is: (1)"),
        ("control", lambda kit: kit.uint32(1, (2,)),
         "Invalid input shape - Required shape for sequence_control_input is: (1)"),
        ("id", lambda kit: kit.tensor(23, (1,), 16, kit.varint(7)), ID_TYPE),
        ("id", lambda kit: kit.tensor(22, (1,), 16, kit.varint(7)), ID_TYPE),
        ("control", lambda kit: kit.tensor(22, (1,), 17, kit.varint(1)), CONTROL_TYPE),
        ("id", lambda kit: kit.tensor(23, (1,), 17, b"\x07\x08"), ID_TYPE),
        ("control", lambda kit: kit.tensor(22, (1,), 16, b"\x01\x01"), CONTROL_TYPE),
        ("id", lambda kit: kit.tensor(23, (1,), 17, b""), ID_TYPE),
    ],
)  # fmt: skip
def test_special_tensors_over_grpc(plain, kit, name, write, text) -> None:
    """14, 15: shape before value, each with its own text."""
    inputs = right(kit) | {kit.ID if name == "id" else kit.CONTROL: write(kit)}

    with pytest.raises(kit.Failed) as caught:
        plain.predict("wide", inputs)

    assert (caught.value.status, caught.value.text) == (3, text)


@pytest.mark.parametrize(
    "write",
    [
        lambda kit, name: kit.tensor(1, (1,), 17, kit.varint(name)),  # a wrong dtype
        lambda kit, name: kit.content(np.array([name], np.uint64)),
        lambda kit, name: kit.content(np.array([name], np.int64)),
        lambda kit, name: kit.content(np.array([name], np.uint32)),
        lambda kit, name: kit.content(np.array([name], np.int32)),
        lambda kit, name: kit.tensor(9, (1,), 10, kit.varint(name)),  # int64_val
        lambda kit, name: kit.tensor(3, (1,), 7, kit.varint(name)),  # int_val
    ],
)
def test_spellings_of_the_id_over_grpc(plain, kit, write) -> None:
    """15, and what real clients send."""
    name = next(IDS)

    found = plain.predict("wide", right(kit) | {kit.ID: write(kit, name)})

    assert found["sequence_id"] == name


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.ones((1, 10), np.int32),
         "Invalid input precision - Expected: FP32; Actual: I32; input name: x"),
        (np.ones(10, np.float32),
         "Invalid number of shape dimensions - Expected: (1,10); Actual: (10); input name: x"),
        (np.ones((2, 10), np.float32),
         "Invalid input batch size - Expected: 1; Actual: 2; input name: x"),
        (np.ones((1, 11), np.float32),
         "Invalid input shape - Expected: (1,10); Actual: (1,11); input name: x"),
    ],
)  # fmt: skip
def test_wrong_data_over_grpc(plain, kit, array, text) -> None:
    """The tests of the table, in its order."""
    with pytest.raises(kit.Failed) as caught:
        plain.predict("wide", right(kit) | {"x": kit.content(array)})

    assert (caught.value.status, caught.value.text) == (3, text)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (lambda kit: kit.tensor(1, (1, 10), 4, bytes(8)),
         ("Invalid content size of tensor proto - Expected: 40 bytes; Actual: 8 bytes; "
         "input name: x")),
        (lambda kit: kit.tensor(1, (1, 10), 5, bytes(44)),
         ("Invalid number of values in tensor proto container - Expected: 10; Actual: 11; "
         "input name: x")),
        (lambda kit: kit.tensor(1, (1, 2**64 - 1), 4, bytes(8)),
         ("Invalid input shape - Negative or zero dimension size is not acceptable: (1,-1); "
         "input name: x")),
    ],
)  # fmt: skip
def test_wrong_content_over_grpc(plain, kit, x, text) -> None:
    """Bytes, values, dimensions."""
    with pytest.raises(kit.Failed) as caught:
        plain.predict("wide", right(kit) | {"x": x(kit)})

    assert caught.value.text == text


@pytest.mark.parametrize("values", [1, 10])
def test_typed_values_over_grpc(plain, kit, values) -> None:
    """One for all, or one for each: legal in TensorFlow, refused by Model Server."""
    x = kit.tensor(1, (1, 10), 5, np.full(values, 3, np.float32).tobytes())

    found = plain.predict("wide", right(kit) | {"x": x})

    assert found["y"].tolist() == [[3.0] * 10]


def test_counts_and_names_over_grpc(plain, kit) -> None:
    """Too many inputs; and a wrong name, which shows as a missing one."""
    texts = []
    for inputs in (
        right(kit) | {"more": kit.content(np.float32([1]))},
        {"w": kit.content(np.ones((1, 10), np.float32)), kit.CONTROL: kit.uint32(1)},
    ):
        with pytest.raises(kit.Failed) as caught:
            plain.predict("wide", inputs)
        texts.append(caught.value.text)

    assert texts == [
        "Invalid number of inputs - Expected: 2; Actual: 3",
        "Missing input with specific name - Required input: x",
    ]


@pytest.mark.parametrize(
    ("model", "version", "status", "text"),
    [
        ("nobody", 0, 5, "Pipeline with requested name is not found"),
        ("wide", 9, 5, "Model with requested version is not found"),
        ("broken", 0, 14, "Model with requested version is not loaded yet"),
        ("broken", 1, 14, "Model with requested version is not loaded yet"),
    ],
)
def test_models_over_grpc(plain, kit, model, version, status, text) -> None:
    """Section 6."""
    with pytest.raises(kit.Failed) as caught:
        plain.predict(model, right(kit), version)

    assert (caught.value.status, caught.value.text) == (status, text)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nobody", "Model with requested name is not found"),
        ("wide/versions/9", "Model with requested version is not found"),
        ("broken", "Model with requested version is not loaded yet"),
    ],
)
@pytest.mark.parametrize("action", [":predict", "/metadata"])
def test_models_over_rest(server, path, text, action) -> None:
    """Section 6: 404, also where gRPC says unavailable."""
    body = {"inputs": {"x": [[1.0] * 10]}} if action == ":predict" else None
    method = "POST" if body else "GET"

    assert server.rest(method, f"/v1/models/{path}{action}", body) == (404, {"error": text})


def test_a_version_that_failed_says_so(server, plain, kit) -> None:
    """LOADING with an error, over both."""
    status, body = server.rest("GET", "/v1/models/broken")
    request = kit.part(1, kit.part(1, b"broken"))
    answer = plain.call("ModelService/GetModelStatus", request)

    (entry,) = body["model_version_status"]
    assert status == 200
    assert (entry["state"], entry["status"]) == (
        "LOADING",
        {"error_code": "UNKNOWN", "error_message": "UNKNOWN"},
    )
    assert dict(kit.fields(kit.fields(answer)[0][1]))[2] == 20


@pytest.mark.parametrize(
    ("service", "spec", "text"),
    [
        ("ModelService/GetModelStatus", b"nobody", "Model with requested name is not found"),
        (
            "PredictionService/GetModelMetadata",
            b"nobody",
            "Model with requested name is not found",
        ),
        ("ModelService/GetModelStatus", None, "model_spec missing in request"),
        ("PredictionService/GetModelMetadata", None, "model_spec missing in request"),
    ],
)
def test_questions_over_grpc(plain, kit, service, spec, text) -> None:
    """Sections 5.2 and 6: Predict alone speaks of pipelines."""
    request = b"" if spec is None else kit.part(1, kit.part(1, spec))
    if service.endswith("Metadata"):
        request += kit.part(2, b"signature_def")

    with pytest.raises(kit.Failed) as caught:
        plain.call(service, request)

    assert (caught.value.status, caught.value.text) == (3 if spec is None else 5, text)


@pytest.mark.parametrize("field", [None, b"other"])
def test_metadata_is_of_signatures_only(plain, kit, field) -> None:
    """Section 5.2."""
    request = kit.part(1, kit.part(1, b"wide")) + (kit.part(2, field) if field else b"")

    with pytest.raises(kit.Failed) as caught:
        plain.call("PredictionService/GetModelMetadata", request)

    assert (caught.value.status, caught.value.text) == (3, "Invalid signature name")


# -- REST ----------------------------------------------------------------------------------------

ND = "Could not parse input content. Not valid ndarray detected"
ROW_ND = "Could not parse instance content. Not valid ndarray detected"
X = [[1.0] * 10]


def post(server, body, path="/v1/models/wide:predict"):
    """Post a body as it is, or as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(server.url + path, content=data, timeout=20)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("value", "id_text", "control_text"),
    [
        ([1, 2], "sequence_id", "sequence_control_input"),
        ([[1]], ND, ND),
        (["a"], ND, ND),
        ([-1], ND, ND),
        ([1.5], ND, ND),
        ([], ND, ND),
        ([2**64], ND, ND),
    ],
)
def test_special_values_over_rest(server, value, id_text, control_text) -> None:
    """16: the table of 7.2, for both tensors."""
    shape = "Invalid input shape - Required shape for {} is: (1)"
    texts = [text if text == ND else shape.format(text) for text in (id_text, control_text)]

    answers = [
        post(server, {"inputs": {"x": X, "sequence_id": value, "sequence_control_input": [1]}}),
        post(server, {"inputs": {"x": X, "sequence_id": [1], "sequence_control_input": value}}),
    ]

    assert answers == [(400, {"error": text}) for text in texts]


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ([1], 400, "Request body should be JSON object"),
        ({}, 400, "Invalid JSON structure. Could not detect row or column format"),
        (
            {"inputs": {"x": X}, "instances": [{"x": X[0]}]},
            400,
            "Invalid JSON structure. Could not detect row or column format",
        ),
        ({"inputs": "x"}, 400, "Invalid JSON structure. One of inputs is not a JSON object."),
        ({"inputs": {}}, 400, "Invalid JSON structure, missing inputs"),
        ({"inputs": {"x": [[1], [1, 2]], "sequence_control_input": [1]}}, 400, ND),
        ({"inputs": {"x": "one", "sequence_control_input": [1]}}, 400, ND),
        ({"instances": [{"x": [[1], []], "sequence_control_input": 1}]}, 400, ROW_ND),
        ({"instances": []}, 400, "Invalid JSON structure. Missing instances in row format"),
        (
            {"instances": [{"x": X[0]}, {"w": X[0]}]},
            400,
            "Invalid JSON structure. Request inputs have different batch sizes",
        ),
        # -- the tests of section 5.1
        (
            {"inputs": {"x": X, "w": X, "sequence_control_input": [1]}},
            400,
            "Invalid number of inputs - Expected: 2; Actual: 3",
        ),
        (
            {"inputs": {"w": X, "sequence_control_input": [1]}},
            400,
            "Missing input with specific name - Required input: x",
        ),
        (
            {"inputs": {"x": X[0], "sequence_control_input": [1]}},
            400,
            ("Invalid number of shape dimensions - Expected: (1,10); Actual: (10); "
             "input name: x"),
        ),
        (
            {"inputs": {"x": X * 2, "sequence_control_input": [1]}},
            400,
            "Invalid input batch size - Expected: 1; Actual: 2; input name: x",
        ),
        (
            {"inputs": {"x": [[1.0] * 11], "sequence_control_input": [1]}},
            400,
            "Invalid input shape - Expected: (1,10); Actual: (1,11); input name: x",
        ),
        # -- and those of section 4.4 that need no sequence
        ({"inputs": {"x": X}}, 400, "Sequence ID has not been provided in request inputs"),
        (
            {"inputs": {"x": X, "sequence_control_input": [3]}},
            400,
            "Unexpected value of sequence control input",
        ),
        (
            {"inputs": {"x": X, "sequence_id": [8_999_999]}},
            404,
            "Sequence with provided ID does not exist",
        ),
    ],
)  # fmt: skip
def test_each_mistake_over_rest(server, body, status, text) -> None:
    """16: the tables of 7.2, 5.1 and 4.4."""
    assert post(server, body) == (status, {"error": text})


def test_what_is_no_json_says_where(server) -> None:
    """412."""
    status, answer = post(server, b'{"inputs": ')

    assert status == 412
    assert answer["error"].startswith("The file is not valid json - Error: ")
    assert " Offset: " in answer["error"]


def test_unnamed_data_needs_a_model_with_one_input(server) -> None:
    """The last row of 7.2."""
    assert post(server, {"inputs": X}, "/v1/models/two:predict") == (
        400,
        {"error": "Inputs inside buffer does not match expected format."},
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("POST", "/v1/models/wide:classify", 404, "Requested REST resource not found"),
        ("POST", "/v1/models/wide:regress", 404, "Requested REST resource not found"),
        ("GET", "/v1/models/wide:predict", 406, "Unsupported method"),
        ("POST", "/v1/models/wide", 406, "Unsupported method"),
        ("DELETE", "/v1/models/wide/metadata", 406, "Unsupported method"),
        ("POST", "/v1/config", 406, "Unsupported method"),
        ("GET", "/v1/config/reload", 406, "Unsupported method"),
        ("GET", "/v1/elsewhere", 400, "Invalid request URL"),
        ("GET", "/v1/models/wide/versions/one", 400, "Invalid request URL"),
    ],
)
def test_paths_and_methods(server, method, path, status, text) -> None:
    """Section 7.1."""
    assert server.rest(method, path) == (status, {"error": text})


# -- rows that take more than one request ----------------------------------------------------------


def test_an_inference_that_fails(server, client, wire) -> None:
    """INTERNAL, 500; the sequence is as it was, or is not there."""
    mine, name = client(server, wire, "picky"), next(IDS)
    failed = (13 if wire == "grpc" else 500, "Internal inference error")

    def refused(values, control):
        with pytest.raises(Failed) as caught:
            mine.step([1] * values, name, control)
        return caught.value.status, caught.value.text

    from_nothing = refused(5, 1)
    begun = mine.step([1] * 4, name, 1)
    between, at_the_end = refused(3, 0), refused(3, 2)
    ended = mine.step([1] * 4, name, 2)

    assert [from_nothing, between, at_the_end] == [failed] * 3
    assert (begun, ended) == ((4, name), (8, name))


def test_a_start_while_the_end_runs_waits_for_it(server, client, wire) -> None:
    """Model Server says 412 for as long as the END runs; here what a retry would get is got."""
    slow, other, name = client(server, model="laborious"), client(server, wire, "laborious"), 412
    slow.start(name, 2000)

    ending = slow.send(50_000, name, 2)
    while server.metrics_of("legato_sequences_running", "laborious") == 0:
        assert not ending.done(), "it must be seen while it runs"
    waited = other.start(name, 3)

    assert ending.done()
    assert waited == (3, name)
    assert other.end(name, 4) == (7, name)


def test_a_step_while_the_end_runs_finds_nothing(server, client, wire) -> None:
    """404, as in Model Server; it waits for the end, which may yet fail."""
    slow, other, name = client(server, model="laborious"), client(server, wire, "laborious"), 413
    slow.start(name, 2000)

    ending = slow.send(50_000, name, 2)
    while server.metrics_of("legato_sequences_running", "laborious") == 0:
        assert not ending.done(), "it must be seen while it runs"

    missing = (5 if wire == "grpc" else 404, "Sequence with provided ID does not exist")
    assert other.refused(1, name) == missing


def test_a_state_that_lacks_a_variable_is_told(start, kit, tmp_path, client) -> None:
    """INTERNAL, 500, never a step from an empty state; the trailers say what happened."""
    flags = ["--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful",
             "--data", tmp_path / "data"]  # fmt: skip
    kit.save(tmp_path, "summator", kit.models.accumulator(1))
    before = start(*flags)
    client(before).start(7)
    before.served.stop()
    kit.models.save(kit.models.laborious(), tmp_path / "summator" / "1")
    after = start(*flags)
    by_grpc, by_rest = client(after), client(after, "rest")

    with pytest.raises(Failed) as caught:
        by_grpc.step(1, 7)

    text = "Internal server error"
    assert (caught.value.status, caught.value.text) == (13, text)
    assert caught.value.trailers["legato-reason"] == "model_changed"
    assert by_rest.refused(1, 7) == (500, text)
    assert by_rest.start(8) == (1, 8)


def test_a_step_that_names_another_version_finds_nothing(start, kit, tmp_path, client) -> None:
    """404: there, a version knows its own sequences only."""
    for version in (1, 2):
        kit.save(tmp_path, "summator", kit.models.accumulator(1), version)
    server = start(
        "--model_name", "summator", "--model_path", tmp_path / "summator", "--stateful",
        "--model_version_policy", '{"all": {}}',
    )  # fmt: skip
    inputs = {"x": kit.content(np.float32([[1]])), kit.ID: kit.uint64(7)}
    plain = client(server).plain
    plain.predict("summator", {**inputs, kit.CONTROL: kit.uint32(1)}, 1)

    with pytest.raises(kit.Failed) as caught:
        plain.predict("summator", inputs, 2)
    over_rest = post(
        server,
        {"inputs": {"x": [[1]], "sequence_id": [7]}},
        "/v1/models/summator/versions/2:predict",
    )

    missing = "Sequence with provided ID does not exist"
    assert (caught.value.status, caught.value.text) == (5, missing)
    assert caught.value.trailers["legato-reason"] == "other_version"
    assert over_rest == (404, {"error": missing})
    assert plain.predict("summator", inputs, 1)["y"].item() == 2


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_that_are_not_offered(plain, kit, method) -> None:
    """UNIMPLEMENTED."""
    with pytest.raises(kit.Failed) as caught:
        plain.call(f"PredictionService/{method}", b"")

    assert caught.value.status == 12
