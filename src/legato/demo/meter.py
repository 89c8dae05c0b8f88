"""Asks the server for its own numbers while the streams run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from legato.demo.board import Server
from legato.demo.streams import SERVICE, connect
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from legato.demo.board import Board

POLL_S = 0.5
TIMEOUT_S = 2.0


class Meter:
    """Reads ModelStatistics into the board; a server that is away is passed over."""

    def __init__(self, model: str, address: str, board: Board) -> None:
        self._model = model
        self._board = board
        self._now = Server()
        self._address = address

    async def run(self) -> None:
        """Read until the streams are through."""
        while not self._board.finished:
            await asyncio.sleep(POLL_S)
            await self.read()

    async def read(self) -> None:
        """Read once."""
        request = pb.ModelStatisticsRequest(name=self._model)
        try:
            async with connect(self._address) as channel:
                ask = channel.unary_unary(
                    SERVICE + "ModelStatistics",
                    request_serializer=pb.ModelStatisticsRequest.SerializeToString,
                    response_deserializer=pb.ModelStatisticsResponse.FromString,
                )
                reply = await ask(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return
        if not reply.model_stats:
            return
        stats = reply.model_stats[0]
        read = Server(
            steps=stats.inference_count,
            calls=stats.execution_count,
            queue_s=stats.inference_stats.queue.ns / 1e9,
            compute_s=sum(batch.compute_infer.ns for batch in stats.batch_stats) / 1e9,
        )
        lately = read.since(self._now)
        if lately.calls > 0:
            self._board.fill = lately.fill
        self._now = read
        self._board.servers[-1] = read

    def restarted(self) -> None:
        """The server's process is a new one: it counts from zero."""
        self._now = Server()
        self._board.servers.append(self._now)
