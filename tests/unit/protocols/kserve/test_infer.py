"""Calls and streams: order, flow control, ends and errors."""

from __future__ import annotations

import pytest

from legato.core.errors import ModelError, StepGapError, UnknownSequenceError
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.infer import LANE_HIGH, STREAM_HIGH, Door, InferCall, InferStream
from legato.protocols.rpc.service import RpcError, Status


@pytest.fixture
def stream(engine, call) -> InferStream:
    return InferStream(Door(engine, "sequence"), call)


def send(handler, message) -> None:
    handler.message(message.SerializeToString())


# -- unary --------------------------------------------------------------------------------


def test_unary_call_answers_with_the_reply(engine, call, kit) -> None:
    """One request, one response with id and step number, status OK."""
    send(InferCall(Door(engine, "sequence"), call), kit.request(7, "r"))

    engine.steps[0].done(kit.reply(3))

    response = pb.ModelInferResponse.FromString(call.sent[0])
    assert (response.id, response.parameters["sequence_step"].int64_param) == ("r", 3)
    assert response.raw_output_contents[0] == b"\0\0\0\x40"
    assert call.status is Status.OK


def test_unary_call_fails_with_status_and_trailers(engine, call, kit) -> None:
    """The expected step is in the text and in the trailers."""
    send(InferCall(Door(engine, "sequence"), call), kit.request(7))

    engine.steps[0].done(StepGapError(9, 4))

    assert call.status is Status.FAILED_PRECONDITION
    assert "step 4 is expected" in call.text
    assert call.trailers["legato-expected-step"] == "4"
    assert call.sent == []


def test_step_number_may_come_as_metadata(engine, kit) -> None:
    """``legato-step`` says what the parameter says; a contradiction is refused."""
    agreeing, contradicting = kit.Call({"legato-step": "4"}), kit.Call({"legato-step": "5"})
    door = Door(engine, "sequence")

    send(InferCall(door, agreeing), kit.request(7))
    send(InferCall(door, contradicting), kit.request(7, sequence_step=4))

    assert engine.steps[0].number == 4
    assert contradicting.status is Status.INVALID_ARGUMENT
    assert engine.counted == [("accumulator", "invalid_argument")]


def test_deadline_of_the_call_is_the_steps(engine, kit, call) -> None:
    """A step must not begin after its caller has given up."""
    call.deadline = 12.5

    send(InferCall(Door(engine, "sequence"), call), kit.request(7))

    assert engine.steps[0].deadline == 12.5


def test_cancelled_unary_call_cancels_its_step(engine, call, kit) -> None:
    """A call that never sent its request has nothing to cancel."""
    handler = InferCall(Door(engine, "sequence"), call)
    handler.cancel()
    before = len(engine.cancelled)
    send(handler, kit.request(7))
    call.status = Status.CANCELLED

    handler.cancel()

    assert (before, len(engine.cancelled)) == (0, 1)


# -- order --------------------------------------------------------------------------------


def test_sequences_do_not_wait_for_each_other(engine, call, stream, kit) -> None:
    """A reply leaves at once, though an earlier request of another sequence is unanswered."""
    send(stream, kit.request(1, "a"))
    send(stream, kit.request(2, "b"))

    engine.steps[1].done(kit.reply())
    engine.steps[0].done(kit.reply())

    assert call.ids() == ["b", "a"]


def test_replies_of_one_sequence_stay_in_order(engine, call, stream, kit) -> None:
    """Even an early refusal waits for the replies before it."""
    for name in "abc":
        send(stream, kit.request(1, name))

    engine.steps[2].done(StepGapError(9, 4))
    engine.steps[1].done(kit.reply(2))
    before = call.ids()
    engine.steps[0].done(kit.reply(1))

    assert before == []
    assert call.ids() == ["a", "b", "c"]
    assert [bool(reply.error_message) for reply in call.stream_replies()] == [False, False, True]


def test_request_order_holds_over_the_whole_stream(engine, call, kit) -> None:
    """``stream_order="request"`` is Triton's order, for all sequences and stateless requests."""
    stream = InferStream(Door(engine, "request"), call)
    for sequence, name in ((1, "a"), (2, "b"), (None, "c"), (1, "d")):
        send(stream, kit.request(sequence, name))

    for index in (3, 2, 1):
        engine.steps[index].done(kit.reply())
    before = call.ids()
    engine.steps[0].done(kit.reply())

    assert before == []
    assert call.ids() == ["a", "b", "c", "d"]


# -- errors -------------------------------------------------------------------------------


