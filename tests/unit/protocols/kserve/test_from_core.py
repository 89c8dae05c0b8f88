"""Replies become responses that any protobuf parser reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from legato.core.types import OutputHeader, Reply
from legato.protocols.kserve.errors import Failure
from legato.protocols.kserve.from_core import ReplyWriter, stream_error
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.rpc.service import Status

HEADER = st.builds(
    OutputHeader,
    st.text(max_size=8),
    st.sampled_from(["float32", "int64", "object", "bool"]),
    st.lists(st.integers(0, 2**40), max_size=3).map(tuple),
)


@given(
    outputs=st.lists(st.tuples(HEADER, st.binary(max_size=300)), max_size=3),
    step=st.integers(0, 2**63 - 1),
    request_id=st.text(max_size=200),
    replayed=st.booleans(),
    streamed=st.booleans(),
)
def test_any_reply_is_parsed_back(outputs, step, request_id, replayed, streamed) -> None:
    """The hand-made bytes hold what protobuf itself would have written."""
    headers = tuple(header for header, _ in outputs)
    data = tuple(data for _, data in outputs)
    reply = Reply(headers, data, 7, step, "3", replayed=replayed and step > 0)

    message = ReplyWriter("m", streamed=streamed).write(reply, request_id)

    if streamed:
        outer = pb.ModelStreamInferResponse.FromString(message)
        response = outer.infer_response
        assert outer.error_message == ""
    else:
        response = pb.ModelInferResponse.FromString(message)
    assert (response.model_name, response.model_version) == ("m", "3")
    assert response.id == request_id
    assert tuple(response.raw_output_contents) == data
    assert [(o.name, tuple(o.shape)) for o in response.outputs] == [(h[0], h[2]) for h in headers]
    parameters = response.parameters
    assert ("sequence_step" in parameters) == (step > 0)
    assert parameters["sequence_step"].int64_param == step
    assert ("sequence_replayed" in parameters) == reply.replayed
    assert ("triton_final_response" in parameters) == streamed


def test_head_is_made_anew_when_headers_or_version_change(kit) -> None:
    """A writer remembers the last headers, not more than that."""
    writer = ReplyWriter("m", streamed=False)
    first = kit.reply(2)
    other = Reply((OutputHeader("B", "int64", (2,)),), (bytes(16),), 7, 3, "2")

    responses = [
        pb.ModelInferResponse.FromString(writer.write(reply, "")) for reply in (first, other, first)
    ]

    assert [r.outputs[0].name for r in responses] == ["OUTPUT", "B", "OUTPUT"]
    assert [r.outputs[0].datatype for r in responses] == ["FP32", "INT64", "FP32"]
    assert [r.model_version for r in responses] == ["1", "2", "1"]


def test_first_reply_tells_the_incarnation(kit) -> None:
    """A client learns once which incarnation it talks to."""
    writer = ReplyWriter("m", streamed=True)

    first, second = (
        pb.ModelStreamInferResponse.FromString(
            writer.write(kit.reply(step, incarnation=b"\xab" * 16), "")
        )
        for step in (1, 2)
    )

    assert first.infer_response.parameters["sequence_incarnation"].string_param == "ab" * 16
    assert "sequence_incarnation" not in second.infer_response.parameters


def test_stream_error_always_has_a_text() -> None:
    """Clients take an empty text for success, so a cancelled step says CANCELLED."""
    message = stream_error(Failure(Status.CANCELLED, 499, "", reason="step_cancelled"), "m", "r")

    reply = pb.ModelStreamInferResponse.FromString(message)

    assert reply.error_message == "CANCELLED"
    assert reply.infer_response.id == "r"
    assert reply.infer_response.parameters["legato-reason"].string_param == "step_cancelled"
    assert reply.infer_response.parameters["legato-status"].string_param == "CANCELLED"
