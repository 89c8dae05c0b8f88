"""gRPC methods around inference: shared memory, model control, log and trace settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError, Message

from legato.engine.catalog import ControlError
from legato.protocols.kserve.facilities import control_failure, load_options, unload_options
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.rpc.service import Method, RpcError, Status, unary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from legato.protocols.kserve.facilities import Facilities
    from legato.protocols.rpc.service import Call


def read(kind: type[Message], data: bytes) -> Any:
    """Return the message that ``data`` holds.

    Raises:
        RpcError: It holds none.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.name
        raise RpcError(Status.INTERNAL, f"the message is not a {name}") from None


def query(kind: type[Message], fn: Callable[[Any], Message]) -> Method:
    """Make a method of a function that answers at once."""

    def answer(call: Call, data: bytes) -> None:
        call.send(fn(read(kind, data)).SerializeToString())
        call.finish()

    return unary(answer)


def _waiting(
    kind: type[Message], fn: Callable[[Any], Coroutine[Any, Any, None]], response: Message
) -> Method:
    """Make a method of what takes its time; the answer comes when it is done."""
    running: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly

    async def run(call: Call, request: Any) -> None:
        try:
            await fn(request)
        except RpcError as error:
            call.finish(error.status, error.message, error.trailers)
        else:
            call.send(response.SerializeToString())
            call.finish()

    def answer(call: Call, data: bytes) -> None:
        request = read(kind, data)
        task = asyncio.get_running_loop().create_task(run(call, request))
        running.add(task)
        task.add_done_callback(running.discard)

    return unary(answer)


def admin_methods(facilities: Facilities) -> dict[str, Method]:
    """Return the methods by their names."""
    memory, settings = _Memory(facilities), _Settings(facilities)
    repository = _Repository(facilities)
    asking: dict[str, tuple[type[Message], Callable[[Any], Message]]] = {
        "RepositoryIndex": (pb.RepositoryIndexRequest, repository.index),
        "SystemSharedMemoryStatus": (pb.SystemSharedMemoryStatusRequest, memory.status),
        "SystemSharedMemoryRegister": (pb.SystemSharedMemoryRegisterRequest, memory.register),
        "SystemSharedMemoryUnregister": (pb.SystemSharedMemoryUnregisterRequest, memory.unregister),
        "CudaSharedMemoryStatus": (pb.CudaSharedMemoryStatusRequest, memory.cuda_status),
        "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, memory.cuda_register),
        "CudaSharedMemoryUnregister": (
            pb.CudaSharedMemoryUnregisterRequest,
            memory.cuda_unregister,
        ),
        "TraceSetting": (pb.TraceSettingRequest, settings.trace),
        "LogSettings": (pb.LogSettingsRequest, settings.log),
    }
    methods = {name: query(kind, fn) for name, (kind, fn) in asking.items()}
    methods["RepositoryModelLoad"] = _waiting(
        pb.RepositoryModelLoadRequest, repository.load, pb.RepositoryModelLoadResponse()
    )
    methods["RepositoryModelUnload"] = _waiting(
        pb.RepositoryModelUnloadRequest, repository.unload, pb.RepositoryModelUnloadResponse()
    )
    return methods


class _Memory:
    """Shared memory: system's where it is allowed; a GPU's is answered, never registered."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    def status(
        self, request: pb.SystemSharedMemoryStatusRequest
    ) -> pb.SystemSharedMemoryStatusResponse:
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._facilities.allowed_regions().status(request.name):
            entry = response.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.byte_size
        return response

    def register(
        self, request: pb.SystemSharedMemoryRegisterRequest
    ) -> pb.SystemSharedMemoryRegisterResponse:
        regions = self._facilities.allowed_regions()
        regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        self._facilities.allowed_regions().unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def cuda_status(
        self, request: pb.CudaSharedMemoryStatusRequest
    ) -> pb.CudaSharedMemoryStatusResponse:
        if request.name:
            raise no_cuda_region(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    def cuda_register(
        self, request: pb.CudaSharedMemoryRegisterRequest
    ) -> pb.CudaSharedMemoryRegisterResponse:
        raise self._facilities.refuse_cuda(request.name)

    def cuda_unregister(
        self, _request: pb.CudaSharedMemoryUnregisterRequest
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        return pb.CudaSharedMemoryUnregisterResponse()


def no_cuda_region(name: str) -> RpcError:
    """Return the error for memory of a GPU that is asked for by name; there is none."""
    return RpcError(Status.NOT_FOUND, f"Unable to find cuda shared memory region: '{name[:80]}'")


class _Repository:
    """Which models there are, and which are served."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        response = pb.RepositoryIndexResponse()
        for line in self._facilities.index(only_ready=request.ready):
            response.models.add(**line._asdict())
        return response

    async def load(self, request: pb.RepositoryModelLoadRequest) -> None:
        config, files = load_options(_given(request.parameters))
        try:
            await self._facilities.repository.load_model(
                request.model_name, config=config, files=files
            )
        except ControlError as error:
            raise control_failure(error) from None

    async def unload(self, request: pb.RepositoryModelUnloadRequest) -> None:
        dependents = unload_options(_given(request.parameters))
        try:
            await self._facilities.repository.unload_model(
                request.model_name, dependents=dependents
            )
        except ControlError as error:
            raise control_failure(error) from None


def _given(parameters: Mapping[str, Any]) -> dict[str, object]:
    return {
        key: getattr(value, value.WhichOneof("parameter_choice") or "", None)
        for key, value in parameters.items()
    }


class _Settings:
    """What is logged and traced: a request changes what it names, and is told all."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    def log(self, request: pb.LogSettingsRequest) -> pb.LogSettingsResponse:
        self._facilities.log.change(_given(request.settings))
        response = pb.LogSettingsResponse()
        for key, value in self._facilities.log.values().items():
            entry = response.settings[key]
            if isinstance(value, bool):
                entry.bool_param = value
            elif isinstance(value, int):
                entry.uint32_param = value
            else:
                entry.string_param = value
        return response

    def trace(self, request: pb.TraceSettingRequest) -> pb.TraceSettingResponse:
        changes = {key: list(entry.value) for key, entry in request.settings.items()}
        settings = self._facilities.trace
        settings.change(changes, self._facilities.known_model(request.model_name))
        response = pb.TraceSettingResponse()
        for key, values in settings.values(request.model_name).items():
            response.settings[key].value.extend(values)
        return response
