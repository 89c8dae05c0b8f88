"""The REST side of the protocol: routes for Starlette."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf.message import Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import legato
from legato.core.errors import ClientError, ConfigError, ServerError
from legato.core.types import KSERVE, Reply, Step
from legato.protocols.http.body import (
    ClientGoneError,
    TooLargeError,
    compress,
    decompress,
    read_body,
)
from legato.protocols.kserve import describe
from legato.protocols.kserve.errors import HTTP_STATUS, failure
from legato.protocols.kserve.grpc_service import CONTROL_OFF, control_failure, find_model
from legato.protocols.kserve.parameters import apply_step_header
from legato.protocols.kserve.rest_codec import (
    Wish,
    fill_from_json,
    fill_from_raw,
    parse_json,
    write_reply,
)
from legato.protocols.kserve.special import adopt, told
from legato.protocols.rpc.service import RpcError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from legato.protocols.kserve.ports import EnginePort, ModelControl, ServedModel

MAX_BODY_BYTES = 64 * 1024 * 1024
JSON_LENGTH = "Inference-Header-Content-Length"
_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_NOT_OFFERED = "this server does not offer it"


def routes(
    engine: EnginePort,
    *,
    ready: Callable[[], bool] = lambda: True,
    control: ModelControl | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> list[Route]:
    """Return the routes below ``/v2``; the last one answers 404 for what is not there.

    Args:
        engine: Where steps go.
        ready: Tells whether the server takes requests.
        control: Loads and unloads models; ``None`` = clients may not.
        max_body_bytes: Largest body, also after decompression.
    """
    pages = _Pages(engine, ready)
    admin = _Admin(engine, control)
    infer = _Infer(engine, max_body_bytes)
    made = [
        Route("/v2", pages.server, methods=["GET"]),
        Route("/v2/health/live", pages.live, methods=["GET"]),
        Route("/v2/health/ready", pages.ready, methods=["GET"]),
        Route("/v2/models/stats", pages.all_statistics, methods=["GET"]),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        made += [
            Route(model, pages.metadata, methods=["GET"]),
            Route(f"{model}/ready", pages.model_ready, methods=["GET"]),
            Route(f"{model}/config", pages.config, methods=["GET"]),
            Route(f"{model}/stats", pages.statistics, methods=["GET"]),
            Route(f"{model}/infer", infer, methods=["POST"]),
        ]
    made += [
        Route("/v2/repository/index", admin.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", admin.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", admin.unload, methods=["POST"]),
    ]
    for path in ("systemsharedmemory", "cudasharedmemory", "trace", "logging"):
        made.append(Route(f"/v2/{path}", _not_offered, methods=["GET", "POST"]))
        made.append(Route(f"/v2/{path}/{{rest:path}}", _not_offered, methods=["GET", "POST"]))
    made.append(Route("/v2/{rest:path}", _not_found, methods=_ANY_METHOD))
    return made


# -- answers ------------------------------------------------------------------------------


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


def _error(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": text}, status, headers)


def _refusal(error: ServerError | RpcError, step: Step, engine: EnginePort) -> Response:
    what = failure(error, step, engine)
    return _error(what.http_status, what.message, what.headers())


def _message(message: Message) -> Response:
    return _json(_plain(message))


def _plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON values: all fields by their names, 64-bit integers as numbers.

    (Protobuf's own JSON writes those as strings, which clients of this protocol do not read.)
    """
    made: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.has_presence and not message.HasField(field.name):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            made[field.name] = {str(key): _value(field, entry) for key, entry in value.items()}
        elif field.is_repeated:
            made[field.name] = [_value(field, entry) for entry in value]
        else:
            made[field.name] = _value(field, value)
    return made


