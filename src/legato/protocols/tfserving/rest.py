"""The REST side of the protocol: everything below ``/v1`` that is TensorFlow Serving's."""

from __future__ import annotations

import asyncio
import re
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from legato.core.errors import ServerError
from legato.core.types import TFSERVING, Reply, Step
from legato.engine.catalog import ReloadError
from legato.protocols.http.body import (
    ClientGoneError,
    TooLargeError,
    decompress,
    read_body,
)
from legato.protocols.rpc.service import RpcError
from legato.protocols.tfserving import describe, to_core
from legato.protocols.tfserving.errors import (
    BAD_METHOD,
    BAD_URL,
    NO_RESOURCE,
    RefusalError,
    StillLoadingError,
    failure,
)
from legato.protocols.tfserving.predict import (
    BETWEEN_LOOKS_S,
    METADATA,
    MOST_LOOKS,
    STATUS,
    STEP,
    Door,
    reply_headers,
)
from legato.protocols.tfserving.rest_codec import Body, write_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from legato.protocols.tfserving.ports import (
        CatalogPort,
        CountsPort,
        EnginePort,
        ServedModel,
    )

MAX_BODY_BYTES: Final = 1024**3
CONFIG_FAILED: Final = "Reloading config file failed. Check server logs for more info."
MODELS_FAILED: Final = "Reloading models versions failed. Check server logs for more info."
NO_CONFIG: Final = "Config file not found or cannot open."

_MODEL = re.compile(
    r"/v1/models/(?P<name>[^/:]+)"
    r"(?:/versions/(?P<version>\d+)|/labels/[^/:]+)?"
    r"(?P<action>:predict|:classify|:regress|/metadata)?"
)
_RELOAD_TEXTS: Final = {"config": CONFIG_FAILED, "models": MODELS_FAILED, "missing": NO_CONFIG}


def routes(
    engine: EnginePort,
    catalog: CatalogPort,
    counts: CountsPort | None = None,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> list[Route]:
    """Return the routes below ``/v1``; the last one refuses what is not there.

    Args:
        engine: Where steps go.
        catalog: What is served.
        counts: Counts requests, if anybody wants to know.
        max_body_bytes: Largest body, also after decompression.
    """
    site = _Site(Door(engine, catalog, counts), max_body_bytes)
    # The whole tree is one application: which answer a wrong path or method gets is part of
    # the protocol.
    return [Route("/v1/{rest:path}", site)]


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")


def _refused(refusal: RefusalError) -> Response:
    return _json({"error": refusal.message}, refusal.words.http_status)


class _Site:
    """Everything below ``/v1`` as an ASGI application."""

    def __init__(self, door: Door, limit: int) -> None:
        self.door = door
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except RefusalError as refusal:
            response = _refused(refusal)
        except TooLargeError as error:
            response = _json({"error": str(error)}, 413)
        except ClientGoneError:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if ".." in path:
            raise BAD_URL.refusal()
        if path == "/v1/config":
            _allow(request, "GET")
            return _json(describe.all_statuses_json(self.door.catalog))
        if path == "/v1/config/reload":
            _allow(request, "POST")
            return await self._reload()
        found = _MODEL.fullmatch(path)
        if found is None:
            raise BAD_URL.refusal()
        name, version, action = found["name"], found["version"] or "", found["action"]
        if action == ":predict":
            _allow(request, "POST")
            return await self._predict(request, name, version)
        if action in (":classify", ":regress"):
            _allow(request, "POST")
            raise NO_RESOURCE.refusal()
        _allow(request, "GET")
        catalog = self.door.catalog
        if action is None:
            with self.door.counting(STATUS, name, version):
                return _json(describe.status_json(describe.status(catalog, name, version)))
        with self.door.counting(METADATA, name, version):
            return _json(describe.metadata_json(describe.find(catalog, name, version)))

    async def _reload(self) -> Response:
        """Serve what the config file says now."""
        catalog = self.door.catalog
        try:
            changed = await catalog.reload()
        except ReloadError as error:
            text = _RELOAD_TEXTS.get(error.kind, error.message)
            return _json({"error": text}, error.status)
        return _json(describe.all_statuses_json(catalog), 201 if changed else 200)

    # -- predict ----------------------------------------------------------------------------

    async def _predict(self, request: Request, name: str, version: str) -> Response:
        step = Step(name, None, {}, TFSERVING)
        step.version = "" if int(version or 0) == 0 else str(int(version))
        try:
            return await self._run(request, step)
        except (RpcError, ServerError, RefusalError) as error:
            self.door.refused("Predict", name, step.version)
            what = failure(error, step, self.door.engine)
            return _json({"error": what.message}, what.http_status, what.headers())

    async def _find(self, step: Step) -> ServedModel:
        """Find the model; one that is being loaded is waited for."""
        for _look in range(MOST_LOOKS):
            try:
                return describe.find(self.door.catalog, step.model, step.version, lingering=True)
            except StillLoadingError:
                await asyncio.sleep(BETWEEN_LOOKS_S)
        return describe.find(self.door.catalog, step.model, step.version, lingering=True)

    async def _run(self, request: Request, step: Step) -> Response:
        began = perf_counter()
        headers = request.headers
        packed = await read_body(request.receive, headers.get("content-length"), self.limit)
        data = await decompress(packed, headers.get("content-encoding"), self.limit)
        model = await self._find(step)
        body = Body(data)
        rows = self.door.fill(step, model, body.fill)
        to_core.apply_step_header(headers.get(STEP), step)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(outcome: Reply | ServerError) -> None:
            if not answer.done():
                answer.set_result(outcome)

        step.done = done
        self.door.submit(step, model, rows)
        try:
            outcome = await answer
        except asyncio.CancelledError:
            self.door.engine.cancel(step)
            raise
        if not isinstance(outcome, Reply):
            raise outcome
        self.door.answered(outcome, step.model, began)
        found = write_reply(outcome, rows=body.rows)
        return Response(found, 200, dict(reply_headers(outcome)), "application/json")


def _allow(request: Request, method: str) -> None:
    if request.method != method:
        raise BAD_METHOD.refusal()
