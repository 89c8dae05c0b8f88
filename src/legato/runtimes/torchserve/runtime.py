"""Runs a TorchServe handler behind the runtime contract: state in, state out."""

from __future__ import annotations

import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from xxhash import xxh3_128_digest

from legato.runtimes.base import AGAIN, StepResult
from legato.runtimes.torchserve.answers import answer_of
from legato.runtimes.torchserve.caches import Caches
from legato.runtimes.torchserve.context import Context
from legato.runtimes.torchserve.exchange import (
    DATA,
    HEADERS,
    META,
    REQUEST_ID,
    RESPONSE,
    STREAM_NEXT,
    Answer,
    HandlerError,
    unpack,
)
from legato.runtimes.torchserve.helpers import PredictionException
from legato.runtimes.torchserve.loading import load_entry, prepare
from legato.runtimes.torchserve.metrics import Metrics
from legato.runtimes.torchserve.signature import STATE, signature_of
from legato.runtimes.torchserve.streams import Streams
from legato.runtimes.worker.messages import Held, StatesWantedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array, CorrelationId, EndReason
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import RowInfo, StepBatch
    from legato.runtimes.torchserve.loading import Entry

SERVER_VERSION = "0.12.0"
"""What handlers are told: the TorchServe whose behaviour this is."""


def load(config: ModelConfig) -> TorchServeRuntime:
    """Load an archive's handler into this process, which is changed for it.

    Raises:
        ConfigError: The handler cannot be found or loaded.
    """
    prepare(config.folder)
    for note in config.options["notes"]:
        _say(f"{config.name}: {note}")
    options = config.options
    metrics = Metrics(model_name=config.name)
    metrics.declare(options.get("metrics", ()))
    context = Context(
        config.name,
        str(config.folder),
        options["manifest"],
        config.max_batch_size,
        0 if options["gpus"] else None,
        SERVER_VERSION,
        options["limit_max_image_pixels"],
        metrics,
        options["yaml"],
    )
    keys = options["header_keys"]
    context.header_key_sequence_id = keys["id"]
    context.header_key_sequence_start = keys["start"]
    context.header_key_sequence_end = keys["end"]
    return TorchServeRuntime(config, context, load_entry(config, context))


def _say(text: str) -> None:
    sys.stderr.write(f"WARNING {text}\n")


