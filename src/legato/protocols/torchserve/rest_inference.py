"""The REST inference API, port 8080: an ASGI application of its own.

The method of a prediction is not looked at. An answer that has more to come begins a chunked
body; each answer is one chunk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

from legato.core.errors import ClientError
from legato.protocols.torchserve import errors, http, open_inference, openapi
from legato.protocols.torchserve.errors import Failure, failure
from legato.protocols.torchserve.forms import parts_of, query_parts
from legato.protocols.torchserve.jobs import TRUE, Job, Request, step_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from legato.protocols.torchserve.http import Cors, Header, Receive, Send
    from legato.protocols.torchserve.jobs import Door
    from legato.runtimes.torchserve.exchange import Answer

REQUEST_ID: Final = b"x-request-id"
STREAM_NEXT: Final = "ts_stream_next"
STEP: Final = b"legato-step"


class Target:
    """What a path asks for.

    Attributes:
        model, version, rest: Parts of the path.
        explain: An explanation is wanted; ``None`` where the question does not arise.
        query: Query parameters go into the row.
    """

    __slots__ = ("explain", "model", "query", "rest", "version")

    def __init__(
        self, model: str, version: str = "", rest: str = "", *, explain: bool = False
    ) -> None:
        self.model = model
        self.version = version
        self.rest = rest
        self.explain = explain
        self.query = False


def target_of(path: str, query: Mapping[str, list[str]], only: Callable[[], str]) -> Target | None:
    """Return what a path asks for, ``None`` if it is no prediction.

    Args:
        path: Decoded.
        query: Query parameters.
        only: Name of the only model, "" if there is no such.

    Raises:
        Failure: The model must be named and is not.
    """
    words = path.strip("/").split("/")
    match words:
        case ["predictions" | "explanations" as verb, model, *more] if model:
            version = more[0] if more else ""
            return Target(model, version, "/".join(more[1:]), explain=verb == "explanations")
        case ["invocations"] | ["models", _, "invoke"]:
            model = words[1] if len(words) == 3 else (query.get("model_name") or [""])[-1] or only()
            if not model:
                raise errors.bad_request("Parameter model_name is required.")
            found = Target(model)
            found.query = True
            return found
        case ["v1", "models", last] if last.endswith((":predict", ":explain")):
            return Target(last.rpartition(":")[0], explain=last.endswith(":explain"))
        case ["v2", "models", model, "infer" | "explain" as verb]:
            return Target(model, explain=verb == "explain")
        case [model, "predict"]:
            return Target(model)
        case [model, version, "predict"] if model not in ("v1", "v2", "models"):
            return Target(model, version)
    return None


class InferenceApp:
    """ASGI: predictions, explanations, ping, description.

    Args:
        door: Where requests go.
        allows: Tells whether an Authorization header is good.
        limit: Largest body.
        cors: Headers for browsers.
        open_inference: Paths of the Open Inference Protocol are served.
    """

    def __init__(
        self,
        door: Door,
        allows: Callable[[str | None], bool],
        limit: int,
        cors: Cors,
        *,
        open_inference: bool = False,
    ) -> None:
        self._door = door
        self._allows = allows
        self._limit = limit
        self._cors = cors
        self._open_inference = open_inference

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._route(scope, receive, send)
        except Failure as error:
            self._door.metrics.answered(error.status)
            await http.answer_failure(send, error, self._cors.headers)

    async def _route(self, scope: Any, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = http.texts(scope)
        if method == "OPTIONS" or path == "/api-description":
            await self._describe(path, headers, send)
            return
        if not self._allows(headers.get("authorization")):
            raise errors.bad_token()
        if path == "/ping":
            healthy = self._door.registry.healthy()
            status = 200 if healthy else 500
            await self._json(send, status, {"status": "Healthy" if healthy else "Unhealthy"})
            return
        told = open_inference.rest(path) if self._open_inference else None
        if told is not None:
            await self._json(send, 200, told)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        target = target_of(path, query, self._door.registry.only)
        if target is None:
            raise errors.not_found()
        # An unknown model is told before its body is read.
        self._door.registry.find(target.model, target.version)
        body = await http.body_of(scope, receive, self._limit)
        if body is None:
            return
        await self._predict(self._request(target, body, headers, scope), send)

    async def _describe(self, path: str, headers: Mapping[str, str], send: Send) -> None:
        if path in ("/", "/api-description") or "access-control-request-method" in headers:
            await self._json(send, 200, openapi.inference())
            return
        target = target_of(path, {}, self._door.registry.only)
        if target is None:
            raise errors.not_found()
        one = self._door.registry.find(target.model, target.version)
        await self._json(send, 200, openapi.model(one.name, one.version))

    async def _json(self, send: Send, status: int, value: object) -> None:
        self._door.metrics.answered(status)
        body = errors.pretty(value)
        await http.answer(send, status, body, (http.JSON, *self._cors.headers))

    def _request(self, target: Target, body: bytes, headers: dict[str, str], scope: Any) -> Request:
        door = self._door
        parts = parts_of(body, headers.get("content-type", ""))
        if target.query:
            parts = query_parts(scope["query_string"]) + parts
        shown = {**headers, "url_path": target.rest, "explain": str(target.explain)}
        shown.pop("authorization", None)  # the key is the server's business, not the handler's
        request = Request(target.model, target.version, parts, shown, headers.get(door.id_key, ""))
        request.start = headers.get(door.start_key, "").lower() == TRUE
        request.end = headers.get(door.end_key, "").lower() == TRUE
        try:
            request.number = step_number(headers)
        except ClientError as error:
            raise failure(error, target.model) from None
        return request

    # -- the answer -----------------------------------------------------------------------

    async def _predict(self, request: Request, send: Send) -> None:
        chunks = http.Chunks()
        job = Job(
            self._door,
            request,
            lambda _job, outcome: chunks.put((outcome, True)),
            lambda answer: chunks.put((answer, False)),
        )
        job.begin()
        last = False
        try:
            outcome, last = await chunks.get()
            if isinstance(outcome, Failure):
                self._door.metrics.answered(outcome.status)
                extra = [(REQUEST_ID, job.request_id.encode()), *self._cors.headers]
                await http.answer_failure(send, outcome, extra)
                return
            self._door.metrics.answered(outcome.status)
            await self._begin(job, outcome, send, more=not last)
            while not last:
                outcome, last = await chunks.get()
                body = b"" if isinstance(outcome, Failure) else outcome.body
                await send({"type": "http.response.body", "body": body, "more_body": not last})
        except OSError:
            pass  # the client is gone
        finally:
            if not last:
                job.cancel()

    async def _begin(self, job: Job, answer: Answer, send: Send, *, more: bool) -> None:
        """Send head and first chunk."""
        made: list[Header] = [(REQUEST_ID, job.request_id.encode()), *http.FIXED]
        made += self._cors.headers
        told = dict(answer.headers)
        if more:
            told.setdefault(STREAM_NEXT, TRUE)
        else:
            made.append((b"content-length", b"%d" % len(answer.body)))
        if answer.content_type:
            made.append((b"content-type", answer.content_type.encode("latin-1", "replace")))
        if job.sequence_id:
            told.setdefault(self._door.id_key, job.sequence_id)
        if job.number:
            made.append((STEP, b"%d" % job.number))
        made += http.encoded(told)
        await send({"type": "http.response.start", "status": answer.status, "headers": made})
        await send({"type": "http.response.body", "body": answer.body, "more_body": more})
