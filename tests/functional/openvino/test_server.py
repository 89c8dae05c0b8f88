"""``legato serve model.xml``: started, killed and started again."""

import os
import signal

import grpc
import numpy as np
import pytest
from tests.functional.conftest import start
from tests.functional.serving.models import TIMEOUT_S, caller
from tests.models import openvino_models as models

from legato.protocols.kserve.gen import kserve_pb2 as pb


def request(x, sequence, **flags):
    made = pb.ModelInferRequest(model_name="lstm")
    made.parameters["sequence_id"].int64_param = sequence
    for name, value in flags.items():
        made.parameters[f"sequence_{name}"].bool_param = value
    made.inputs.add(name="x", datatype="FP32", shape=x.shape)
    made.raw_input_contents.append(x.tobytes())
    return made


def infer(served, made):
    with grpc.insecure_channel(served.address) as channel:
        answer = caller(channel)(made, timeout=TIMEOUT_S)
    return np.frombuffer(answer.raw_output_contents[0], np.float32)


@pytest.fixture
def lstm():
    return lambda: models.lstm(hidden=48)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_sequence_goes_on_after_the_server_died(tmp_path, lstm, how):
    """No acknowledged step is lost, and none is applied twice: answers are as natively."""
    path = models.save(lstm(), tmp_path, "lstm")
    native = models.Native(lstm())
    rows = np.random.default_rng(1).standard_normal((10, 1, 40)).astype(np.float32)
    expected = [native.step(1, x=row)["y"] for row in rows]
    answers = []

    for life in range(2):
        served = start(path, data=tmp_path / "data")
        try:
            served.await_ready()
            mine = range(5 * life, 5 * life + 5)
            answers += [infer(served, request(rows[at], 7, start=at == 0)) for at in mine]
            if how is signal.SIGKILL:
                os.kill(served.pid, how)
            else:
                served.stop(how)
        finally:
            served.close()

    np.testing.assert_allclose(np.array(answers), np.concatenate(expected), rtol=1e-4, atol=1e-6)


def test_metadata_names_openvino_and_no_state(tmp_path):
    """A client sees data inputs and outputs only."""
    path = models.save(models.starts_from_data(), tmp_path, "seeded")
    served = start(path, store="memory")
    try:
        served.await_ready()
        with grpc.insecure_channel(served.address) as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelMetadata",
                request_serializer=pb.ModelMetadataRequest.SerializeToString,
                response_deserializer=pb.ModelMetadataResponse.FromString,
            )
            told = ask(pb.ModelMetadataRequest(name="seeded"), timeout=TIMEOUT_S)
    finally:
        served.close()

    assert told.platform == "openvino"
    assert [tensor.name for tensor in told.inputs] == ["x", "seed"]
    assert [tensor.name for tensor in told.outputs] == ["y"]
