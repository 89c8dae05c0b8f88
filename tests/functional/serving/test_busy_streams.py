"""Streams that carry many steps at once."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from tests.functional.serving.models import SERVICE, request, write_counter

from legato.protocols.kserve.gen import kserve_pb2 as pb

STREAMS, IN_FLIGHT, STEPS = 8, 64, 4000


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory):
    """A counter."""
    return serve(write_counter(tmp_path_factory.mktemp("models")))


def test_many_steps_in_flight_do_not_cost_the_connection(served) -> None:
    """A client that gives room back for each of many replies in a frame is not taken for a flood.

    Whether so many replies share a frame is a matter of luck: without the setting that this
    is about, two runs of three fail.
    """

    async def run() -> list[int]:
        options = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(served.address, options=options) as channel:
            return await asyncio.gather(*[stream(channel, at) for at in range(STREAMS)])

    answered = asyncio.run(run())

    assert answered == [STEPS] * STREAMS


async def stream(channel: grpc.aio.Channel, at: int) -> int:
    """Begin sequences on one stream, some before others are answered; count the good answers."""
    call = channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelStreamInferResponse.FromString,
    )(timeout=60)
    room = asyncio.Semaphore(IN_FLIGHT)

    async def write() -> None:
        for number in range(STEPS):
            await room.acquire()
            await call.write(request(1 + at * STEPS + number, start=True))
        await call.done_writing()

    writing = asyncio.create_task(write())
    good = 0
    while (answer := await call.read()) is not grpc.aio.EOF:
        good += not answer.error_message
        room.release()
    await writing
    return good
