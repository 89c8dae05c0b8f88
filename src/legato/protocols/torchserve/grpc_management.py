"""The gRPC service ``org.pytorch.serve.grpc.management.ManagementAPIsService``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError

from legato.protocols.rpc.service import RpcError, Service, Status, unary
from legato.protocols.torchserve import errors
from legato.protocols.torchserve.errors import Failure, pretty
from legato.protocols.torchserve.gen import management_pb2 as pb
from legato.protocols.torchserve.registry import Wish

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from legato.protocols.rpc.service import Call, Method
    from legato.protocols.torchserve.management import Management

NAME: Final = "org.pytorch.serve.grpc.management.ManagementAPIsService"

_STATUS: Final = {
    400: Status.INVALID_ARGUMENT,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    405: Status.PERMISSION_DENIED,
    409: Status.ALREADY_EXISTS,
}


def service(management: Management, authorise: Callable[[Call], None], limit: int) -> Service:
    """Return the service.

    Args:
        management: Does the work.
        authorise: Raises RpcError for a call without the management key.
        limit: Largest message.
    """
    table: dict[str, tuple[type[Message], Callable[[Any], Awaitable[str]]]] = {
        "DescribeModel": (pb.DescribeModelRequest, _Describe(management)),
        "ListModels": (pb.ListModelsRequest, _List(management)),
        "RegisterModel": (pb.RegisterModelRequest, _Register(management)),
        "ScaleWorker": (pb.ScaleWorkerRequest, _Scale(management)),
        "SetDefault": (pb.SetDefaultRequest, _SetDefault(management)),
        "UnregisterModel": (pb.UnregisterModelRequest, _Unregister(management)),
    }
    return Service(
        NAME,
        {
            name: _method(management, authorise, kind, run)._replace(max_message_bytes=limit)
            for name, (kind, run) in table.items()
        },
    )


def _method(
    management: Management,
    authorise: Callable[[Call], None],
    kind: type[Message],
    run: Callable[[Any], Awaitable[str]],
) -> Method:
    async def work(call: Call, request: Any) -> None:
        try:
            text = await run(request)
        except Failure as error:
            call.finish(
                _STATUS.get(error.status, Status.INTERNAL), f"{error.message}\n{error.java}"
            )
        else:
            call.send(pb.ManagementResponse(msg=text).SerializeToString())
            call.finish()

    def begin(call: Call, data: bytes) -> None:
        authorise(call)
        try:
            request = kind.FromString(data)
        except DecodeError as error:
            text = f"the message is not a {kind.DESCRIPTOR.name}: {error}"
            raise RpcError(Status.INTERNAL, text) from None
        management.door.run(work(call, request))

    return unary(begin)


def _named(request: Any) -> str:
    if not request.model_name:
        raise errors.bad_request("Parameter model_name is required.")
    return str(request.model_name)


class _Ask:
    """One method. Fields that are 0 or empty were not given."""

    def __init__(self, management: Management) -> None:
        self.management = management


class _Describe(_Ask):
    async def __call__(self, request: Any) -> str:
        found = await self.management.describe(
            _named(request), request.model_version, customized=request.customized
        )
        return pretty(found).decode()


class _List(_Ask):
    async def __call__(self, request: Any) -> str:
        limit = request.limit or 100
        listed = self.management.registry.listed(limit, request.next_page_token)
        return pretty(listed).decode()


class _Register(_Ask):
    async def __call__(self, request: Any) -> str:
        wish = Wish(
            request.url,
            request.model_name,
            request.handler,
            request.runtime,
            request.batch_size or None,
            request.max_batch_delay or None,
            request.response_timeout or None,
            request.startup_timeout or None,
            request.initial_workers or None,
        )
        return (await self.management.register(wish, synchronous=request.synchronous)).text


class _Scale(_Ask):
    async def __call__(self, request: Any) -> str:
        least = request.min_worker or 1
        done = await self.management.scale(
            _named(request),
            request.model_version,
            least,
            request.max_worker or least,
            synchronous=request.synchronous,
        )
        return done.text


class _SetDefault(_Ask):
    async def __call__(self, request: Any) -> str:
        registry = self.management.registry
        return await registry.set_default(_named(request), request.model_version)


class _Unregister(_Ask):
    async def __call__(self, request: Any) -> str:
        return await self.management.unregister(_named(request), request.model_version)
