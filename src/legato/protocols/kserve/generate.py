"""``generate`` and ``generate_stream``: flat JSON in, flat JSON out, one or many answers.

The keys of the request are the model's inputs; those that are none of them are parameters
(``sequence_id`` and its like among them), as are those in an object named ``parameters``.
The keys of an answer are the model's outputs. ``generate_stream`` sends each answer as a
server-sent event, and is the only HTTP way to a decoupled model.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from legato.core.errors import BusyError, ClientError, ModelSaysError, ServerError
from legato.core.parts import from_part
from legato.core.types import KSERVE, Reply
from legato.protocols.http.body import ClientGoneError, TooLargeError
from legato.protocols.kserve import rest_answers as answers
from legato.protocols.kserve.datatypes import numpy_dtype, wire_name
from legato.protocols.kserve.delivery import KserveStep
from legato.protocols.kserve.describe import client_inputs
from legato.protocols.kserve.errors import failure
from legato.protocols.kserve.parameters import apply, apply_step_header, interpret
from legato.protocols.kserve.rest_codec import flat_elements, json_values
from legato.protocols.kserve.rest_infer import look_after
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from starlette.types import Receive, Scope, Send

    from legato.core.types import Array, OutputHeader, Signature, TensorSpec
    from legato.protocols.kserve.ports import EnginePort

_MOST_WAITING = 4096  # answers that a client has not taken yet
_NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that "
    "generates various number of responses"
)


class Generate:
    """``POST .../generate`` or ``.../generate_stream`` as an ASGI application of its own.

    Args:
        engine: Where steps go.
        limit: Largest body, also after decompression.
        streamed: Answers are server-sent events.
    """

    def __init__(self, engine: EnginePort, limit: int, *, streamed: bool) -> None:
        self.engine = engine
        self.limit = limit
        self.streamed = streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        params = request.path_params
        step = KserveStep(params["model"], None, {}, KSERVE)
        step.version = params.get("version", "")
        try:
            body = await answers.json_body(request, self.limit)
            fill_from_flat(step, body, self.engine.model(step.model, step.version).signature)
            apply_step_header(request.headers.get("legato-step"), step)
            run = _Run(step, self.engine, receive)
            response = await (self._stream(run) if self.streamed else self._single(run))
        except TooLargeError as error:
            response = answers.error(413, str(error))
        except (RpcError, ServerError) as error:
            response = answers.refusal(error, step, self.engine)
        except ClientGoneError:
            return
        await response(scope, receive, send)

    async def _single(self, run: _Run) -> Response:
        """Answer with the one answer that the model gives."""
        found = [one async for one in run if one]
        if len(found) != 1:
            raise RpcError(Status.INVALID_ARGUMENT, _NOT_ONE)
        if "error" in found[0]:
            raise RpcError(Status.INTERNAL, found[0]["error"])
        return answers.as_json(found[0])

    async def _stream(self, run: _Run) -> Response:
        """Answer with events; an error that comes first keeps its status."""
        first = await anext(run, None)
        return StreamingResponse(
            self._events(run, first), 200, media_type="text/event-stream; charset=utf-8"
        )

    async def _events(self, run: _Run, first: dict[str, Any] | None) -> AsyncIterator[bytes]:
        try:
            if first:
                yield _event(first)
            async for one in run:
                if one:
                    yield _event(one)
        except (RpcError, ServerError) as error:
            what = failure(error, run.step, self.engine)
            yield _event({"error": what.message, **dict(what.trailers())})
        finally:
            run.close()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


class _Run:
    """The answers to one step, one after the other; an empty one has nothing to say.

    Iterating raises the error that the step ended with.
    """

    def __init__(self, step: KserveStep, engine: EnginePort, receive: Receive) -> None:
        self.step = step
        self._engine = engine
        self._id = step.request_id
        self._over = False
        self._waiting: asyncio.Queue[dict[str, Any] | RpcError | ServerError | None] = (
            asyncio.Queue()
        )
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        step.done = self._done
        if step.model in engine.decoupled:
            step.partial = self._part
        engine.submit(step)
        look_after(engine, step, receive, self._first)

    def __aiter__(self) -> _Run:
        return self

    async def __anext__(self) -> dict[str, Any]:
        try:
            one = await self._waiting.get()
        except asyncio.CancelledError:
            self.close()
            raise
        if one is None:
            raise StopAsyncIteration
        if isinstance(one, dict):
            return one
        raise one

    def close(self) -> None:
        """Want no more answers."""
        if not self._over:
            self._over = True
            self._engine.cancel(self.step)

    def _put(self, one: dict[str, Any] | RpcError | ServerError | None) -> None:
        self._waiting.put_nowait(one)
        if not self._first.done():
            self._first.set_result(None)

    def _part(self, body: bytes, meta: dict[str, Any]) -> None:
        if self._over:
            return
        if self._waiting.qsize() >= _MOST_WAITING:
            self.close()
            self._put(
                BusyError(f"the client has not taken {_MOST_WAITING} answers; no more are kept")
            )
            return
        for part in from_part(body, meta):
            if isinstance(part, ModelSaysError):
                self._put({"error": part.message})
            else:
                version = self._engine.model(self.step.model, self.step.version).version
                self._put(self._flat(version, part.headers, part.data))

    def _done(self, outcome: Reply | ServerError) -> None:
        if self._over:
            return
        self._over = True
        if isinstance(outcome, Reply):
            if outcome.headers:
                flat = self._flat(outcome.version, outcome.headers, outcome.data)
                if outcome.step:
                    flat["sequence_step"] = outcome.step
                self._put(flat)
            self._put(None)
        else:
            self._put(outcome)

    def _flat(
        self, version: str, headers: Iterable[OutputHeader], data: Iterable[bytes]
    ) -> dict[str, Any]:
        made: dict[str, Any] = {"model_name": self.step.model, "model_version": version}
        if self._id:
            made["id"] = self._id
        for header, content in zip(headers, data, strict=True):
            values = json_values(header, content)
            made[header.name] = values[0] if len(values) == 1 else values
        return made


# -- requests -----------------------------------------------------------------------------


def fill_from_flat(step: KserveStep, body: dict[str, Any], signature: Signature) -> None:
    """Fill ``step`` (its model is set) from flat JSON.

    Raises:
        ClientError: A value is wrong.
    """
    specs = {spec.name: spec for spec in client_inputs(signature)}
    inputs: dict[str, Array] = {}
    nested = body.get("parameters") if "parameters" not in specs else None
    if nested is not None and not isinstance(nested, dict):
        raise ClientError("'parameters' of the request must be an object")
    for key, value in (*body.items(), *(nested or {}).items()):
        if key in specs:
            inputs[key] = _tensor(value, specs[key], step.model)
        elif key == "id":
            if not isinstance(value, str):
                raise ClientError("'id' must be a string")
            step.request_id = value
        elif value is nested or value is None:
            continue
        elif isinstance(value, bool | int | float | str):
            apply(interpret(key, value), step)
        else:
            raise ClientError(
                f"'{key[:80]}' is no input of model '{step.model}', so it must be a boolean, a "
                "number or a string"
            )
    step.inputs = inputs


def _tensor(value: object, spec: TensorSpec, model: str) -> Array:
    flat = flat_elements(value, numpy_dtype(wire_name(spec.dtype)), spec.name, model)
    shape = list(spec.shape)
    rest = flat.size
    for dim in shape:
        rest //= max(1, dim)
    for axis in reversed(range(len(shape))):
        if shape[axis] < 0:  # the last axis that varies takes what there is
            shape[axis], rest = rest, 1
    try:
        return flat.reshape(shape)
    except ValueError:
        raise ClientError(
            f"input '{spec.name}' for model '{model}' has {flat.size} elements, which do not fit "
            f"its shape {list(spec.shape)}"
        ) from None
