"""Methods of the two services, without a network."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from google.protobuf import descriptor_pool
from ovmsclient.tfs_compat.protos.tensorflow_serving.apis import get_model_metadata_pb2

from legato.core.errors import ServerError, UnknownSequenceError
from legato.core.types import OutputHeader, Reply
from legato.engine.catalog import Known, VersionState
from legato.protocols.rpc.reflection import Catalogue
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.tfserving import predict
from legato.protocols.tfserving.gen import tfserving_pb2 as pb
from legato.protocols.tfserving.grpc_service import MODEL, PREDICTION, services


@pytest.fixture
def ask(engine, catalog, kit, counts):
    """Call a method with a message; the finished call."""
    methods = {
        f"{service.name}/{name}": method
        for service in services(engine, catalog, counts)
        for name, method in service.methods.items()
    }

    def ask(name, message, **metadata):
        call = kit.Call({key.replace("_", "-"): value for key, value in metadata.items()})
        handler = methods[name].factory(call)
        handler.message(message if isinstance(message, bytes) else message.SerializeToString())
        handler.half_close()
        call.handler = handler
        return call

    return ask


PREDICT = f"{PREDICTION}/Predict"


def test_predict_answers_with_outputs_and_id(ask, engine, kit) -> None:
    """The number of the step travels beside them."""
    engine.answer = kit.reply(step=3)

    call = ask(PREDICT, kit.start(7))

    answer = pb.PredictResponse.FromString(call.sent[0])
    assert call.status is Status.OK
    assert set(answer.outputs) == {"y", "sequence_id"}
    assert call.headers == {"legato-step": "3"}


def test_requests_are_counted_by_how_they_end(ask, engine, kit, counts) -> None:
    """Refused before the engine or by it; not where there is no model to count them for."""
    engine.answer = kit.reply()
    ask(PREDICT, kit.start(7))
    engine.answer = UnknownSequenceError(7)
    ask(PREDICT, kit.start(7))
    ask(PREDICT, kit.start(7, sequence_id=kit.values("uint64_val", 7, shape=(2,))))
    ask(PREDICT, kit.request("nobody"))
    ask(f"{PREDICTION}/GetModelMetadata", metadata_request())
    ask(f"{MODEL}/GetModelStatus", status_request("gone"))

    assert counts.counted == [
        ("Predict", "summator", "1", True),
        ("Predict", "summator", "1", False),
        ("Predict", "summator", "1", False),
        ("GetModelMetadata", "summator", "1", True),
        ("GetModelStatus", "gone", "", True),
    ]
    assert counts.timed == [("summator", "1")]


@pytest.fixture
def uncounted(engine, catalog, kit):
    """Predict on a server that counts nothing."""
    method = services(engine, catalog)[0].methods["Predict"]

    def uncounted(message):
        call = kit.Call()
        method.factory(call).message(message.SerializeToString())
        return call

    return uncounted


def test_a_server_that_counts_nothing_answers_all_the_same(uncounted, engine, kit) -> None:
    """The usual one."""
    engine.answer = kit.reply()

    assert uncounted(kit.start(7)).status is Status.OK
    assert uncounted(kit.request("nobody")).status is Status.NOT_FOUND


def test_predict_tells_a_repeat(ask, engine, kit) -> None:
    """A stored reply says so."""
    engine.answer = kit.reply(step=3, replayed=True)

    call = ask(PREDICT, kit.start(7), legato_step="1")

    assert engine.steps[0].number == 1
    assert call.headers["legato-replayed"] == "true"


@pytest.mark.parametrize(
    ("model", "version", "status", "text"),
    [
        ("nobody", 0, 5, "Pipeline with requested name is not found"),
        ("summator", 9, 5, "Model with requested version is not found"),
        ("gone", 1, 5, "Model with requested version is retired"),
        ("gone", 2, 14, "Model with requested version is not loaded yet"),
    ],
)
def test_predict_tells_models_that_are_not_there(
    ask, engine, kit, model, version, status, text
) -> None:
    """Before anything else of the request is looked at."""
    call = ask(PREDICT, kit.request(model, version))

    assert (int(call.status), call.text) == (status, text)
    assert not engine.steps


async def test_a_model_that_is_being_loaded_is_waited_for(ask, engine, catalog, kit, monkeypatch):
    """And then served; one that never comes is refused in the end."""
    monkeypatch.setattr(predict, "BETWEEN_LOOKS_S", 0.0)
    engine.answer = kit.reply()
    loading = [Known("1", VersionState.LOADING)]
    catalog.states["summator"] = loading

    call = ask(PREDICT, kit.request("summator", 1, **kit.start(7).inputs))
    before = call.status
    await asyncio.sleep(0)
    del catalog.states["summator"]
    for _turn in range(20):
        await asyncio.sleep(0)
    catalog.states["summator"] = loading
    never = ask(PREDICT, kit.request("summator", 1, **kit.start(7).inputs))
    for _turn in range(500):
        await asyncio.sleep(0)

    assert (before, call.status) == (None, Status.OK)
    assert (never.status, never.text) == (14, "Model with requested version is not loaded yet")


def test_a_refused_request_never_reaches_the_engine(ask, engine, kit) -> None:
    """A START with wrong data makes no sequence."""
    call = ask(PREDICT, kit.start(7, x=kit.tensor(np.ones((1, 11), np.float32))))

    assert call.status is Status.INVALID_ARGUMENT
    assert not engine.steps


def test_an_error_of_the_engine_is_told(ask, engine, kit) -> None:
    """With what is known in the trailers."""
    engine.answer = UnknownSequenceError(7)

    call = ask(PREDICT, kit.start(7))

    assert (call.status, call.text) == (5, "Sequence with provided ID does not exist")
    assert call.trailers["legato-reason"] == "unknown_sequence"


def test_bytes_that_are_no_request_end_the_call(ask) -> None:
    """With the status that gRPC itself uses for that."""
    with pytest.raises(RpcError) as caught:
        ask(PREDICT, b"\xff\xff")

    assert caught.value.status is Status.INTERNAL


def test_a_client_that_leaves_takes_its_step_back(ask, engine, kit) -> None:
    """If it has not begun."""
    call = ask(PREDICT, kit.start(7))

    call.handler.cancel()

    assert engine.cancelled == [engine.steps[0]]


def test_a_sequence_on_an_older_version_may_have_other_inputs(ask, engine, catalog, kit) -> None:
    """Only what fits no version is refused; a START must fit the one it begins on."""
    other = np.ones((1, 4), np.float32)
    older = kit.served("summator", kit.SUMMATOR)
    inputs = (type(kit.SUMMATOR.inputs[0])("x", "float32", (1, 4)),)
    older.signature = type(kit.SUMMATOR)(inputs, (), kit.SUMMATOR.states)
    catalog.lingering = [older]
    going_on = {"x": kit.tensor(other), "sequence_id": kit.values("uint64_val", 7)}

    went_on = ask(PREDICT, kit.request("summator", **going_on))
    began = ask(PREDICT, kit.start(7, x=kit.tensor(other)))

    assert went_on.status is None
    assert engine.steps[0].inputs["x"].shape == (1, 4)
    assert began.status is Status.INVALID_ARGUMENT


def test_several_rows_are_one_answer(ask, engine, kit) -> None:
    """Of a model without state; the rows are steps of their own."""
    headers = (OutputHeader("a", "float32", (1, 10)),)
    engine.answer = lambda step: Reply(headers, ((step.inputs["b"] + 1).tobytes(),), 0, 0, "2")
    x = np.arange(30, dtype=np.float32).reshape(3, 10)

    call = ask(PREDICT, kit.request("dummy", b=kit.tensor(x)))

    answer = pb.PredictResponse.FromString(call.sent[0])
    found = np.frombuffer(answer.outputs["a"].tensor_content, np.float32).reshape(3, 10)
    assert len(engine.steps) == 3
    np.testing.assert_array_equal(found, x + 1)


def test_one_failed_row_fails_the_request(ask, engine, kit) -> None:
    """There is no answer with holes."""
    headers = (OutputHeader("a", "float32", (1, 10)),)

    def answer(step):
        if step.inputs["b"][0, 0] == 10:
            return ServerError("row failed")
        return Reply(headers, (bytes(40),), 0, 0, "2")

    engine.answer = answer
    x = np.arange(30, dtype=np.float32).reshape(3, 10)

    call = ask(PREDICT, kit.request("dummy", b=kit.tensor(x)))

    assert (call.status, call.text) == (Status.INTERNAL, "row failed")


@pytest.mark.parametrize("name", ["Classify", "Regress", "MultiInference"])
def test_other_methods_are_not_offered(ask, name) -> None:
    """Model Server did not have them either."""
    with pytest.raises(RpcError) as caught:
        ask(f"{PREDICTION}/{name}", b"")

    assert caught.value.status is Status.UNIMPLEMENTED


# -- metadata and status ---------------------------------------------------------------------


def metadata_request(name="summator", fields=("signature_def",), version=0):
    made = pb.GetModelMetadataRequest(metadata_field=fields)
    made.model_spec.name = name
    made.model_spec.version.value = version
    return made


def test_metadata_is_read_by_another_clients_classes(ask) -> None:
    """The type URL is the one that stock clients unpack by; special tensors are not listed."""
    call = ask(f"{PREDICTION}/GetModelMetadata", metadata_request())

    answer = get_model_metadata_pb2.GetModelMetadataResponse.FromString(call.sent[0])
    packed = answer.metadata["signature_def"]
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(packed.value)
    definition = signatures.signature_def["serving_default"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("summator", 1)
    assert {n: i.name for n, i in definition.inputs.items()} == {"x": "x"}
    assert [dim.size for dim in definition.outputs["y"].tensor_shape.dim] == [1, 10]
    assert definition.inputs["x"].dtype == 1
    assert definition.method_name == ""


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        (pb.GetModelMetadataRequest(), 3, "model_spec missing in request"),
        (metadata_request(fields=()), 3, "Invalid signature name"),
        (metadata_request(fields=("signature_def", "more")), 3, "Invalid signature name"),
        (metadata_request(fields=("other",)), 3, "Invalid signature name"),
        (metadata_request("nobody"), 5, "Model with requested name is not found"),
        (metadata_request(version=9), 5, "Model with requested version is not found"),
        (metadata_request("gone", version=1), 5, "Model with requested version is retired"),
    ],
)
def test_metadata_refuses(ask, request_, status, text) -> None:
    """With Model Server's texts."""
    call = ask(f"{PREDICTION}/GetModelMetadata", request_)

    assert (int(call.status), call.text) == (status, text)


