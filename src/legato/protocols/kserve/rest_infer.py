"""``POST .../infer``: a body becomes a step, its reply becomes a body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response

from legato.core.errors import ClientError, ServerError
from legato.core.types import KSERVE, Reply
from legato.protocols.http.body import (
    ClientGoneError,
    TooLargeError,
    compress,
    decompress,
    read_body,
)
from legato.protocols.kserve import rest_answers as answers
from legato.protocols.kserve.delivery import KserveStep, finished, prepare
from legato.protocols.kserve.parameters import apply_step_header
from legato.protocols.kserve.rest_codec import Wish, fill_from_json, fill_from_raw, write_reply
from legato.protocols.kserve.special import adopt
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from legato.protocols.kserve.memory import Regions
    from legato.protocols.kserve.ports import EnginePort

JSON_LENGTH = "Inference-Header-Content-Length"
LOOK_S = 1.0
"""How long an answer may take before the server looks whether its client is still there."""

_DECOUPLED = "HTTP end point doesn't support models with decoupled transaction policy"


class Infer:
    """``POST .../infer`` as an ASGI application of its own.

    Args:
        engine: Where steps go.
        limit: Largest body, also after decompression.
        regions: Shared memory of clients; ``None`` = not allowed.
    """

    def __init__(self, engine: EnginePort, limit: int, regions: Regions | None = None) -> None:
        self.engine = engine
        self.limit = limit
        self.regions = regions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one inference request."""
        request = Request(scope, receive)
        params = request.path_params
        step = KserveStep(params["model"], None, {}, KSERVE)
        step.version = params.get("version", "")
        try:
            response = await self._answer(request, receive, step)
        except TooLargeError as error:
            response = answers.error(413, str(error))
        except (RpcError, ServerError) as error:
            response = answers.refusal(error, step, self.engine)
        except ClientGoneError:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive, step: KserveStep) -> Response:
        headers = request.headers
        packed = await read_body(receive, headers.get("content-length"), self.limit)
        body = await decompress(packed, headers.get("content-encoding"), self.limit)
        try:
            wish = self._fill(step, body, headers.get(JSON_LENGTH))
            if step.model in self.engine.decoupled:
                raise RpcError(Status.UNIMPLEMENTED, _DECOUPLED)
            prepare(step, self.engine, self.regions)
            adopt(step, self.engine)
            apply_step_header(headers.get("legato-step"), step)
        except ServerError as error:
            self.engine.refused(step.model, error)
            raise
        reply = finished(step, await run(self.engine, step, receive))
        if isinstance(reply, RpcError):
            raise reply
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

    def _fill(self, step: KserveStep, body: bytes, json_length: str | None) -> Wish:
        if json_length is None:
            return fill_from_json(step, body, None, self.regions)
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) <= 18):
            raise ClientError(f"{JSON_LENGTH} must be a number of bytes, got '{json_length[:40]}'")
        if int(json_length) == 0:
            signature = self.engine.model(step.model, step.version).signature
            return fill_from_raw(step, body, signature)
        return fill_from_json(step, body, int(json_length), self.regions)


async def run(engine: EnginePort, step: KserveStep, receive: Receive) -> Reply:
    """Hand a step to the engine and return its reply; a client that leaves cancels it.

    Raises:
        ServerError: It failed, or was cancelled before it began.
    """
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def done(outcome: Reply | ServerError) -> None:
        if not answer.done():
            answer.set_result(outcome)

    step.done = done
    engine.submit(step)
    look_after(engine, step, receive, answer)
    try:
        outcome = await answer
    except asyncio.CancelledError:
        engine.cancel(step)
        raise
    if isinstance(outcome, Reply):
        return outcome
    raise outcome


def look_after(
    engine: EnginePort, step: KserveStep, receive: Receive, answer: asyncio.Future[Any]
) -> None:
    """Cancel a step whose client leaves before there is an answer.

    Looked for only where that takes long: asking is the server's one way to tell.
    """
    loop = answer.get_loop()

    async def watch() -> None:
        while not answer.done():
            event = await receive()
            if event["type"] == "http.disconnect":
                engine.cancel(step)
                return

    def begin() -> None:
        watching = loop.create_task(watch())
        answer.add_done_callback(lambda _answer: watching.cancel())

    timer = loop.call_later(LOOK_S, begin)
    answer.add_done_callback(lambda _answer: timer.cancel())
