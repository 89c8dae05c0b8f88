"""Clients of other makes run whole sequences: ovmsclient, curl, tritonclient."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess

import numpy as np
import ovmsclient
import pytest

IDS = itertools.count(2_000_000)
STATELESS = "dummy"


@pytest.fixture(scope="module")
def server(ovms, kit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kit.save(folder, "summator", kit.models.accumulator(1))
    kit.save(folder, STATELESS, kit.models.dummy())
    kit.save(folder, "lstm", kit.models.lstm(size=4, hidden=8, out=3))
    path = kit.write_config(
        folder / "config.json",
        {"name": "summator", "base_path": "summator", "stateful": True},
        {"name": "lstm", "base_path": "lstm", "stateful": True},
        {"name": STATELESS, "base_path": STATELESS},
    )
    return ovms("--config_path", path)


@pytest.fixture
def client(server, wire):
    if wire == "grpc":
        return ovmsclient.make_grpc_client(server.address)
    return ovmsclient.make_http_client(server.url.removeprefix("http://"))


def value(x):
    return np.array([[x]], np.float32)


# -- ovmsclient -------------------------------------------------------------------------------

NAMES = {
    "numpy scalar": np.uint64,
    "numpy array": lambda name: np.array([name], np.uint64),
    "signed array": lambda name: np.array([name], np.int64),
    "list": lambda name: [name],
    "int": int,
}
CONTROLS = {
    "numpy scalar": np.uint32,
    "numpy array": lambda control: np.array([control], np.uint32),
    "signed array": lambda control: np.array([control], np.int32),
    "list": lambda control: [control],
    "int": int,
}


@pytest.mark.parametrize("spelling", NAMES)
def test_ovmsclient_runs_a_sequence_in_every_spelling(client, spelling) -> None:
    """Model Server itself took only the first one over gRPC."""
    name, spell, control = next(IDS), NAMES[spelling], CONTROLS[spelling]

    def step(x, flag):
        inputs = {
            "x": value(x),
            "sequence_id": spell(name),
            "sequence_control_input": control(flag),
        }
        answer = client.predict(inputs, "summator")
        assert int(answer["sequence_id"][0]) == name
        return answer["y"].item()

    assert [step(1, 1), step(2, 0), step(3, 2)] == [1, 3, 6]


def test_ovmsclient_takes_the_id_that_the_server_gives(client) -> None:
    """And uses it for the rest, as the sample clients do."""
    started = client.predict({"x": value(1), "sequence_control_input": np.uint32(1)}, "summator")
    name = np.uint64(started["sequence_id"][0])

    between = client.predict({"x": value(1), "sequence_id": name}, "summator")
    ended = client.predict(
        {"x": value(1), "sequence_id": name, "sequence_control_input": np.uint32(2)}, "summator"
    )

    assert (between["y"].item(), ended["y"].item()) == (2, 3)
    with pytest.raises(ovmsclient.ModelNotFoundError, match="Sequence with provided ID"):
        client.predict({"x": value(1), "sequence_id": name}, "summator")


def test_ovmsclient_reads_metadata_and_status(client) -> None:
    """Special tensors are not listed."""
    assert client.get_model_metadata("summator") == {
        "model_version": 1,
        "inputs": {"x": {"shape": [1, 1], "dtype": "DT_FLOAT"}},
        "outputs": {"y": {"shape": [1, 1], "dtype": "DT_FLOAT"}},
    }
    status = client.get_model_status("summator")
    assert status == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": "OK"}}


def test_ovmsclient_uses_a_model_without_state(client) -> None:
    """One output comes bare; several rows are one request."""
    x = np.arange(30, dtype=np.float32).reshape(3, 10)

    found = client.predict({"b": x}, STATELESS, model_version=1)

    np.testing.assert_array_equal(found, x + 1)


def test_an_lstm_answers_as_openvino_alone(client, kit) -> None:
    """Over a whole sequence, in the model's own precision."""
    native = kit.models.Native(kit.models.lstm(size=4, hidden=8, out=3))
    rows = np.random.default_rng(1).standard_normal((20, 1, 4)).astype(np.float32)
    name = np.uint64(next(IDS))

    for at, row in enumerate(rows):
        control = np.uint32(1 if at == 0 else 2 if at == 19 else 0)
        answer = client.predict(
            {"x": row, "sequence_id": name, "sequence_control_input": control}, "lstm"
        )
        np.testing.assert_allclose(answer["y"], native.step(1, x=row)["y"], rtol=1e-4, atol=1e-6)


# -- curl -----------------------------------------------------------------------------------------