def test_failed_request_leaves_the_stream_open(engine, call, stream, kit) -> None:
    """Text, id, reason and expected step come back, and the next request works."""
    send(stream, kit.request(1, "a"))
    engine.steps[0].done(StepGapError(9, 4))
    send(stream, kit.request(1, "b"))
    engine.steps[1].done(kit.reply(4))

    failed, good = call.stream_replies()
    assert "step 4 is expected" in failed.error_message
    assert failed.infer_response.id == "a"
    assert failed.infer_response.parameters["legato-expected-step"].string_param == "4"
    assert failed.infer_response.parameters["legato-reason"].string_param == "step_gap"
    assert good.infer_response.parameters["triton_final_response"].bool_param
    assert call.status is None


def test_bad_input_is_answered_in_its_place(engine, call, stream, kit) -> None:
    """What the converter refuses never reaches the engine, and keeps the order."""
    bad = kit.request(1, "b")
    bad.raw_input_contents[0] = b"abc"
    send(stream, kit.request(1, "a"))
    send(stream, bad)

    engine.steps[0].done(kit.reply())

    assert call.ids() == ["a", "b"]
    assert "Expected 4, got 3" in call.stream_replies()[1].error_message
    assert len(engine.steps) == 1
    assert [name for name, _code in engine.counted] == ["accumulator"]


def test_unreadable_message_ends_the_stream(stream) -> None:
    """No request id can be told, so the call itself fails."""
    with pytest.raises(RpcError) as caught:
        stream.message(b"\xff\xff\xff")

    assert caught.value.status is Status.INTERNAL


def test_grpc_error_metadata_closes_the_stream_with_the_status(engine, kit) -> None:
    """``triton_grpc_error: true`` asks for the real status on the first error."""
    call = kit.Call({"triton_grpc_error": "true"})
    stream = InferStream(Door(engine, "sequence"), call)
    send(stream, kit.request(1, "a"))
    send(stream, kit.request(2, "b"))

    engine.steps[0].done(UnknownSequenceError(1))

    assert call.status is Status.INVALID_ARGUMENT
    assert call.trailers["legato-reason"] == "unknown_sequence"
    assert engine.cancelled == [engine.steps[1]]
    assert call.sent == []


# -- ends ---------------------------------------------------------------------------------


def test_half_close_waits_for_what_is_outstanding(engine, call, stream, kit) -> None:
    """The stream ends with OK after its last reply."""
    send(stream, kit.request(1, "a"))
    stream.half_close()
    before = call.status

    engine.steps[0].done(ModelError("boom"))

    assert before is None
    assert call.status is Status.OK
    assert call.ids() == ["a"]


def test_half_close_of_a_quiet_stream_ends_it(call, stream) -> None:
    """Nothing outstanding, nothing to wait for."""
    stream.half_close()

    assert call.status is Status.OK


def test_cancel_drops_what_has_not_begun_from_the_back(engine, call, stream, kit) -> None:
    """Later steps go first, so that cancelling one does not let the next one begin."""
    for name in "abc":
        send(stream, kit.request(1, name))
    send(stream, kit.request(None, "loose"))

    stream.cancel()

    assert [step.request_id for step in engine.cancelled] == ["c", "b", "a", "loose"]
    assert call.sent == []


# -- flow control -------------------------------------------------------------------------


def test_sequence_with_many_unanswered_steps_pauses_its_stream(engine, call, stream, kit) -> None:
    """It is read again when half of them are answered."""
    for _ in range(LANE_HIGH):
        send(stream, kit.request(1))
    paused = call.paused

    for _ in range(LANE_HIGH // 2 - 1):
        engine.steps.popleft().done(kit.reply())
    early = call.resumed
    engine.steps.popleft().done(kit.reply())

    assert (paused, early, call.resumed) == (1, 0, 1)


def test_stream_with_many_unanswered_steps_is_paused(engine, call, stream, kit) -> None:
    """The bound holds over all sequences of the stream."""
    for sequence in range(1, STREAM_HIGH + 1):
        send(stream, kit.request(sequence))
    paused = call.paused

    while call.resumed == 0:
        engine.steps.popleft().done(kit.reply())

    assert paused == 1
    assert len(engine.steps) == STREAM_HIGH // 2


def test_lanes_of_quiet_sequences_are_forgotten(engine, call, stream, kit) -> None:
    """A stream that has carried very many sequences stays small."""
    engine.answer = kit.reply()

    for sequence in range(1, 5000):
        send(stream, kit.request(sequence))

    assert len(stream._lanes) <= 1024
    assert len(call.sent) == 4999