class TorchServeRuntime:
    """One handler. Entries that it keeps under a sequence's id are that sequence's state."""

    def __init__(self, config: ModelConfig, context: Context, entry: Entry) -> None:
        self.signature = signature_of(config)
        self._context = context
        self._entry = entry
        self._decode = bool(config.options["decode"])
        self._streams = Streams()
        self._caches: Caches | None = None
        if self.signature.states:
            self._caches = Caches(self._roots, lambda text: _say(f"{config.name}: {text}"))

    def __repr__(self) -> str:
        return f"<TorchServeRuntime {self._context.model_name} {self._entry.module.__name__}>"

    def _roots(self) -> Mapping[str, Mapping[str, Any]]:
        return {
            "handler": vars(self._entry.handler) if self._entry.handler is not None else {},
            "context": vars(self._context),
            "module": vars(self._entry.module),
        }

    def step(self, batch: StepBatch) -> StepResult:
        """Call the handler once; see :class:`legato.runtimes.base.Runtime`.

        Raises:
            HandlerError: The handler failed, with the code and text that TorchServe gives it.
            StatesWantedError: A state that this worker was said to have is gone.
        """
        caches = self._caches
        if caches is None:
            return self._result(batch, self._call(batch), {}, ())
        caches.look()
        names = [str(row.correlation_id) for row in batch.rows]
        states = batch.state[STATE].tolist()
        wanted = [
            at
            for at, state in enumerate(states)
            if isinstance(state, Held) and not caches.has(names[at], state.digest)
        ]
        if wanted:
            raise StatesWantedError(wanted)
        caches.pin(names)
        try:
            for name, state in zip(names, states, strict=True):
                if not isinstance(state, Held):
                    caches.restore(name, state)
            answers = self._call(batch)
            caches.look()
            following, bound = self._capture(caches, names, states)
        except BaseException:
            caches.look()
            caches.forget_requests(
                str(row.parameters.get(REQUEST_ID, ""))
                for row in batch.rows
                if not row.parameters.get(AGAIN)
            )
            raise
        finally:
            caches.unpin()
        return self._result(batch, answers, {STATE: following}, bound)

    @staticmethod
    def _capture(
        caches: Caches, names: Sequence[str], before: Sequence[bytes | Held]
    ) -> tuple[Array, list[int]]:
        """Take the next states out of memory; ``None`` where one is the same as before."""
        following = np.empty(len(names), object)
        bound = []
        for at, (name, old) in enumerate(zip(names, before, strict=True)):
            state, stays = caches.capture(name)
            if stays:
                bound.append(at)
            same = xxh3_128_digest(state) == old.digest if isinstance(old, Held) else state == old
            following[at] = None if same else state
        return following, bound

    def _call(self, batch: StepBatch) -> list[Answer]:
        rows = batch.rows
        data, headers = [], []
        for row, raw in zip(rows, batch.inputs[DATA].tolist(), strict=True):
            values, header = self._request(row, raw)
            data.append(values)
            headers.append(header)
        context = self._context
        ids = [str(row.parameters.get(REQUEST_ID, "")) for row in rows]
        context.begin(ids, headers, [row.partial for row in rows])
        began = time.perf_counter()
        try:
            returned = self._entry.call(data, context)
        except PredictionException as error:
            raise HandlerError(error.message, error.error_code) from error
        except Exception as error:
            traceback.print_exc()
            if isinstance(error, MemoryError) or "CUDA" in str(error):
                raise HandlerError("Out of resources", 507) from error
            raise HandlerError("Prediction failed", 503) from error
        if not isinstance(returned, list):
            raise HandlerError("Invalid model predict output", 503)
        if len(returned) != len(rows):
            raise HandlerError("number of batch response mismatched", 503)
        if context.metrics is not None:
            took_ms = round((time.perf_counter() - began) * 1e3, 2)
            context.metrics.add_time("PredictionTime", took_ms)
        return [
            answer_of(context, at, value, more=self._more(at, value, rows[at]))
            for at, value in enumerate(returned)
        ]

    def _request(self, row: RowInfo, raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make what the handler sees of one request: its row, and its headers."""
        header = dict(row.parameters.get(HEADERS, {}))
        if self._caches is not None:
            header[self._context.header_key_sequence_id] = str(row.correlation_id)
        if row.parameters.get(AGAIN):
            return {}, header  # a request that is handed in again brings no parameters
        values: dict[str, Any] = {}
        for part in unpack(raw):
            values[part.name] = self._value(part.value, part.content_type)
            header.setdefault(part.name, {"content-type": part.content_type})
        return values, header

    def _value(self, value: bytes, content_type: str) -> Any:
        kind = content_type.partition(";")[0].strip().lower()
        if self._decode:
            try:
                if kind == "application/json":
                    return orjson.loads(value)
                if kind.startswith("text/"):
                    return value.decode("utf-8")
            except ValueError as error:
                _say(f"a {kind} body cannot be decoded and is given as bytes: {error}")
        return bytearray(value)

    def _more(self, index: int, value: Any, row: RowInfo) -> bool | None:
        """Tell whether a row has further answers; ``None`` = this is the only one."""
        criteria = self._context.stopping_criteria
        if criteria is not None and index < len(criteria):
            criterion = criteria[index]
            done = None if criterion is None else criterion(value)
            if done is not None:
                return not done
        streamed = row.partial is not None and row.partial.used
        return False if streamed or row.parameters.get(AGAIN) else None

    def _result(
        self, batch: StepBatch, answers: list[Answer], states: dict[str, Array], bound: Any
    ) -> StepResult:
        response, meta = np.empty(len(answers), object), np.empty(len(answers), object)
        again: dict[int, tuple[bytes, dict[str, Any]]] = {}
        over: list[int] = []
        for at, (answer, row) in enumerate(zip(answers, batch.rows, strict=True)):
            response[at], meta[at] = answer.body, orjson.dumps(answer.meta())
            more = answer.headers.get(STREAM_NEXT) == "true"
            if more:
                again[at] = (answer.body, answer.meta())
            if self._caches is not None and self._ends(row, answer, more=more):
                over.append(at)
        return StepResult({RESPONSE: response, META: meta}, states, {}, again, over, bound)

    def _ends(self, row: RowInfo, answer: Answer, *, more: bool) -> bool:
        name, request = str(row.correlation_id), str(row.parameters.get(REQUEST_ID, ""))
        if row.start and not row.parameters.get(AGAIN):
            self._streams.forget(name)
        ended = answer.headers.get(self._context.header_key_sequence_end, "")
        said = name in [part.strip() for part in ended.split(";")]
        return self._streams.ends(name, request, more=more, said=said)

    def measured(self) -> list[tuple[Any, ...]]:
        """Take what the handler measured since; see :meth:`Metrics.take`."""
        return self._context.metrics.take() if self._context.metrics is not None else []

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Let go of what is kept for a sequence that is over."""
        del reason
        if self._caches is not None:
            self._caches.look()
            self._caches.forget(str(correlation_id))
        self._streams.forget(str(correlation_id))

    def close(self) -> None:
        """Nothing to do: the process ends."""
