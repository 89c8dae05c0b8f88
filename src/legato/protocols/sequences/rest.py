"""The REST side: routes for Starlette, made of the table of operations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from legato.core.errors import ClientError, ServerError
from legato.observe.log import get_logger
from legato.protocols.sequences.errors import case_of, problem_of
from legato.protocols.sequences.messages import ExportResponse, Problem
from legato.protocols.sequences.openapi import document
from legato.protocols.sequences.operations import OPERATIONS, ROOT, Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from legato.protocols.sequences.api import Api
    from legato.protocols.sequences.messages import Answer

MOST_JSON_BYTES = 64 * 1024
MOST_FILE_BYTES = 256 * 1024 * 1024
OPENAPI = "/legato/openapi.json"
_ANY = ["GET", "POST", "PUT", "PATCH", "DELETE"]

log = get_logger()


def routes(api: Api, *, max_file_bytes: int = MOST_FILE_BYTES) -> list[Route]:
    """Return the routes below ``/legato``.

    Args:
        api: What they do.
        max_file_bytes: Largest file that may be imported.
    """
    made = [
        Route(path, _endpoint(api, operation, max_file_bytes), methods=[method])
        for operation in OPERATIONS
        for method, path in operation.routes
    ]
    return [
        Route(OPENAPI, _openapi, methods=["GET"]),
        *made,
        Route(ROOT + "/{rest:path}", _nothing_here, methods=_ANY),
    ]


class _TooLargeError(Exception):
    """The body is larger than allowed."""


def _endpoint(
    api: Api, operation: Operation, limit: int
) -> Callable[[Request], Awaitable[Response]]:
    run = operation.run(api)

    async def answer(request: Request) -> Response:
        try:
            values = await _values(request, operation, limit)
            return _answer(operation, await run(operation.read(values)))
        except _TooLargeError as error:
            return _problem(413, Problem(error=str(error), code="too_large"))
        except ServerError as error:
            return _refusal(error)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        except Exception as error:
            # The outermost task of a request: told as JSON, like everything else here.
            log.exception("sequence_call_failed", method=operation.name)
            return _refusal(ServerError(f"the call failed inside the server: {error}"))

    return answer


def _answer(operation: Operation, answered: Answer) -> Response:
    if isinstance(answered, ExportResponse):
        headers = {
            "legato-step": str(answered.step),
            "content-disposition": 'attachment; filename="sequence.safetensors"',
        }
        return Response(answered.file, 200, headers, "application/octet-stream")
    body = answered.model_dump_json(exclude_none=True)
    return Response(body, 201 if operation.created else 200, media_type="application/json")


async def _values(request: Request, operation: Operation, limit: int) -> dict[str, Any]:
    """Gather the fields of a request from path, query and body; a field in two is refused."""
    parts: list[dict[str, Any]] = [dict(request.path_params), dict(request.query_params)]
    if operation.file_in:
        parts.append({"file": await _body(request, limit)})
    elif request.method == "POST":
        parts.append(_json(await _body(request, MOST_JSON_BYTES)))
    values: dict[str, Any] = {}
    for part in parts:
        twice = sorted(values.keys() & part.keys())
        if twice:
            raise ClientError(f"'{twice[0]}' is given twice")
        values.update(part)
    return values


def _json(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ClientError("the body is JSON, but no object")
    return value


async def _body(request: Request, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLargeError(f"the body of the request is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


def _refusal(error: ServerError) -> Response:
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return _problem(case_of(error).http_status, problem_of(error), headers)


def _problem(status: int, problem: Problem, headers: dict[str, str] | None = None) -> Response:
    body = problem.model_dump_json(exclude_none=True)
    return Response(body, status, headers, "application/json")


async def _openapi(_request: Request) -> Response:
    return Response(orjson.dumps(document()), media_type="application/json")


async def _nothing_here(request: Request) -> Response:
    text = f"{request.method} {request.url.path[:80]} is no call of the sequence API; see {OPENAPI}"
    return _problem(404, Problem(error=text, code="no_such_call"))
