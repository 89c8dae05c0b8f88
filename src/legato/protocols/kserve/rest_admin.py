"""REST around inference: shared memory, model control, log and trace settings."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from starlette.routing import Route

from legato.core.errors import ClientError, ServerError
from legato.engine.catalog import ControlError
from legato.protocols.http.body import ClientGoneError, TooLargeError
from legato.protocols.kserve import rest_answers as answers
from legato.protocols.kserve.facilities import control_failure, load_options, unload_options
from legato.protocols.kserve.grpc_admin import no_cuda_region
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from legato.protocols.kserve.facilities import Facilities
    from legato.protocols.kserve.ports import EnginePort

    Answer = Callable[[Request, dict[str, Any]], Awaitable[Response]]

_MOST_BYTES = 65_536
"""Largest body of a request that names things and carries none."""

_NUMBER_LIMIT = 2**64


def admin_routes(engine: EnginePort, facilities: Facilities, max_body_bytes: int) -> list[Route]:
    """Return the routes.

    Args:
        engine: For the words of errors.
        facilities: What is offered.
        max_body_bytes: Largest body of a load request, which may carry a model.
    """
    memory, repository = _Memory(facilities), _Repository(facilities)
    settings = _Settings(facilities)

    def route(method: str, path: str, answer: Answer, limit: int = _MOST_BYTES) -> Route:
        return Route(path, _endpoint(engine, answer, limit), methods=[method])

    made = []
    for kind, status, register, unregister in (
        ("system", memory.status, memory.register, memory.unregister),
        ("cuda", memory.cuda_status, memory.cuda_register, memory.cuda_unregister),
    ):
        path = f"/v2/{kind}sharedmemory"
        made += [
            route("GET", f"{path}/status", status),
            route("GET", f"{path}/region/{{region}}/status", status),
            route("POST", f"{path}/region/{{region}}/register", register),
            route("POST", f"{path}/unregister", unregister),
            route("POST", f"{path}/region/{{region}}/unregister", unregister),
        ]
    for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
        made += [route(method, path, settings.trace) for method in ("GET", "POST")]
    made += [route(method, "/v2/logging", settings.log) for method in ("GET", "POST")]
    model = "/v2/repository/models/{model}"
    return [
        *made,
        route("POST", "/v2/repository/index", repository.index),
        route("POST", f"{model}/load", repository.load, max_body_bytes),
        route("POST", f"{model}/unload", repository.unload),
    ]


def _endpoint(
    engine: EnginePort, answer: Answer, limit: int
) -> Callable[[Request], Awaitable[Response]]:
    """Read the body, let ``answer`` answer, and give errors their form."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await answers.json_body(request, limit) if request.method == "POST" else {}
            return await answer(request, body)
        except (TooLargeError, ClientGoneError) as error:
            return answers.error(413, str(error))
        except RpcError as error:
            return answers.rpc_error(error)
        except ServerError as error:
            return answers.refusal(error, answers.nobody(), engine)

    return endpoint


def _done() -> Response:
    return Response(status_code=200)


class _Memory:
    """Shared memory: system's where it is allowed; a GPU's is answered, never registered."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    async def status(self, request: Request, _body: dict[str, Any]) -> Response:
        regions = self._facilities.allowed_regions()
        return answers.as_json(
            [
                {
                    "name": region.name,
                    "key": region.key,
                    "offset": region.offset,
                    "byte_size": region.byte_size,
                }
                for region in regions.status(request.path_params.get("region", ""))
            ]
        )

    async def register(self, request: Request, body: dict[str, Any]) -> Response:
        regions = self._facilities.allowed_regions()
        key = body.get("key")
        if not isinstance(key, str):
            raise ClientError("'key' of a shared memory region must be a string")
        offset, byte_size = _number(body, "offset", 0), _number(body, "byte_size")
        regions.register(request.path_params["region"], key, offset, byte_size)
        return _done()

    async def unregister(self, request: Request, _body: dict[str, Any]) -> Response:
        self._facilities.allowed_regions().unregister(request.path_params.get("region", ""))
        return _done()

    async def cuda_status(self, request: Request, _body: dict[str, Any]) -> Response:
        if "region" in request.path_params:
            raise no_cuda_region(request.path_params["region"])
        return answers.as_json([])

    async def cuda_register(self, request: Request, _body: dict[str, Any]) -> Response:
        raise self._facilities.refuse_cuda(request.path_params["region"])

    async def cuda_unregister(self, _request: Request, _body: dict[str, Any]) -> Response:
        return _done()


def _number(body: dict[str, Any], key: str, default: int | None = None) -> int:
    value = body.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _NUMBER_LIMIT:
        raise ClientError(f"'{key}' of a shared memory region must be a number of bytes")
    return value


class _Repository:
    """Which models there are, and which are served."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    async def index(self, _request: Request, body: dict[str, Any]) -> Response:
        lines = self._facilities.index(only_ready=body.get("ready") is True)
        return answers.as_json([line._asdict() for line in lines])

    async def load(self, request: Request, body: dict[str, Any]) -> Response:
        config, files = load_options(
            {key: _file_or_value(key, value) for key, value in _parameters(body).items()}
        )
        try:
            await self._facilities.repository.load_model(
                request.path_params["model"], config=config, files=files
            )
        except ControlError as error:
            raise control_failure(error) from None
        return _done()

    async def unload(self, request: Request, body: dict[str, Any]) -> Response:
        dependents = unload_options(_parameters(body))
        try:
            await self._facilities.repository.unload_model(
                request.path_params["model"], dependents=dependents
            )
        except ControlError as error:
            raise control_failure(error) from None
        return _done()


def _parameters(body: dict[str, Any]) -> dict[str, Any]:
    parameters = body.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ClientError("'parameters' of the request must be an object")
    return parameters


def _file_or_value(key: str, value: object) -> object:
    """Return a parameter's value; files come as base64."""
    if not key.startswith("file:"):
        return value
    if not isinstance(value, str):
        raise ClientError(f"load parameter '{key[:80]}' must be the file in base64")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ClientError(f"load parameter '{key[:80]}' is not base64") from None


class _Settings:
    """What is logged and traced: a request changes what it names, and is told all."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities

    async def log(self, _request: Request, body: dict[str, Any]) -> Response:
        self._facilities.log.change(body)
        return answers.as_json(self._facilities.log.values())

    async def trace(self, request: Request, body: dict[str, Any]) -> Response:
        model = self._facilities.known_model(request.path_params.get("model", ""))
        changes = {key: _texts(key, value) for key, value in body.items()}
        self._facilities.trace.change(changes, model)
        values = self._facilities.trace.values(model)
        return answers.as_json(
            {key: value if key == "trace_level" else value[0] for key, value in values.items()}
        )


def _texts(key: str, value: object) -> list[str]:
    """Return the values of a trace setting; ``null`` clears it."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if any(isinstance(entry, bool) or not isinstance(entry, int | str) for entry in values):
        raise RpcError(
            Status.INVALID_ARGUMENT,
            f"invalid value for setting '{key[:80]}': expected a string or a list of strings",
        )
    return [str(entry) for entry in values]
