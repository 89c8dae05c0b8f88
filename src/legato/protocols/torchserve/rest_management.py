"""The REST management API, port 8081, and the metrics page, port 8082."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs

import orjson

from legato.protocols.torchserve import errors, http, openapi
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.metrics import CONTENT_TYPE
from legato.protocols.torchserve.registry import Wish

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from legato.protocols.torchserve.http import Cors, Receive, Send
    from legato.protocols.torchserve.management import Done, Management
    from legato.protocols.torchserve.metrics import Metrics
    from legato.protocols.torchserve.tokens import Tokens

_MOST_BODY: Final = 1024 * 1024


class Query:
    """Parameters of a call: from the query, or a JSON object in the body."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """Return a parameter, "" if it was not given."""
        value = self._values.get(name)
        return "" if value is None else str(value)

    def number(self, name: str) -> int | None:
        """Return a parameter that is a number.

        Raises:
            Failure: It is none.
        """
        text = self.text(name).strip()
        if not text:
            return None
        try:
            return int(text)
        except ValueError:
            raise errors.bad_request(f"Parameter {name} is not a number: {text[:40]}") from None

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a parameter that is true or false."""
        text = self.text(name).strip().lower()
        return text == "true" if text else default


class ManagementApp:
    """ASGI: models, workers, keys.

    Args:
        management: Does the work.
        tokens: The keys; ``None`` = nobody is asked for one.
        metrics: Counts answers.
        cors: Headers for browsers.
    """

    def __init__(
        self, management: Management, tokens: Tokens | None, metrics: Metrics, cors: Cors
    ) -> None:
        self._management = management
        self._tokens = tokens
        self._metrics = metrics
        self._cors = cors

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, value = await self._route(scope, receive)
        except Failure as error:
            self._metrics.answered(error.status)
            await http.answer_failure(send, error, self._cors.headers)
            return
        self._metrics.answered(status)
        if value is None:
            await http.answer(send, status, b"\n", self._cors.headers)
        else:
            body = errors.pretty(value)
            await http.answer(send, status, body, (http.JSON, *self._cors.headers))

    async def _route(self, scope: Any, receive: Receive) -> tuple[int, object]:
        method, path = scope["method"], scope["path"].rstrip("/")
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        parameters = Query({name: values[-1] for name, values in query.items()})
        authorization = http.texts(scope).get("authorization")
        if method == "OPTIONS" or path == "/api-description":
            return self._describe(path)
        if path == "/token":
            return self._renew(method, parameters, authorization)
        if self._tokens is not None and not self._tokens.allows("management", authorization):
            raise errors.bad_token()
        match path.split("/")[1:]:
            case ["models"]:
                return await self._models(method, parameters, scope, receive)
            case ["models", name]:
                return await self._model(method, name, "", parameters)
            case ["models", name, version]:
                return await self._model(method, name, version, parameters)
            case ["models", name, version, "set-default"]:
                _only(method, "PUT")
                return 200, _status(await self._management.registry.set_default(name, version))
            case ["v1", "models", name]:
                _only(method, "GET")
                one = self._management.registry.find(name)
                return 200, {"name": name, "ready": one.handle is not None}
        raise errors.not_found()

    def _describe(self, path: str) -> tuple[int, object]:
        words = path.split("/")[1:]
        if len(words) >= 2 and words[0] == "models":
            one = self._management.registry.find(words[1], words[2] if len(words) > 2 else "")
            return 200, openapi.model(one.name, one.version)
        return 200, openapi.management()

    def _renew(
        self, method: str, parameters: Query, authorization: str | None
    ) -> tuple[int, object]:
        _only(method, "GET")
        tokens = self._tokens
        if tokens is None:
            raise errors.not_found()
        if not tokens.allows("API", authorization):
            raise errors.bad_token()
        kind = parameters.text("type")
        if kind not in ("management", "inference"):
            raise errors.bad_request("Parameter type is required.")
        which: Literal["management", "inference"] = (
            "management" if kind == "management" else "inference"
        )
        tokens.renew(which)
        return 200, None

    async def _models(
        self, method: str, parameters: Query, scope: Any, receive: Receive
    ) -> tuple[int, object]:
        if method == "GET":
            limit, offset = parameters.number("limit"), parameters.number("next_page_token")
            listed = self._management.registry.listed(100 if limit is None else limit, offset or 0)
            return 200, listed
        _only(method, "POST")
        body = await http.body_of(scope, receive, _MOST_BODY)
        if body and body.strip():
            parameters = _from_json(body, parameters)
        wish = Wish(
            parameters.text("url"),
            parameters.text("model_name"),
            parameters.text("handler"),
            parameters.text("runtime"),
            parameters.number("batch_size"),
            parameters.number("max_batch_delay"),
            parameters.number("response_timeout"),
            parameters.number("startup_timeout"),
            parameters.number("initial_workers"),
        )
        synchronous = parameters.flag("synchronous", default=True)
        return _told(await self._management.register(wish, synchronous=synchronous))

    async def _model(
        self, method: str, name: str, version: str, parameters: Query
    ) -> tuple[int, object]:
        management = self._management
        if method == "GET":
            customized = parameters.flag("customized", default=False)
            return 200, await management.describe(name, version, customized=customized)
        if method == "PUT":
            version = version or parameters.text("model_version")
            least = parameters.number("min_worker")
            least = 1 if least is None else least
            most = parameters.number("max_worker")
            return _told(
                await management.scale(
                    name,
                    version,
                    least,
                    least if most is None else most,
                    synchronous=parameters.flag("synchronous", default=False),
                )
            )
        _only(method, "DELETE")
        return 200, _status(await management.unregister(name, version))


def _only(method: str, wanted: str) -> None:
    if method != wanted:
        raise errors.method_not_allowed()


def _status(text: str) -> dict[str, str]:
    return {"status": text}


def _told(done: Done) -> tuple[int, object]:
    return done.status, _status(done.text)


def _from_json(body: bytes, parameters: Query) -> Query:
    """Take parameters from a JSON body where the query has none."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return parameters
    if not isinstance(found, dict) or parameters.text("url"):
        return parameters
    return Query({str(name): _plain(value) for name, value in found.items()})


def _plain(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


class MetricsApp:
    """ASGI: ``GET /metrics``; nobody needs a key.

    Args:
        metrics: What was counted.
        cors: Headers for browsers.
    """

    def __init__(self, metrics: Metrics, cors: Cors) -> None:
        self._metrics = metrics
        self._cors = cors

    @staticmethod
    def wants(path: str) -> bool:
        """Whether a path is this page."""
        return path.rstrip("/") == "/metrics"

    async def __call__(self, scope: Any, _receive: Callable[..., Any], send: Send) -> None:
        """Answer one request."""
        try:
            if not self.wants(scope["path"]):
                raise errors.not_found()
            _only(scope["method"], "GET")
        except Failure as error:
            await http.answer_failure(send, error)
            return
        query = parse_qs(scope["query_string"].decode("latin-1"))
        page = self._metrics.render(query.get("name[]", ()))
        headers = [(b"content-type", CONTENT_TYPE.encode()), *self._cors.headers]
        await http.answer(send, 200, page, headers)
