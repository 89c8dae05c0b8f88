"""The demo's clients: each follows one recording, numbers its steps and survives a crash.

A stream sends a chunk when the answer to the last one is in. When its connection
dies it connects again and sends the unanswered step once more, under the same
number; whether the server had committed that step is the server's to know.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from legato.demo.segments import FRAME
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from legato.demo.audio import Samples
    from legato.demo.board import Board, Track

    Call = grpc.aio.StreamStreamCall[Any, pb.ModelStreamInferResponse]

SERVICE = "/inference.GRPCInferenceService/"
GIVE_UP_S = 60.0
RETRY_S = 0.05
# A connection that dies shows as one of many codes (UNAVAILABLE, INTERNAL, CANCELLED, UNKNOWN);
# these say that trying again is of no use.
HOPELESS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class StreamError(Exception):
    """A stream cannot go on: the server refused a step, or stayed away too long."""


class Wire:
    """Requests of one sequence: made once, changed a little for every step."""

    def __init__(self, model: str, name: str) -> None:
        self._request = pb.ModelInferRequest(model_name=model, raw_input_contents=[b""])
        self._request.inputs.add(name="input", datatype="FP32", shape=[1, FRAME])
        self._request.parameters["sequence_id"].string_param = name

    def request(self, number: int, chunk: bytes, *, last: bool) -> pb.ModelInferRequest:
        """Return step ``number``; valid until the next call."""
        parameters = self._request.parameters
        parameters["sequence_step"].int64_param = number
        parameters["sequence_start"].bool_param = number == 1
        parameters["sequence_end"].bool_param = last
        self._request.raw_input_contents[0] = chunk
        return self._request


class Stream:
    """One sequence of steps, from its first chunk to its last.

    Args:
        model: Model to step.
        track: Where answers go; a track that has some is continued.
        chunks: ``(frames, FRAME)``.
        board: Shared notes.
        address: Where the server listens.
    """

    def __init__(
        self,
        model: str,
        track: Track,
        chunks: Samples,
        board: Board,
        address: str,
    ) -> None:
        self._wire = Wire(model, track.name)
        self._track = track
        self._chunks = chunks
        self._board = board
        self._address = address
        self._unsure = False

    async def run(self) -> None:
        """Take every step; come back after every loss of the connection.

        Raises:
            StreamError: A step was refused, or the server stayed away.
        """
        heard = time.monotonic()
        while len(self._track.answers) < len(self._chunks):
            before = len(self._track.answers)
            try:
                await self._connected()
            except grpc.aio.AioRpcError as error:
                if error.code() in HOPELESS:
                    raise StreamError(f"{self._track.name}: {error.details()}") from error
                if len(self._track.answers) > before:
                    heard = time.monotonic()
                if time.monotonic() - heard > GIVE_UP_S:
                    raise StreamError(
                        f"{self._track.name}: no server for {GIVE_UP_S:.0f} s ({error.details()})"
                    ) from error
                self._track.waiting = True
                await asyncio.sleep(RETRY_S)

    async def _connected(self) -> None:
        """Step over one connection until the recording ends or the connection does.

        Each connection has a channel of its own: one that lost its server would wait
        before it tries again, and make its streams wait.
        """
        async with connect(self._address) as channel:
            method = channel.stream_stream(
                SERVICE + "ModelStreamInfer",
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelStreamInferResponse.FromString,
            )
            call = method()
            for number in range(len(self._track.answers) + 1, len(self._chunks) + 1):
                await self._step(call, number)
            await call.done_writing()
            if await call.read() is not grpc.aio.EOF:
                raise StreamError(f"{self._track.name}: an answer too many")

    async def _step(self, call: Call, number: int) -> None:
        last = number == len(self._chunks)
        request = self._wire.request(number, self._chunks[number - 1].tobytes(), last=last)
        sent = time.perf_counter()
        again, self._unsure = self._unsure, True
        await call.write(request)
        reply = await call.read()
        if not isinstance(reply, pb.ModelStreamInferResponse):  # grpc.aio.EOF
            raise grpc.aio.AioRpcError(
                await call.code(), grpc.aio.Metadata(), grpc.aio.Metadata(), await call.details()
            )
        now = time.perf_counter()
        self._unsure = False
        probability, replayed = read_reply(reply, number, self._track.name)
        self._track.resent += again
        self._track.replayed += replayed
        self._track.waiting = False
        self._board.answered(self._track, probability, now, now - sent)


def read_reply(reply: pb.ModelStreamInferResponse, number: int, name: str) -> tuple[float, bool]:
    """Return the speech probability, and whether the step had been applied before.

    Raises:
        StreamError: The step was refused, or this is the answer to another one.
    """
    if reply.error_message:
        raise StreamError(f"{name}, step {number}: {reply.error_message}")
    response = reply.infer_response
    answered = response.parameters["sequence_step"].int64_param
    if answered != number:
        raise StreamError(f"{name}: sent step {number}, got the answer to step {answered}")
    (probability,) = struct.unpack("<f", response.raw_output_contents[0])
    return probability, response.parameters["sequence_replayed"].bool_param


def connect(address: str) -> grpc.aio.Channel:
    """Open a connection that no other channel shares."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)
