"""The gRPC service ``inference.GRPCInferenceService``: inference, and questions on models."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2

import legato
from legato.core.errors import ServerError
from legato.core.types import KSERVE, Step
from legato.protocols.kserve import describe
from legato.protocols.kserve.errors import failure
from legato.protocols.kserve.facilities import Facilities, NoRepository
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.grpc_admin import admin_methods, query
from legato.protocols.kserve.infer import Door, InferCall, InferStream, StreamOrder
from legato.protocols.rpc.service import Method, RpcError, Service
from legato.repository.triton.gen import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from google.protobuf.message import Message

    from legato.protocols.kserve.ports import EnginePort, ServedModel

NAME = "inference.GRPCInferenceService"


def service(
    engine: EnginePort,
    *,
    stream_order: StreamOrder = "sequence",
    ready: Callable[[], bool] = lambda: True,
    facilities: Facilities | None = None,
) -> Service:
    """Return the service, ready to be registered.

    Args:
        engine: Where steps go.
        stream_order: ``sequence``: replies of one sequence stay in order and wait for
            nothing else; ``request``: replies of a stream leave in request order.
        ready: Tells whether the server takes requests.
        facilities: What there is besides inference; by default as little as can be.
    """
    facilities = facilities or Facilities(NoRepository(engine))
    door = Door(engine, stream_order, facilities.regions)
    methods = {
        name: query(kind, answer)
        for name, (kind, answer) in _asking(_Queries(engine, ready, facilities)).items()
    }
    methods |= admin_methods(facilities)
    methods["ModelInfer"] = Method(
        partial(InferCall, door), client_streaming=False, server_streaming=False
    )
    methods["ModelStreamInfer"] = Method(
        partial(InferStream, door), client_streaming=True, server_streaming=True
    )
    return Service(NAME, methods, _descriptors(methods))


class _Queries:
    """The methods that only ask."""

    def __init__(
        self, engine: EnginePort, ready: Callable[[], bool], facilities: Facilities
    ) -> None:
        self.engine = engine
        self.is_ready = ready
        self.facilities = facilities

    def live(self, _request: pb.ServerLiveRequest) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ready(self, _request: pb.ServerReadyRequest) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self.is_ready())

    def model_ready(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:
        try:
            model = self.engine.model(request.name, request.version)
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=model.ready)

    def metadata(self, _request: pb.ServerMetadataRequest) -> pb.ServerMetadataResponse:
        return describe.server_metadata(legato.__version__, self.facilities.extensions())

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return metadata_of(self.engine, request.name, request.version)

    def config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = find_model(self.engine, request.name, request.version)
        return pb.ModelConfigResponse(config=describe.model_config(model))

    def statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        if not request.name:
            return describe.model_statistics(self.engine.models())
        return statistics_of(self.engine, request.name, request.version)


def _versions(engine: EnginePort, name: str) -> list[ServedModel]:
    return [model for model in engine.models() if model.name == name]


def metadata_of(engine: EnginePort, name: str, version: str) -> pb.ModelMetadataResponse:
    """Return the metadata of a model, with all of its versions.

    Raises:
        RpcError: It is not served.
    """
    model = find_model(engine, name, version)
    return describe.model_metadata(model, [one.version for one in _versions(engine, name)])


def statistics_of(engine: EnginePort, name: str, version: str) -> pb.ModelStatisticsResponse:
    """Return the statistics of one version of a model, or of all of them for "".

    Raises:
        RpcError: It is not served.
    """
    model = find_model(engine, name, version)
    return describe.model_statistics([model] if version else _versions(engine, name))


def find_model(engine: EnginePort, name: str, version: str) -> ServedModel:
    """Return a served model.

    Raises:
        RpcError: It is not served.
    """
    try:
        return engine.model(name, version)
    except ServerError as error:
        what = failure(error, Step(name, None, {}, KSERVE), engine)
        raise RpcError(what.status, what.message, what.trailers()) from None


def _asking(queries: _Queries) -> dict[str, tuple[type[Message], Callable[[Any], Message]]]:
    return {
        "ServerLive": (pb.ServerLiveRequest, queries.live),
        "ServerReady": (pb.ServerReadyRequest, queries.ready),
        "ModelReady": (pb.ModelReadyRequest, queries.model_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, queries.metadata),
        "ModelMetadata": (pb.ModelMetadataRequest, queries.model_metadata),
        "ModelConfig": (pb.ModelConfigRequest, queries.config),
        "ModelStatistics": (pb.ModelStatisticsRequest, queries.statistics),
    }


# -- reflection ---------------------------------------------------------------------------


def _descriptors(methods: Iterable[str]) -> tuple[bytes, ...]:
    """Describe the service and its messages, for reflection."""
    kserve = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(kserve)
    config = descriptor_pb2.FileDescriptorProto()
    config_pb.DESCRIPTOR.CopyToProto(config)
    file = descriptor_pb2.FileDescriptorProto(
        name="legato/protocols/kserve/gen/service.proto",
        package=kserve.package,  # reflection shows all of it under the service's own
        dependency=[kserve.name],
        syntax="proto3",
    )
    described = file.service.add(name=NAME.rpartition(".")[2])
    for name in methods:
        method = described.method.add(name=name)
        streams = name == "ModelStreamInfer"
        base = "ModelInfer" if streams else name
        method.input_type = f".{kserve.package}.{base}Request"
        method.output_type = f".{kserve.package}.{name}Response"
        method.client_streaming = method.server_streaming = streams
    return tuple(part.SerializeToString() for part in (config, kserve, file))
