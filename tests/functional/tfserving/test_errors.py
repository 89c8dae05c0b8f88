"""Every row of the error tables, as clients see it over gRPC and REST."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

IDS = itertools.count(3_000_000)
NO_SHAPE = "Special input proto does not contain tensor shape information"
ID_TYPE = "Could not find sequence id in expected tensor proto field uint64_val"
CONTROL_TYPE = "Could not find sequence control input in expected tensor proto field uint32_val"
FAILING = '''
import numpy as np
from legato.model import Batch, Input, Model, Output, Result, State


class Moody(Model):
    """Fails when it is told to."""

    inputs = [Input("x", "float32", (1, 1))]
    outputs = [Output("y", "float32", (1, 1))]
    states = [State("sum", "float32", (1, 1))]

    def step(self, batch):
        if (batch.inputs["x"] < 0).any():
            raise ValueError("no negative numbers")
        total = batch.state["sum"] + batch.inputs["x"]
        return Result({"y": total}, {"sum": total})
'''


@pytest.fixture(scope="module")
def server(ovms, kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kit.save(folder, "wide", kit.models.accumulator(10))
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    path = kit.write_config(
        folder / "config.json",
        {"name": "wide", "base_path": "wide", "stateful": True},
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


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_that_are_not_offered(plain, kit, method) -> None:
    """UNIMPLEMENTED."""
    with pytest.raises(kit.Failed) as caught:
        plain.call(f"PredictionService/{method}", b"")

    assert caught.value.status == 12


def test_a_model_that_fails(serve, kit, tmp_path_factory) -> None:
    """INTERNAL / 500 with Model Server's text; the sequence is as it was, END included."""
    folder = tmp_path_factory.mktemp("moody") / "moody"
    folder.mkdir()
    (folder / "model.yaml").write_text("runtime: python\nentry: moody.py:Moody\n")
    (folder / "moody.py").write_text(FAILING)
    served = serve(folder)
    plain = kit.Plain(served.address)

    def step(value, control):
        inputs = {
            "x": kit.content(np.float32([[value]])),
            kit.ID: kit.uint64(7),
            kit.CONTROL: kit.uint32(control),
        }
        return plain.predict("moody", inputs)["y"].item()

    refused = []
    for value, control in ((-1, 1), (1, 1), (-1, 0), (1, 0), (-1, 2), (1, 2), (1, 0)):
        try:
            refused.append(step(value, control))
        except kit.Failed as error:
            refused.append((error.status, error.text))
    plain.close()

    failed, gone = (13, "Internal inference error"), (5, "Sequence with provided ID does not exist")
    assert refused == [failed, 1, failed, 2, failed, 3, gone]
