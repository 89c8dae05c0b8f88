"""The gRPC service ``inference.GRPCInferenceService``: a thin table of methods."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError, Message

import legato
from legato.core.errors import ConfigError, ServerError
from legato.core.types import KSERVE, Step
from legato.protocols.kserve import describe
from legato.protocols.kserve.errors import failure
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.infer import Door, InferCall, InferStream, StreamOrder
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary
from legato.repository.triton.gen import model_config_pb2 as config_pb

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from legato.protocols.kserve.ports import EnginePort, ModelControl, ServedModel
    from legato.protocols.rpc.service import Call

NAME = "inference.GRPCInferenceService"
CONTROL_OFF = "explicit model load / unload is not allowed if polling is enabled"
_SHARED_MEMORY_OFF = (
    "Client shared memory is disabled: this server does not offer it. Send tensors in the request."
)


def service(
    engine: EnginePort,
    *,
    stream_order: StreamOrder = "sequence",
    ready: Callable[[], bool] = lambda: True,
    control: ModelControl | None = None,
) -> Service:
    """Return the service, ready to be registered.

    Args:
        engine: Where steps go.
        stream_order: ``sequence``: replies of one sequence stay in order and wait for
            nothing else; ``request``: replies of a stream leave in request order.
        ready: Tells whether the server takes requests.
        control: Loads and unloads models; ``None`` = clients may not.
    """
    door = Door(engine, stream_order)
    methods = dict(_table(_Queries(engine, ready), control))
    methods["ModelInfer"] = Method(
        partial(InferCall, door), client_streaming=False, server_streaming=False
    )
    methods["ModelStreamInfer"] = Method(
        partial(InferStream, door), client_streaming=True, server_streaming=True
    )
    return Service(NAME, methods, _descriptors(methods))


class _Queries:
    """The methods that only ask."""

    def __init__(self, engine: EnginePort, ready: Callable[[], bool]) -> None:
        self.engine = engine
        self.is_ready = ready

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
        return describe.server_metadata(legato.__version__)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        return describe.model_metadata(find_model(self.engine, request.name, request.version))

    def config(self, request: pb.ModelConfigRequest) -> pb.ModelConfigResponse:
        model = find_model(self.engine, request.name, request.version)
        return pb.ModelConfigResponse(config=describe.model_config(model))

    def statistics(self, request: pb.ModelStatisticsRequest) -> pb.ModelStatisticsResponse:
        if not request.name:
            return describe.model_statistics(self.engine.models())
        model = find_model(self.engine, request.name, request.version)
        return describe.model_statistics([model])

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        models = self.engine.models()
        for entry in describe.repository_index(models, only_ready=request.ready):
            response.models.add(**entry)
        return response


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


# -- the table ----------------------------------------------------------------------------


def _table(queries: _Queries, control: ModelControl | None) -> dict[str, Method]:
    asking: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
        "ServerLive": (pb.ServerLiveRequest, queries.live),
        "ServerReady": (pb.ServerReadyRequest, queries.ready),
        "ModelReady": (pb.ModelReadyRequest, queries.model_ready),
        "ServerMetadata": (pb.ServerMetadataRequest, queries.metadata),
        "ModelMetadata": (pb.ModelMetadataRequest, queries.model_metadata),
        "ModelConfig": (pb.ModelConfigRequest, queries.config),
        "ModelStatistics": (pb.ModelStatisticsRequest, queries.statistics),
        "RepositoryIndex": (pb.RepositoryIndexRequest, queries.index),
    }
    methods = {name: _query(kind, fn) for name, (kind, fn) in asking.items()}
    methods["RepositoryModelLoad"] = _load(control)
    methods["RepositoryModelUnload"] = _unload(control)
    for memory in ("SystemSharedMemory", "CudaSharedMemory"):
        for verb in ("Status", "Register", "Unregister"):
            methods[memory + verb] = _refusal(_SHARED_MEMORY_OFF)
    methods["TraceSetting"] = _refusal("This server has no trace settings to read or change.")
    methods["LogSettings"] = _refusal("This server has no log settings to read or change.")
    return methods


def _read(kind: type[Message], data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise RpcError(Status.INTERNAL, f"the message is not a {name}") from None


def _query(kind: type[Message], fn: Callable[[Any], Message]) -> Method:
    def answer(call: Call, data: bytes) -> None:
        call.send(fn(_read(kind, data)).SerializeToString())
        call.finish()

    return unary(answer)


def _refusal(text: str) -> Method:
    def answer(_call: Call, _data: bytes) -> None:
        raise RpcError(Status.UNIMPLEMENTED, text)

    return unary(answer)


def _load(control: ModelControl | None) -> Method:
    if control is None:
        return _control_off()
    run = control.load
    return _changing(pb.RepositoryModelLoadRequest, run, pb.RepositoryModelLoadResponse())


def _unload(control: ModelControl | None) -> Method:
    if control is None:
        return _control_off()
    run = control.unload
    return _changing(pb.RepositoryModelUnloadRequest, run, pb.RepositoryModelUnloadResponse())


def _control_off() -> Method:
    def answer(_call: Call, _data: bytes) -> None:
        raise RpcError(Status.UNAVAILABLE, CONTROL_OFF)

    return unary(answer)


def _changing(
    kind: type[Message], run: Callable[[str], Awaitable[None]], response: Message
) -> Method:
    """Make a method that changes which models are served; the answer comes when it is done."""
    running: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    async def change(call: Call, name: str) -> None:
        try:
            await run(name)
        except (ServerError, ConfigError) as error:
            status, text = control_failure(error, name)
            call.finish(status, text)
        else:
            call.send(response.SerializeToString())
            call.finish()

    def answer(call: Call, data: bytes) -> None:
        request = _read(kind, data)
        task = asyncio.get_running_loop().create_task(change(call, request.model_name))
        running.add(task)
        task.add_done_callback(running.discard)

    return unary(answer)


def control_failure(error: ServerError | ConfigError, name: str) -> tuple[Status, str]:
    """Return status and text for a model that could not be loaded or unloaded."""
    if isinstance(error, ConfigError):
        return Status.INVALID_ARGUMENT, f"failed to load '{name}': {error}"
    if error.code == "unknown_model":
        return Status.NOT_FOUND, f"failed to change '{name}': {error.message}"
    return Status.INTERNAL, error.message


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
