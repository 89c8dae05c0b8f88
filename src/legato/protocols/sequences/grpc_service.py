"""The gRPC service ``legato.v1.Sequences``: every operation is a unary method."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from legato.core.errors import ServerError
from legato.observe.log import get_logger
from legato.protocols.rpc.service import Method, RpcError, Service, Status, unary
from legato.protocols.sequences.errors import rpc_error
from legato.protocols.sequences.gen import sequences_pb2 as pb
from legato.protocols.sequences.operations import OPERATIONS, Operation

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from legato.protocols.rpc.service import Call
    from legato.protocols.sequences.api import Api

NAME = "legato.v1.Sequences"
log = get_logger()


def service(api: Api) -> Service:
    """Return the service, ready to be registered."""
    methods = {operation.name: _method(api, operation) for operation in OPERATIONS}
    return Service(NAME, methods, (pb.DESCRIPTOR.serialized_pb,))


def _method(api: Api, operation: Operation) -> Method:
    running: set[asyncio.Task[None]] = set()  # the loop itself holds tasks only weakly
    run = operation.run(api)

    async def answer(call: Call, data: bytes) -> None:
        try:
            message = operation.asked_pb.FromString(data)
            answered = await run(operation.read(_fields(message)))
            reply = operation.answered_pb(**answered.model_dump(exclude_none=True))
        except DecodeError as error:
            name = operation.asked_pb.DESCRIPTOR.name
            call.finish(Status.INTERNAL, f"the message is not a {name}: {error}")
        except ServerError as error:
            _fail(call, rpc_error(error))
        except Exception as error:
            # The outermost task: whatever went wrong, the caller is not left waiting.
            log.exception("sequence_call_failed", method=operation.name)
            call.finish(Status.INTERNAL, f"the call failed inside the server: {error}")
        else:
            call.send(reply.SerializeToString())
            call.finish()

    def begin(call: Call, data: bytes) -> None:
        task = asyncio.get_running_loop().create_task(answer(call, data))
        running.add(task)
        task.add_done_callback(running.discard)

    return unary(begin)


def _fields(message: Message) -> dict[str, Any]:
    """The fields that are set; the others keep the defaults of the request."""
    return {field.name: value for field, value in message.ListFields()}


def _fail(call: Call, error: RpcError) -> None:
    call.finish(error.status, error.message, error.trailers)
