"""Predict: a request becomes a step, or one a row where the model carries nothing."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from legato.core.errors import ClientError, ServerError
from legato.core.types import TFSERVING, Reply, Step
from legato.protocols.rpc.service import RpcError, Status
from legato.protocols.tfserving import describe, from_core, to_core
from legato.protocols.tfserving.errors import (
    PIPELINE_MISSING,
    RefusalError,
    StillLoadingError,
    failure,
)
from legato.protocols.tfserving.gen import tfserving_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from legato.core.types import Signature
    from legato.protocols.rpc.service import Call
    from legato.protocols.tfserving.ports import (
        CatalogPort,
        CountsPort,
        EnginePort,
        ServedModel,
    )

METADATA, STATUS = "GetModelMetadata", "GetModelStatus"
STEP = "legato-step"
REPLAYED = "legato-replayed"
MOST_LOOKS = 100
BETWEEN_LOOKS_S = 0.1
"""A model that is being loaded is waited for: as often as Model Server does, and as long."""

Outcome = Reply | ServerError


class Door:
    """What all calls share: the engine, what it serves, and who counts requests, if anybody."""

    __slots__ = ("catalog", "counts", "engine")

    def __init__(
        self, engine: EnginePort, catalog: CatalogPort, counts: CountsPort | None = None
    ) -> None:
        self.engine = engine
        self.catalog = catalog
        self.counts = counts

    def fill(self, step: Step, model: ServedModel, fill: Callable[[Step, Signature], int]) -> int:
        """Fill a step by the signature of its model; return its number of rows.

        A sequence that lives on another version than the default one may have inputs of
        another form: what fits none of them is refused for what the default one says.

        Raises:
            RefusalError: The request is wrong, or begins a sequence on a version that is going.
        """
        try:
            rows = fill(step, model.signature)
        except RefusalError:
            if step.start or step.version:
                raise
            for other in self.catalog.others(step.model):
                try:
                    return fill(step, other.signature)
                except RefusalError:
                    continue
            raise
        if step.start:
            describe.find(self.catalog, step.model, step.version)
        return rows

    def submit(self, step: Step, model: ServedModel, rows: int) -> None:
        """Hand a step to the engine; several rows as a step each, answered together."""
        if rows == 1:
            self.engine.submit(step)
        else:
            _Rows(self.engine, step, model.signature, rows).submit()

    def answered(self, reply: Reply, model: str, began: float) -> None:
        """Count a Predict that went well; only where somebody counts."""
        if self.counts is not None:
            self.counts.count("Predict", model, reply.version, ok=True)
            self.counts.took(model, reply.version, perf_counter() - began)

    def refused(self, method: str, model: str, version: str) -> None:
        """Count a request that was refused, if there is a model to count it for."""
        self._count(method, model, version, ok=False)

    @contextmanager
    def counting(self, method: str, model: str, version: str) -> Iterator[None]:
        """Count a question by how it ends."""
        try:
            yield
        except RefusalError:
            self.refused(method, model, version)
            raise
        self._count(method, model, version, ok=True)

    def _count(self, method: str, model: str, version: str, *, ok: bool) -> None:
        if self.counts is None:
            return
        if method == STATUS:  # is asked of versions that are not served, too
            if self.catalog.known(model):
                self.counts.count(method, model, "", ok=ok)
            return
        with suppress(RefusalError):
            found = describe.find(self.catalog, model, version, lingering=True)
            self.counts.count(method, model, found.version, ok=ok)


class _Rows:
    """The rows of one request to a model that carries nothing from step to step."""

    __slots__ = ("_engine", "_left", "_outcomes", "_signature", "_step", "_steps")

    def __init__(self, engine: EnginePort, step: Step, signature: Signature, rows: int) -> None:
        self._engine = engine
        self._step = step
        self._signature = signature
        self._left = rows
        self._outcomes: list[Outcome | None] = [None] * rows
        self._steps = [
            Step(step.model, None, inputs, step.dialect, self._done_of(at), version=step.version,
                 deadline=step.deadline)
            for at, inputs in enumerate(to_core.split_rows(step.inputs, signature, rows))
        ]  # fmt: skip

    def submit(self) -> None:
        for step in self._steps:
            self._engine.submit(step)

    def _done_of(self, at: int) -> Callable[[Any], None]:
        def done(outcome: Outcome) -> None:
            self._outcomes[at] = outcome
            self._left -= 1
            if not self._left:
                self._step.done(self._whole())

        return done

    def _whole(self) -> Outcome:
        replies = []
        for outcome in self._outcomes:
            if not isinstance(outcome, Reply):
                return outcome or ServerError("a row was not answered")
            replies.append(outcome)
        return from_core.join_rows(replies, self._signature)


class _PredictStep(Step):
    """The step of one Predict call.

    ``done`` is a method here: a callback object would make a cycle with its step, which
    only the garbage collector could free.
    """

    def __init__(self, door: Door, call: Call) -> None:
        self.door = door
        self.call = call
        self.model = ""
        self.correlation_id = None
        self.inputs = {}
        self.dialect = TFSERVING
        if call.deadline is not None:
            self.deadline = call.deadline

    def done(self, outcome: Outcome) -> None:
        """Answer the call."""
        call = self.call
        if call.closed:
            return
        if not isinstance(outcome, Reply):
            self.refuse(outcome)
            return
        for name, value in reply_headers(outcome):
            call.set_header(name, value)
        call.send(from_core.write(outcome, self.model))
        call.finish()

    def refuse(self, error: ServerError | RefusalError) -> None:
        """Answer the call with an error."""
        what = failure(error, self, self.door.engine)
        self.call.finish(what.status, what.message, what.extra)


class _CountedStep(_PredictStep):
    """The same, where requests are counted."""

    def __init__(self, door: Door, call: Call) -> None:
        super().__init__(door, call)
        self.began = perf_counter()

    def done(self, outcome: Outcome) -> None:
        """Answer the call, and count it."""
        if isinstance(outcome, Reply) and not self.call.closed:
            self.door.answered(outcome, self.model, self.began)
        super().done(outcome)

    def refuse(self, error: ServerError | RefusalError) -> None:
        """Answer the call with an error, and count it."""
        self.door.refused("Predict", self.model, self.version)
        super().refuse(error)


class PredictCall:
    """Handler of one Predict call."""

    __slots__ = ("_engine", "_step", "_submitted")

    def __init__(self, door: Door, call: Call) -> None:
        self._engine = door.engine
        kind = _PredictStep if door.counts is None else _CountedStep
        self._step = kind(door, call)
        self._submitted = False

    def message(self, data: bytes) -> None:
        """Take the request."""
        step = self._step
        try:
            request = pb.PredictRequest.FromString(data)
        except DecodeError as error:
            text = f"the message is not a PredictRequest: {error}"
            raise RpcError(Status.INTERNAL, text) from None
        spec = request.model_spec
        step.model, step.version = spec.name, version_of(spec)
        self._run(request, MOST_LOOKS)

    def _run(self, request: pb.PredictRequest, looks: int) -> None:
        """Find the model and hand the step on; one that is being loaded is waited for."""
        step = self._step
        door = step.door
        try:
            model = describe.find(
                door.catalog, step.model, step.version, lingering=True, unknown=PIPELINE_MISSING
            )
            rows = door.fill(step, model, partial(to_core.fill, request))
            to_core.apply_step_header(step.call.metadata.get(STEP), step)
        except StillLoadingError as error:
            if not looks:
                step.refuse(error)
            elif not step.call.closed:
                later = asyncio.get_running_loop().call_later
                later(BETWEEN_LOOKS_S, self._run, request, looks - 1)
        except (RefusalError, ClientError) as error:
            step.refuse(error)
        else:
            self._submitted = True
            door.submit(step, model, rows)

    def half_close(self) -> None:
        """Note the end of the request; the reply comes when it comes."""

    def cancel(self) -> None:
        """Drop the step if it has not begun."""
        if self._submitted:
            self._engine.cancel(self._step)


def version_of(spec: pb.ModelSpec) -> str:
    """Return the version asked for; "" = the default one. Labels are not looked at."""
    number = spec.version.value if spec.WhichOneof("version_choice") == "version" else 0
    return str(number) if number else ""


def reply_headers(reply: Reply) -> list[tuple[str, str]]:
    """Return what travels beside a reply: the number of the step, and whether it is a repeat."""
    if not reply.step:
        return []
    return [(STEP, str(reply.step)), *([(REPLAYED, "true")] if reply.replayed else [])]
