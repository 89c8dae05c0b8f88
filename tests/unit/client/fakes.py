"""A server in memory, as far as a client sees it: streams, and calls that are answered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np

from legato.client.tensors import Payload
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.repository.triton.gen import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PAYLOAD = Payload((("x", "FP32", (1, 1)),), (np.float32([[1]]).tobytes(),))


class Stream:
    """One stream of a server that answers every step with its number."""

    def __init__(self, *, answers: int | None = None, then: object = None) -> None:
        self.requests: list[pb.ModelInferRequest] = []
        self.left = answers
        self.then = then
        self.news: asyncio.Queue = asyncio.Queue()
        self.asked = asyncio.Event()
        self.cancelled = False

    async def write(self, data: bytes) -> None:
        request = pb.ModelInferRequest.FromString(data)
        self.requests.append(request)
        self.asked.set()
        if self.left == 0:
            if isinstance(self.then, pb.ModelStreamInferResponse):
                self.then.infer_response.id = request.id
                self.left = None  # the stream goes on
            if self.then is not None:
                self.news.put_nowait(self.then)
            return
        if self.left is not None:
            self.left -= 1
        message = pb.ModelStreamInferResponse()
        message.infer_response.id = request.id
        message.infer_response.parameters["sequence_incarnation"].string_param = "cd"
        self.news.put_nowait(message)

    async def read(self) -> object:
        item = await self.news.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def done_writing(self) -> None:
        self.news.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        self.cancelled = True
        self.news.put_nowait(asyncio.CancelledError())


def status(code: grpc.StatusCode, reason: str = "") -> grpc.aio.AioRpcError:
    trailers = grpc.aio.Metadata(("legato-reason", reason)) if reason else grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details="text")


def refusal(reason: str, code: str = "") -> pb.ModelStreamInferResponse:
    message = pb.ModelStreamInferResponse(error_message="the model failed")
    message.infer_response.parameters["legato-reason"].string_param = reason
    if code:
        message.infer_response.parameters["legato-status"].string_param = code
    return message


class Server:
    """Answers what its channels are asked, from ``answers``; notes what that was.

    An answer is a message, an error, or a list of them for one call after the other.
    """

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str]] = []
        self.streams: list[Stream] = []
        self.channels: list[Channel] = []
        info = pb.ModelMetadataResponse(name="m", versions=["1"])
        info.inputs.add(name="x", datatype="FP32", shape=[1, 1])
        info.outputs.add(name="y", datatype="FP32", shape=[1, 1])
        config = config_pb.ModelConfig()
        config.parameters["sequence_receipts"].string_value = "1"
        self.answers = {
            "ModelMetadata": info,
            "ModelConfig": pb.ModelConfigResponse(config=config),
            **answers,
        }

    def asked(self, method: str) -> list[Any]:
        """Return the requests of a method."""
        return [request for name, request in self.calls if name == method]

    def channel(self, _address: str, options: Sequence[Any]) -> Channel:
        """Stand in for ``grpc.aio.insecure_channel``."""
        self.channels.append(Channel(self))
        return self.channels[-1]

    def answer(self, method: str, request: Any) -> Any:
        self.calls.append((method, request))
        answer = self.answers.get(method, status(grpc.StatusCode.UNIMPLEMENTED))
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Channel:
    """One connection of a :class:`Server`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = False

    def stream_stream(self, _path: str, response_deserializer: object) -> Callable[..., Stream]:
        def open_stream(metadata: Sequence[tuple[str, str]], **_options: object) -> Stream:
            self.server.streams.append(Stream())
            self.server.metadata.append(dict(metadata))
            return self.server.streams[-1]

        return open_stream

    def unary_unary(self, path: str, **_serializers: object) -> Callable[..., Any]:
        async def call(request: Any, **_options: object) -> Any:
            return self.server.answer(path.rpartition("/")[2], request)

        return call

    def get_state(self) -> grpc.ChannelConnectivity:
        return grpc.ChannelConnectivity.READY

    async def close(self) -> None:
        self.closed = True
