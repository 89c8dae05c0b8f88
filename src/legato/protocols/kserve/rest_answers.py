"""How REST requests of this protocol are read and answered: JSON, and errors as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf.message import Message
from starlette.responses import Response

from legato.core.types import KSERVE, Step
from legato.protocols.http.body import decompress, read_body
from legato.protocols.kserve.errors import HTTP_STATUS, failure
from legato.protocols.kserve.rest_codec import parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from legato.core.errors import ServerError
    from legato.protocols.kserve.ports import EnginePort
    from legato.protocols.rpc.service import RpcError


def as_json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    return Response(orjson.dumps(value), status, headers, "application/json")


def error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as this protocol has them."""
    return as_json({"error": text}, status, headers)


def refusal(problem: ServerError | RpcError, step: Step, engine: EnginePort) -> Response:
    """Return the error of a step, with what is known beside the text as headers."""
    what = failure(problem, step, engine)
    return error(what.http_status, what.message, what.headers())


def rpc_error(problem: RpcError) -> Response:
    """Return an error that has only a gRPC status."""
    return error(HTTP_STATUS.get(problem.status, 400), problem.message)


def nobody(model: str = "") -> Step:
    """Return a step that stands for a request without one, where an error wants to know whose."""
    return Step(model, None, {}, KSERVE)


async def json_body(request: Request, limit: int) -> dict[str, Any]:
    """Return the JSON object that a request carries; {} for an empty body.

    Raises:
        RpcError, ClientError: It is none.
        TooLargeError, ClientGoneError: It did not come.
    """
    headers = request.headers
    packed = await read_body(request.receive, headers.get("content-length"), limit)
    body = await decompress(packed, headers.get("content-encoding"), limit)
    return parse_json(body) if body.strip() else {}


def message(value: Message) -> Response:
    """Return a message as JSON."""
    return as_json(plain(value))


def plain(value: Message) -> dict[str, Any]:
    """Return a message as JSON values: all fields by their names, 64-bit integers as numbers.

    (Protobuf's own JSON writes those as strings, which clients of this protocol do not read.)
    """
    made: dict[str, Any] = {}
    for field in value.DESCRIPTOR.fields:
        content = getattr(value, field.name)
        if field.has_presence and not value.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            made[field.name] = {str(key): _plain_value(field, one) for key, one in content.items()}
        elif field.is_repeated:
            made[field.name] = [_plain_value(field, entry) for entry in content]
        else:
            made[field.name] = _plain_value(field, content)
    return made


def _plain_value(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value
