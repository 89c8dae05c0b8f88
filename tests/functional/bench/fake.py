"""A KServe v2 server of sums that is not Legato, and that can be told to misbehave."""

from __future__ import annotations

import struct
import threading
from concurrent import futures
from typing import TYPE_CHECKING, Self

import grpc

from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICE = "inference.GRPCInferenceService"


class FakeServer(grpc.GenericRpcHandler):
    """Adds up what each sequence sends.

    Args:
        shared: All sequences share one sum: the mistake that a load must notice.
        refuse_every: Refuse every so many-th step, 0 = none.
        end_every: End a stream after so many answers, 0 = never.
    """

    def __init__(self, *, shared: bool = False, refuse_every: int = 0, end_every: int = 0) -> None:
        self.sums: dict[object, float] = {}
        self.open: set[object] = set()
        self.steps = 0
        self._shared, self._refuse_every, self._end_every = shared, refuse_every, end_every
        self._streams = 0
        self._news = threading.Condition()
        self._server = grpc.server(futures.ThreadPoolExecutor(40))
        self._server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.stop(None).wait()

    def service(self, details):
        name = details.method.rpartition("/")[2]
        if name == "ModelMetadata":
            return grpc.unary_unary_rpc_method_handler(self.metadata)
        if name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self.infer)
        if name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self.stream)
        return None  # no statistics, as with many servers

    def metadata(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        name = pb.ModelMetadataRequest.FromString(data).name
        if "accumulator" not in name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model '{name}'")
        reply = pb.ModelMetadataResponse(name=name, versions=["1"], platform="fake")
        reply.inputs.add(name="INPUT", datatype="INT32", shape=[-1, 1])
        reply.outputs.add(name="OUTPUT", datatype="INT32", shape=[-1, 1])
        return reply.SerializeToString()

    def infer(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        reply, error = self.step(pb.ModelInferRequest.FromString(data))
        if error:
            context.abort(grpc.StatusCode.UNAVAILABLE, error)
        return reply.SerializeToString()

    def await_steps(self, steps: int) -> None:
        """Wait until so many steps have come."""
        with self._news:
            assert self._news.wait_for(lambda: self.steps >= steps, 30)

    def await_no_streams(self) -> None:
        """Wait until every stream has ended."""
        with self._news:
            assert self._news.wait_for(lambda: not self._streams, 30)

    def stream(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self._count_streams(1)
        if not context.add_callback(lambda: self._count_streams(-1)):
            self._count_streams(-1)  # it is over already
        for answered, data in enumerate(requests, 1):
            reply, error = self.step(pb.ModelInferRequest.FromString(data))
            message = pb.ModelStreamInferResponse(error_message=error, infer_response=reply)
            yield message.SerializeToString()
            if answered == self._end_every:
                return

    def _count_streams(self, more: int) -> None:
        with self._news:
            self._streams += more
            self._news.notify_all()

    def step(self, request) -> tuple[pb.ModelInferResponse, str]:
        parameters = request.parameters
        name = parameters["sequence_id"].int64_param or parameters["sequence_id"].string_param
        (value,) = struct.unpack("<i", request.raw_input_contents[0])
        reply = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        with self._news:
            self.steps += 1
            self._news.notify_all()
            if self._refuse_every and self.steps % self._refuse_every == 0:
                return reply, f"sequence {name} is refused at step {self.steps}"
            place = "everybody" if self._shared else name
            if parameters["sequence_start"].bool_param:
                self.open.add(name)
                self.sums[place] = 0
            elif name not in self.open:
                return reply, f"sequence {name} must START"
            self.sums[place] += value
            if parameters["sequence_end"].bool_param:
                self.open.discard(name)
            reply.raw_output_contents.append(struct.pack("<i", self.sums[place] % 2**31))
        return reply, ""
