"""The demo's clients against a server that loses connections."""

import struct

import grpc
import grpc.aio
import numpy as np
import pytest

from legato.demo.board import Board, Track
from legato.demo.segments import FRAME
from legato.demo.streams import Stream, StreamError
from legato.protocols.kserve.gen import kserve_pb2 as pb


class Flaky:
    """Answers step n with n/100; breaks the connection where told to.

    ``before`` and ``after``: numbers at which the connection breaks once, before or after
    the step is applied.
    """

    def __init__(self, before=(), after=()):
        self.before, self.after = set(before), set(after)
        self.applied = 0
        self.seen = []
        self.refuse_at = self.lie_at = 0

    async def stream(self, requests, context):
        async for request in requests:
            number = request.parameters["sequence_step"].int64_param
            flags = [request.parameters[f"sequence_{f}"].bool_param for f in ("start", "end")]
            self.seen.append((number, *flags, len(request.raw_input_contents[0])))
            if number in self.before:
                self.before.remove(number)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            replayed = number == self.applied
            self.applied = number
            if number in self.after:
                self.after.remove(number)
                await context.abort(grpc.StatusCode.INTERNAL, "gone")
            yield self.reply(number, replayed)

    def reply(self, number, replayed):
        reply = pb.ModelStreamInferResponse()
        if number == self.refuse_at:
            reply.error_message = "step 9 is expected next"
            return reply
        response = reply.infer_response
        response.parameters["sequence_step"].int64_param = number + (number == self.lie_at)
        if replayed:
            response.parameters["sequence_replayed"].bool_param = True
        response.raw_output_contents.append(struct.pack("<f", number / 100))
        return reply


async def run(flaky, frames=6):
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        flaky.stream, pb.ModelInferRequest.FromString, pb.ModelStreamInferResponse.SerializeToString
    )
    handler = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelStreamInfer": method}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    track = Track("stream-00", frames)
    chunks = np.zeros((frames, FRAME), np.float32)
    stream = Stream("m", track, chunks, Board([track]), f"127.0.0.1:{port}")
    try:
        await stream.run()
    finally:
        await server.stop(None)
    return track


async def test_steps_are_numbered_and_the_ends_are_marked():
    """Numbers count from 1; the first starts, the last ends; chunks are whole."""
    flaky = Flaky()

    track = await run(flaky, frames=3)

    size = FRAME * 4
    assert flaky.seen == [(1, True, False, size), (2, False, False, size), (3, False, True, size)]
    assert track.answers == pytest.approx([0.01, 0.02, 0.03])
    assert (track.resent, track.replayed) == (0, 0)


async def test_unanswered_steps_are_sent_again_under_their_number():
    """Whether or not the step had been applied, each is answered once, in order."""
    flaky = Flaky(before={1, 3}, after={5, 6})

    track = await run(flaky)

    assert [seen[0] for seen in flaky.seen] == [1, 1, 2, 3, 3, 4, 5, 5, 6, 6]
    assert track.answers == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert (track.resent, track.replayed) == (4, 2)
    assert not track.waiting


async def test_refused_step_ends_the_stream_with_the_servers_words():
    """A refusal is no loss of connection: it is told, not retried."""
    flaky = Flaky()
    flaky.refuse_at = 2

    with pytest.raises(StreamError, match="stream-00, step 2: step 9 is expected next"):
        await run(flaky)

    assert len(flaky.seen) == 2


async def test_answer_to_another_step_is_an_error():
    """An answer is matched with its question."""
    flaky = Flaky()
    flaky.lie_at = 2

    with pytest.raises(StreamError, match="sent step 2, got the answer to step 3"):
        await run(flaky)
