"""Requests put together from pieces are the requests that a client would send."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from legato.bench.load import Check, Data, Load, LoadError
from legato.bench.wire import (
    VARIANTS,
    Template,
    Tensor,
    encode,
    read_streamed,
    read_unary,
)
from legato.protocols.kserve.gen import kserve_pb2 as pb

LOAD = Load("h:1", "adder", version="3")
INPUT = Tensor("x", "FP32", (-1, 2))


def request(load: Load, *inputs: Tensor, number: int = 1, end: bool = False):
    template = Template(load, inputs)
    data = template.step(template.sequence(77), b"5-1", number, 4, end=end)
    return pb.ModelInferRequest.FromString(data)


def test_request_says_model_sequence_and_place() -> None:
    """All of a request's fields survive being joined from pieces."""
    message = request(LOAD, INPUT, number=1, end=True)

    assert (message.model_name, message.model_version, message.id) == ("adder", "3", "5-1")
    assert message.parameters["sequence_id"].int64_param == 77
    assert message.parameters["sequence_start"].bool_param is True
    assert message.parameters["sequence_end"].bool_param is True
    assert "sequence_step" not in message.parameters
    assert [(i.name, i.datatype, list(i.shape)) for i in message.inputs] == [("x", "FP32", [1, 2])]
    assert [len(raw) for raw in message.raw_input_contents] == [8]


def test_middle_step_neither_starts_nor_ends() -> None:
    """Both flags are sent, as Triton's clients do."""
    message = request(LOAD, INPUT, number=2)

    assert message.parameters["sequence_start"].WhichOneof("parameter_choice") == "bool_param"
    assert message.parameters["sequence_start"].bool_param is False
    assert message.parameters["sequence_end"].bool_param is False


def test_ids_may_be_text_and_steps_numbered() -> None:
    """The two options show in the parameters."""
    message = request(replace(LOAD, text_ids=True, numbered=True), INPUT, number=9)

    assert message.parameters["sequence_id"].string_param == "sequence-77"
    assert message.parameters["sequence_step"].int64_param == 9


def test_inputs_can_be_shaped_filled_and_left_out() -> None:
    """Shape, value and absence are as the load says."""
    load = replace(LOAD, shapes={"x": (1, 3)}, values={"rate": 16000}, left_out=("y",))

    message = request(load, Tensor("x", "FP32", (1, -1)), Tensor("rate", "INT64", (1,)), INPUT_Y)

    assert [(i.name, list(i.shape)) for i in message.inputs] == [("x", [1, 3]), ("rate", [1])]
    assert np.frombuffer(message.raw_input_contents[1], "<i8").tolist() == [16000]


INPUT_Y = Tensor("y", "FP32", (1, -1))


def test_open_dimension_is_refused_with_the_option_that_helps() -> None:
    """Nothing is guessed."""
    with pytest.raises(LoadError, match=r"--shape y:1,16"):
        Template(LOAD, [INPUT_Y])


def test_unknown_data_type_is_refused() -> None:
    """The message names tensor and type."""
    with pytest.raises(LoadError, match="'x' has the data type FP8"):
        Template(LOAD, [Tensor("x", "FP8", (1,))])


def test_tensor_beyond_reason_is_refused() -> None:
    """A shape with a slip of the keyboard does not fill the memory."""
    with pytest.raises(LoadError, match="too large"):
        Template(replace(LOAD, shapes={"x": (1, 10**12)}), [INPUT])


@pytest.mark.parametrize("data", [Data.RANDOM, Data.RAMP])
def test_checked_tensors_hold_the_amounts(data: Data) -> None:
    """Every element of a variant is what the variant adds to the sum."""
    template = Template(replace(LOAD, data=data, check=Check.SUM), [INPUT])

    sent = [
        np.frombuffer(
            pb.ModelInferRequest.FromString(
                template.step(b"", b"5-1", 2, variant, end=False)
            ).raw_input_contents[0],
            "<f4",
        ).tolist()
        for variant in range(VARIANTS)
    ]

    assert sent == [[amount, amount] for amount in template.amounts]
    assert len(set(template.amounts)) > 20


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT64", "FP16", "FP64", "BF16", "BYTES"])
@pytest.mark.parametrize("data", list(Data))
def test_every_data_type_has_contents_of_the_right_size(datatype: str, data: Data) -> None:
    """Contents fit shape and data type."""
    sizes = {"BOOL": 1, "UINT8": 1, "INT64": 8, "FP16": 2, "FP64": 8, "BF16": 2, "BYTES": 8}

    message = request(replace(LOAD, data=data), Tensor("x", datatype, (1, 3)))

    assert len(message.raw_input_contents[0]) == 3 * sizes[datatype]


def test_bf16_is_the_upper_half_of_a_float() -> None:
    """1.0 is 0x3f80."""
    assert encode([1.0], "BF16") == b"\x80\x3f"


def test_answers_are_read() -> None:
    """A streamed answer says who asked, what went wrong, and the first output."""
    reply = pb.ModelInferResponse(id="5", raw_output_contents=[b"abcd", b"other"])
    good = pb.ModelStreamInferResponse(infer_response=reply)
    bad = pb.ModelStreamInferResponse(error_message="no", infer_response={"id": "6"})

    assert read_unary(reply.SerializeToString()) == ("5", "", b"abcd")
    assert read_streamed(good.SerializeToString()) == ("5", "", b"abcd")
    assert read_streamed(bad.SerializeToString()) == ("6", "no", b"")
