"""The REST side of the protocol: routes for Starlette, and the answers to questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

import legato
from legato.protocols.kserve import describe
from legato.protocols.kserve import rest_answers as answers
from legato.protocols.kserve.facilities import Facilities, NoRepository
from legato.protocols.kserve.generate import Generate
from legato.protocols.kserve.grpc_service import find_model, metadata_of, statistics_of
from legato.protocols.kserve.rest_admin import admin_routes
from legato.protocols.kserve.rest_infer import JSON_LENGTH, Infer
from legato.protocols.rpc.service import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message
    from starlette.requests import Request

    from legato.protocols.kserve.ports import EnginePort, ServedModel

__all__ = ["JSON_LENGTH", "MAX_BODY_BYTES", "routes"]

MAX_BODY_BYTES = 64 * 1024 * 1024
_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def routes(
    engine: EnginePort,
    *,
    ready: Callable[[], bool] = lambda: True,
    facilities: Facilities | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> list[Route]:
    """Return the routes below ``/v2``; the last one answers 404 for what is not there.

    Args:
        engine: Where steps go.
        ready: Tells whether the server takes requests.
        facilities: What there is besides inference; by default as little as can be.
        max_body_bytes: Largest body, also after decompression.
    """
    facilities = facilities or Facilities(NoRepository(engine))
    pages = _Pages(engine, ready, facilities)
    infer = Infer(engine, max_body_bytes, facilities.regions)
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
        for path, streamed in (("generate", False), ("generate_stream", True)):
            generate = Generate(engine, max_body_bytes, streamed=streamed)
            made.append(Route(f"{model}/{path}", generate, methods=["POST"]))
    made += admin_routes(engine, facilities, max_body_bytes)
    made.append(Route("/v2/{rest:path}", _not_found, methods=_ANY_METHOD))
    return made


async def _not_found(_request: Request) -> Response:
    return answers.error(404, "Not Found")


# -- questions ----------------------------------------------------------------------------


class _Pages:
    """What is asked with GET."""

    def __init__(
        self, engine: EnginePort, ready: Callable[[], bool], facilities: Facilities
    ) -> None:
        self.engine = engine
        self.is_ready = ready
        self.facilities = facilities

    async def server(self, _request: Request) -> Response:
        extensions = self.facilities.extensions()
        return answers.message(describe.server_metadata(legato.__version__, extensions))

    async def live(self, _request: Request) -> Response:
        return Response(status_code=200)

    async def ready(self, _request: Request) -> Response:
        return Response(status_code=200 if self.is_ready() else 400)

    async def all_statistics(self, _request: Request) -> Response:
        return answers.message(describe.model_statistics(self.engine.models()))

    async def metadata(self, request: Request) -> Response:
        return self._told(request, metadata_of)

    async def config(self, request: Request) -> Response:
        return self._told(request, lambda *asked: describe.model_config(find_model(*asked)))

    async def statistics(self, request: Request) -> Response:
        return self._told(request, statistics_of)

    async def model_ready(self, request: Request) -> Response:
        try:
            model = self._find(request)
        except RpcError:
            return answers.error(400, "Model version not ready")
        return Response() if model.ready else answers.error(400, "Model version not ready")

    def _find(self, request: Request) -> ServedModel:
        params = request.path_params
        return find_model(self.engine, params["model"], params.get("version", ""))

    def _told(self, request: Request, tell: Callable[[EnginePort, str, str], Message]) -> Response:
        params = request.path_params
        try:
            return answers.message(tell(self.engine, params["model"], params.get("version", "")))
        except RpcError as error:
            return answers.rpc_error(error)
