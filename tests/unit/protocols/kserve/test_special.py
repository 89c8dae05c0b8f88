"""OpenVINO Model Server's two tensors name a sequence over KServe, too."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import ClientError
from legato.core.types import KSERVE, TFSERVING, Signature, TensorSpec
from legato.protocols.kserve.delivery import KserveStep, finished
from legato.protocols.kserve.from_core import ReplyWriter
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.special import adopt

X = np.float32([[1]])


def step(**inputs):
    made = {name: np.asarray(value) for name, value in inputs.items()}
    return KserveStep("accumulator", None, {"INPUT": X, **made}, KSERVE)


@pytest.mark.parametrize("dtype", ["uint64", "uint32", "int64", "int32"])
@pytest.mark.parametrize("shape", [(1,), (), (1, 1)])
def test_both_tensors_name_the_sequence(engine, dtype, shape) -> None:
    """Whatever kind of whole number they are; the model never sees them."""
    sent = step(
        sequence_id=np.full(shape, 7, dtype), sequence_control_input=np.full(shape, 1, dtype)
    )

    adopt(sent, engine)

    assert (sent.correlation_id, sent.start, sent.end) == (7, True, False)
    assert list(sent.inputs) == ["INPUT"]
    assert sent.dialect is TFSERVING


@pytest.mark.parametrize(
    ("control", "start", "end"), [(0, False, False), (1, True, False), (2, False, True)]
)
def test_control_says_start_and_end(engine, control, start, end) -> None:
    """0 is neither."""
    sent = step(sequence_id=[7], sequence_control_input=[control])

    adopt(sent, engine)

    assert (sent.start, sent.end) == (start, end)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"sequence_control_input": [3]}, "Unexpected value of sequence control input"),
        ({"sequence_id": [1, 2]}, "Required shape for sequence_id is: (1)"),
        ({"sequence_id": [-1]}, "must be one whole number"),
        ({"sequence_id": [1.0]}, "must be one whole number"),
    ],
)
def test_values_without_meaning_are_refused(engine, inputs, text) -> None:
    """The text says which tensor."""
    with pytest.raises(ClientError) as caught:
        adopt(step(**inputs), engine)

    assert text in caught.value.message


def test_inputs_of_the_model_itself_are_left_alone(engine, kit) -> None:
    """A model may have an input of that name."""
    own = (TensorSpec("INPUT", "float32", (1, 1)), TensorSpec("sequence_id", "int64", (1,)))
    signature = Signature(own, kit.signature.outputs, kit.signature.states)
    engine.handles["accumulator"] = kit.served("accumulator", signature)
    sent = step(sequence_id=[7])

    adopt(sent, engine)

    assert set(sent.inputs) == {"INPUT", "sequence_id"}
    assert sent.dialect is KSERVE


def test_an_unknown_model_is_left_to_the_engine(engine) -> None:
    """It has the better error."""
    sent = step(sequence_id=[7])
    sent.model = "nobody"

    adopt(sent, engine)

    assert "sequence_id" in sent.inputs


@pytest.mark.parametrize("name", [7, 2**64 - 1])
def test_the_reply_tells_the_id_twice(engine, kit, name) -> None:
    """As an output and as a parameter, with every step that named it as a tensor."""
    sent = step(sequence_id=[7], sequence_control_input=[0])
    adopt(sent, engine)
    reply = kit.reply(step=5)
    reply.correlation_id = name

    data = ReplyWriter("accumulator", streamed=False).write(finished(sent, reply), "")

    answer = pb.ModelInferResponse.FromString(data)
    parameter = answer.parameters["sequence_id"]
    assert getattr(parameter, parameter.WhichOneof("parameter_choice")) == name
    assert answer.outputs[-1].name == "sequence_id"
    assert answer.raw_output_contents[-1] == name.to_bytes(8, "little")


def test_other_replies_are_as_they_were(engine, kit) -> None:
    """Nobody who did not ask gets another output."""
    reply, sent = kit.reply(step=5), step()
    adopt(sent, engine)

    assert finished(sent, reply) is reply