def _value(field: Any, value: Any) -> Any:
    if isinstance(value, Message):
        return _plain(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value


async def _not_found(_request: Request) -> Response:
    return _error(404, "Not Found")


async def _not_offered(request: Request) -> Response:
    return _error(501, f"{request.url.path[:80]}: {_NOT_OFFERED}")


# -- questions ----------------------------------------------------------------------------


class _Pages:
    """What is asked with GET."""

    def __init__(self, engine: EnginePort, ready: Callable[[], bool]) -> None:
        self.engine = engine
        self.is_ready = ready

    async def server(self, _request: Request) -> Response:
        return _message(describe.server_metadata(legato.__version__))

    async def live(self, _request: Request) -> Response:
        return Response(status_code=200)

    async def ready(self, _request: Request) -> Response:
        return Response(status_code=200 if self.is_ready() else 400)

    async def all_statistics(self, _request: Request) -> Response:
        return _message(describe.model_statistics(self.engine.models()))

    async def metadata(self, request: Request) -> Response:
        return self._about(request, describe.model_metadata)

    async def config(self, request: Request) -> Response:
        return self._about(request, describe.model_config)

    async def statistics(self, request: Request) -> Response:
        return self._about(request, lambda model: describe.model_statistics([model]))

    async def model_ready(self, request: Request) -> Response:
        try:
            model = self._find(request)
        except RpcError:
            return _error(400, "Model version not ready")
        return Response() if model.ready else _error(400, "Model version not ready")

    def _find(self, request: Request) -> ServedModel:
        params = request.path_params
        return find_model(self.engine, params["model"], params.get("version", ""))

    def _about(self, request: Request, tell: Callable[[ServedModel], Message]) -> Response:
        try:
            return _message(tell(self._find(request)))
        except RpcError as error:
            return _error(HTTP_STATUS.get(error.status, 400), error.message)


# -- model control ------------------------------------------------------------------------


class _Admin:
    """The model repository."""

    def __init__(self, engine: EnginePort, control: ModelControl | None) -> None:
        self.engine = engine
        self.control = control

    async def index(self, request: Request) -> Response:
        try:
            body = await read_body(request.receive, request.headers.get("content-length"), 65536)
            wanted = parse_json(body) if body.strip() else {}
        except (RpcError, ClientError) as error:
            return _refusal(error, Step("", None, {}, KSERVE), self.engine)
        except (TooLargeError, ClientGoneError) as error:
            return _error(413, str(error))
        only_ready = wanted.get("ready") is True
        return _json(describe.repository_index(self.engine.models(), only_ready=only_ready))

    async def load(self, request: Request) -> Response:
        return await self._change(request, self.control.load if self.control else None)

    async def unload(self, request: Request) -> Response:
        return await self._change(request, self.control.unload if self.control else None)

    async def _change(
        self, request: Request, run: Callable[[str], Awaitable[None]] | None
    ) -> Response:
        if run is None:
            return _error(503, CONTROL_OFF)
        name = request.path_params["model"]
        try:
            await run(name)
        except (ServerError, ConfigError) as error:
            status, text = control_failure(error, name)
            return _error(HTTP_STATUS.get(status, 400), text)
        return Response(status_code=200)


# -- inference ----------------------------------------------------------------------------


class _Infer:
    """``POST .../infer`` as an ASGI application of its own."""

    def __init__(self, engine: EnginePort, limit: int) -> None:
        self.engine = engine
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one inference request."""
        request = Request(scope, receive)
        params = request.path_params
        step = Step(params["model"], None, {}, KSERVE)
        step.version = params.get("version", "")
        try:
            response = await self._answer(request, receive, step)
        except TooLargeError as error:
            response = _error(413, str(error))
        except (RpcError, ServerError) as error:
            response = _refusal(error, step, self.engine)
        except ClientGoneError:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive, step: Step) -> Response:
        headers = request.headers
        packed = await read_body(receive, headers.get("content-length"), self.limit)
        body = await decompress(packed, headers.get("content-encoding"), self.limit)
        wish = self._fill(step, body, headers.get(JSON_LENGTH))
        adopt(step, self.engine)
        apply_step_header(headers.get("legato-step"), step)
        reply = told(await self._run(step), step)
        data, json_bytes = write_reply(reply, step, wish)
        data, encoding = await compress(data, headers.get("accept-encoding"))
        made: dict[str, str] = {}
        if json_bytes is not None:
            made[JSON_LENGTH] = str(json_bytes)
        if encoding is not None:
            made["content-encoding"] = encoding
        if reply.step:
            made["legato-step"] = str(reply.step)
        kind = "application/json" if json_bytes is None else "application/octet-stream"
        return Response(data, 200, made, kind)

    def _fill(self, step: Step, body: bytes, json_length: str | None) -> Wish:
        if json_length is None:
            return fill_from_json(step, body, None)
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) <= 18):
            raise ClientError(f"{JSON_LENGTH} must be a number of bytes, got '{json_length[:40]}'")
        if int(json_length) == 0:
            signature = self.engine.model(step.model, step.version).signature
            return fill_from_raw(step, body, signature)
        return fill_from_json(step, body, int(json_length))

    async def _run(self, step: Step) -> Reply:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(outcome: Reply | ServerError) -> None:
            if not answer.done():
                answer.set_result(outcome)

        step.done = done
        self.engine.submit(step)
        try:
            outcome = await answer
        except asyncio.CancelledError:
            self.engine.cancel(step)
            raise
        if isinstance(outcome, Reply):
            return outcome
        raise outcome