def curl(server, path, body=None, *more):
    """Run curl; status and parsed answer."""
    program = shutil.which("curl")
    assert program, "these tests need curl"
    arguments = [program, "-sS", "-w", "\n%{http_code}", *more]
    if body is not None:
        arguments += ["-d", body if isinstance(body, str) else json.dumps(body)]
    done = subprocess.run(
        [*arguments, server.url + path], capture_output=True, text=True, timeout=20, check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


@pytest.mark.parametrize(
    "write",
    [
        lambda x, name, control: {
            "inputs": {"x": [[x]], "sequence_id": [name], "sequence_control_input": [control]}
        },
        lambda x, name, control: {
            "inputs": {"x": [[x]], "sequence_id": name, "sequence_control_input": control}
        },
        lambda x, name, control: {
            "instances": [{"x": [x], "sequence_id": [name], "sequence_control_input": [control]}]
        },
        lambda x, name, control: {
            "signature_name": "serving_default",
            "instances": [{"x": [x], "sequence_id": name, "sequence_control_input": control}],
        },
    ],
    ids=["column lists", "column numbers", "row lists", "row numbers"],
)
def test_curl_runs_a_sequence_in_every_spelling(server, write) -> None:
    """The answer has the form of the question."""
    name = next(IDS)
    bodies = [write(1, name, 1), write(2, name, 0), write(3, name, 2)]

    answers = [curl(server, "/v1/models/summator:predict", body) for body in bodies]

    if "inputs" in bodies[0]:
        expected = [{"outputs": {"y": [[s]], "sequence_id": [name]}} for s in (1, 3, 6)]
    else:
        expected = [{"predictions": [{"y": [s], "sequence_id": name}]} for s in (1, 3, 6)]
    assert answers == [(200, body) for body in expected]


def test_curl_sees_all_routes(server) -> None:
    """Of a version, of all models, and what is not there."""
    status = curl(server, "/v1/models/summator/versions/1")
    metadata = curl(server, "/v1/models/summator/metadata")
    config = curl(server, "/v1/config")
    reload = curl(server, "/v1/config/reload", "", "-X", "POST")
    nothing = curl(server, "/v1/models/nobody")

    assert status[1]["model_version_status"][0]["state"] == "AVAILABLE"
    assert metadata[1]["modelSpec"]["version"] == "1"
    assert sorted(config[1]) == [STATELESS, "lstm", "summator"]
    assert reload == (200, config[1])
    assert nothing == (404, {"error": "Model with requested name is not found"})


# -- KServe: what Model Server never managed ------------------------------------------------------


def kserve_inputs(module, x, name=None, control=None):
    inputs = [module.InferInput("x", [1, 1], "FP32").set_data_from_numpy(value(x))]
    if name is not None:
        made = module.InferInput("sequence_id", [1], "UINT64")
        inputs.append(made.set_data_from_numpy(np.array([name], np.uint64)))
    if control is not None:
        made = module.InferInput("sequence_control_input", [1], "UINT32")
        inputs.append(made.set_data_from_numpy(np.array([control], np.uint32)))
    return inputs


def kserve(server, wire):
    if wire == "grpc":
        import tritonclient.grpc as module

        return module, module.InferenceServerClient(server.address)
    import tritonclient.http as module

    return module, module.InferenceServerClient(server.url.removeprefix("http://"))


def test_tritonclient_names_a_sequence_by_tensors(server, wire) -> None:
    """The id comes back as an output and as a parameter."""
    module, client = kserve(server, wire)
    started = client.infer("summator", kserve_inputs(module, 1, None, 1))
    name = int(started.as_numpy("sequence_id")[0])

    between = client.infer("summator", kserve_inputs(module, 2, name))
    ended = client.infer("summator", kserve_inputs(module, 3, name, 2))

    sums = [answer.as_numpy("y").item() for answer in (started, between, ended)]
    assert sums == [1, 3, 6]
    if wire == "grpc":
        assert between.get_response().parameters["sequence_id"].int64_param == name
    else:
        assert between.get_response()["parameters"]["sequence_id"] == name
    client.close()


def test_a_sequence_begun_over_rest_goes_on_over_kserve(server, wire, kit) -> None:
    """By tensors or by parameters: it is one sequence."""
    module, client = kserve(server, wire)
    own = kit.Summator(server, "rest")
    name = next(IDS)
    own.start(name)

    by_tensors = client.infer("summator", kserve_inputs(module, 1, name))
    by_parameters = client.infer("summator", kserve_inputs(module, 1), sequence_id=name)
    ended = own.end(name)

    assert by_tensors.as_numpy("y").item() == 2
    assert by_parameters.as_numpy("y").item() == 3
    assert ended == (4, name)
    client.close()
    own.close()


def test_a_second_start_by_tensors_is_refused(server, wire) -> None:
    """The rules are those of the tensors, not of the protocol they came by."""
    module, client = kserve(server, wire)
    name = next(IDS)
    client.infer("summator", kserve_inputs(module, 1, name, 1))

    with pytest.raises(module.InferenceServerException):
        client.infer("summator", kserve_inputs(module, 1, name, 1))

    again = client.infer("summator", kserve_inputs(module, 1, name, 2))
    assert again.as_numpy("y").item() == 2
    client.close()
