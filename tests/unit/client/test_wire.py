"""Steps become requests that the server reads as they were meant."""

from __future__ import annotations

import numpy as np
import pytest

from legato.client.tensors import Payload
from legato.client.window import Pending
from legato.client.wire import (
    StepWriter,
    failure_of,
    incarnation_of,
    model_info,
    read_outputs,
    start_parameters,
    streamed_failure,
)
from legato.core.types import KSERVE, Step
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.to_core import fill
from legato.repository.triton.gen import model_config_pb2 as config_pb

PAYLOAD = Payload((("x", "FP32", (1, 2)),), (np.float32([[1, 2]]).tobytes(),))

START = start_parameters()


def read(data: bytes) -> Step:
    """Read a request as the server does."""
    step = Step("", None, {}, KSERVE)
    fill(step, data)
    return step


def pending(number: int, *, end: bool = False, payload: Payload = PAYLOAD) -> Pending:
    return Pending(number, f"t.{number}", payload, end, None)


def test_first_step_starts_and_later_ones_do_not() -> None:
    """Flags of one step do not stick to the next."""
    starting = start_parameters(restart=True, idle_timeout_s=5, durability="disk")
    writer = StepWriter("m", "2", "a", ["y"], starting=starting)

    first = read(writer.write(pending(1), 0, ""))
    last = read(writer.write(pending(2, end=True), 1, "ab" * 16))
    again = read(writer.write(pending(1), 0, ""))

    assert (first.model, first.version, first.correlation_id, first.outputs) == (
        "m", "2", "a", ("y",),
    )  # fmt: skip
    assert (first.number, first.start, first.restart, first.end) == (1, True, True, False)
    assert [(step.ttl_s, step.level) for step in (first, last)] == [(5.0, "disk"), (None, "")]
    assert (first.request_id, first.acknowledged, first.incarnation) == ("t.1", 0, b"")
    assert (last.number, last.start, last.restart, last.end) == (2, False, False, True)
    assert (last.acknowledged, last.incarnation) == (1, bytes.fromhex("ab" * 16))
    assert (again.start, again.end) == (True, False)
    assert first.inputs["x"].tolist() == [[1, 2]]


@pytest.mark.parametrize("sequence", ["7", 7, 2**63 + 5])
def test_ids_keep_their_kind(sequence) -> None:
    """A number stays a number, also one of 64 bits."""
    step = read(StepWriter("m", "", sequence, starting=START).write(pending(1), 0, ""))

    assert step.correlation_id == sequence


def test_shapes_may_change_from_step_to_step() -> None:
    """Headers follow their data."""
    writer = StepWriter("m", "", "a", starting=START)
    longer = Payload((("x", "FP32", (1, 3)),), (np.float32([[1, 2, 3]]).tobytes(),))

    writer.write(pending(1), 0, "")
    step = read(writer.write(pending(2, payload=longer), 1, ""))

    assert step.inputs["x"].shape == (1, 3)


def test_answer_becomes_outputs() -> None:
    """Arrays by name, with what the parameters say."""
    response = pb.ModelInferResponse(model_version="3")
    response.outputs.add(name="y", datatype="INT64", shape=[1, 1])
    response.raw_output_contents.append(np.int64(5).tobytes())
    response.parameters["sequence_replayed"].bool_param = True
    response.parameters["sequence_incarnation"].string_param = "ff"
    response.parameters["sequence_durability"].string_param = "disk"

    outputs = read_outputs(response, 4)

    assert outputs["y"].tolist() == [[5]]
    assert (outputs.step, outputs.replayed, outputs.version) == (4, True, "3")
    assert outputs.durability == "disk"
    assert incarnation_of(response) == "ff"
    assert incarnation_of(pb.ModelInferResponse()) == ""


def test_trailers_and_messages_tell_the_same_failure() -> None:
    """What a status says in trailers, a stream without status says in parameters."""
    facts = {
        "legato-reason": "queue_full",
        "legato-expected-step": "4",
        "legato-retry-after-ms": "250",
    }
    message = pb.ModelStreamInferResponse(error_message="full")
    for key, value in facts.items():
        message.infer_response.parameters[key].string_param = value

    trailed = failure_of("RESOURCE_EXHAUSTED", "full", [*facts.items(), ("x-bin", b"\0")])
    streamed = streamed_failure(message)

    assert (trailed.code, streamed.code) == ("RESOURCE_EXHAUSTED", "")
    for failure in (trailed, streamed):
        assert (failure.reason, failure.expected_step) == ("queue_full", 4)
        assert (failure.message, failure.retry_after_s) == ("full", 0.25)
    assert failure_of("UNAVAILABLE", "", None).reason == ""
    message.infer_response.parameters["legato-status"].string_param = "RESOURCE_EXHAUSTED"
    assert streamed_failure(message) == trailed


def test_configuration_says_what_may_be_left_out() -> None:
    """Optional inputs, a batch in front, and how many answers are kept."""
    metadata = pb.ModelMetadataResponse(name="m", versions=["1"])
    for name in ("x", "rate"):
        metadata.inputs.add(name=name, datatype="FP32", shape=[-1, 4])
    config = config_pb.ModelConfig(max_batch_size=8)
    config.input.add(name="rate", optional=True)
    config.parameters["sequence_receipts"].string_value = "4"

    full, core = model_info(metadata, config), model_info(metadata, None)

    assert [tensor.optional for tensor in full.inputs] == [False, True]
    assert (full.batched, full.receipts) == (True, 4)
    assert (core.batched, core.receipts) == (False, None)