def status_request(name, version=0):
    made = pb.GetModelStatusRequest()
    made.model_spec.name = name
    made.model_spec.version.value = version
    return made


def test_status_tells_all_versions(ask) -> None:
    """Retired ones are END, failed ones LOADING with an error; codes are told by name too."""
    call = ask(f"{MODEL}/GetModelStatus", status_request("gone"))

    found = [
        (entry.version, entry.state, entry.status.error_code, entry.status.error_message)
        for entry in pb.GetModelStatusResponse.FromString(call.sent[0]).model_version_status
    ]
    assert found == [(1, 50, 0, "OK"), (2, 20, 2, "UNKNOWN")]


def test_status_of_one_version(ask) -> None:
    """If it is asked for."""
    call = ask(f"{MODEL}/GetModelStatus", status_request("dummy", 2))

    answer = pb.GetModelStatusResponse.FromString(call.sent[0])
    assert [(entry.version, entry.state) for entry in answer.model_version_status] == [(2, 30)]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (status_request("nobody"), "Model with requested name is not found"),
        (status_request("summator", 9), "Model with requested version is not found"),
    ],
)
def test_status_refuses(ask, request_, text) -> None:
    """What was never heard of."""
    call = ask(f"{MODEL}/GetModelStatus", request_)

    assert (call.status, call.text) == (Status.NOT_FOUND, text)


def test_reload_by_grpc_accepts_anything(ask) -> None:
    """And does nothing, as Model Server."""
    call = ask(f"{MODEL}/HandleReloadConfigRequest", b"\x0a\x03abc")

    assert call.status is Status.OK
    assert pb.ReloadConfigResponse.FromString(call.sent[0]) == pb.ReloadConfigResponse()


def test_reflection_shows_the_public_names(engine, catalog) -> None:
    """The package is that of the services, with all that their files need."""
    described = Catalogue(services(engine, catalog))

    files = described.with_dependencies(described.symbols["tensorflow.serving.PredictRequest"])

    pool = descriptor_pool.DescriptorPool()
    for data in reversed(files):
        pool.AddSerializedFile(data)
    found = pool.FindMessageTypeByName("tensorflow.serving.PredictRequest")
    assert [field.number for field in found.fields] == [1, 2, 3]
    assert "tensorflow.serving.ModelService.GetModelStatus" in described.symbols
