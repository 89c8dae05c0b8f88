"""ModelInfer and ModelStreamInfer: calls become steps, replies become messages.

On a stream, replies of one sequence leave in the order of its requests, and a
sequence never waits for another one's reply; ``stream_order="request"`` gives
Triton's order instead, where replies leave in the order of all requests. A stream
that holds too many unanswered steps is not read until half of them are answered.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal

from legato.core.errors import ClientError, ModelSaysError, ServerError
from legato.core.parts import from_part
from legato.core.types import KSERVE, Reply
from legato.protocols.kserve.delivery import KserveStep, finished, prepare
from legato.protocols.kserve.errors import failure
from legato.protocols.kserve.from_core import ReplyWriter, stream_error
from legato.protocols.kserve.parameters import apply_step_header
from legato.protocols.kserve.special import adopt
from legato.protocols.kserve.to_core import fill
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from legato.protocols.kserve.errors import Failure
    from legato.protocols.kserve.memory import Regions
    from legato.protocols.kserve.ports import EnginePort
    from legato.protocols.rpc.service import Call

StreamOrder = Literal["sequence", "request"]
Outcome = Reply | ServerError | RpcError

LANE_HIGH = 48  # unanswered steps of one sequence at which its stream is paused
STREAM_HIGH = 1024  # unanswered steps of a stream at which it is paused
_LANES_KEPT = 1024  # sequences remembered without unanswered steps
_NOT_UNARY = "ModelInfer RPC doesn't support models with decoupled transaction policy"


class Door:
    """What all calls of this service share: the engine, the order, the reply writers.

    Args:
        engine: Where steps go.
        stream_order: See the module.
        regions: Shared memory of clients; ``None`` = not allowed.
    """

    __slots__ = ("_parts", "_streamed", "_unary", "engine", "regions", "stream_order")

    def __init__(
        self, engine: EnginePort, stream_order: StreamOrder, regions: Regions | None = None
    ) -> None:
        self.engine = engine
        self.stream_order = stream_order
        self.regions = regions
        self._unary: dict[str, ReplyWriter] = {}
        self._streamed: dict[str, ReplyWriter] = {}
        self._parts: dict[str, ReplyWriter] = {}

    def writer(self, model: str, *, streamed: bool) -> ReplyWriter:
        """Return the writer of a model that has given a reply."""
        writers = self._streamed if streamed else self._unary
        writer = writers.get(model)
        if writer is None:
            writer = writers[model] = ReplyWriter(model, streamed=streamed)
        return writer

    def part_writer(self, model: str) -> ReplyWriter:
        """Return the writer of answers that are not the last to their request."""
        writer = self._parts.get(model)
        if writer is None:
            writer = self._parts[model] = ReplyWriter(model, streamed=True, final=False)
        return writer


# -- unary --------------------------------------------------------------------------------


class _UnaryStep(KserveStep):
    """The step of one ModelInfer call.

    ``done`` is a method here: a callback object would make a cycle with its step, which
    only the garbage collector could free.
    """

    def __init__(self, door: Door, call: Call) -> None:
        self.door = door
        self.call = call
        self.model = ""
        self.correlation_id = None
        self.inputs = {}
        self.dialect = KSERVE
        if call.deadline is not None:
            self.deadline = call.deadline

    def done(self, outcome: Outcome) -> None:
        """Answer the call."""
        call = self.call
        if call.closed:
            return
        if self.finishing is not None and isinstance(outcome, Reply):
            outcome = finished(self, outcome)
        if isinstance(outcome, Reply):
            writer = self.door.writer(self.model, streamed=False)
            call.send(writer.write(outcome, self.request_id))
            call.finish()
        else:
            what = failure(outcome, self, self.door.engine)
            call.finish(what.status, what.message, what.trailers())


class InferCall:
    """Handler of one ModelInfer call."""

    __slots__ = ("_engine", "_regions", "_step", "_submitted")

    def __init__(self, door: Door, call: Call) -> None:
        self._engine = door.engine
        self._regions = door.regions
        self._step = _UnaryStep(door, call)
        self._submitted = False

    def message(self, data: bytes) -> None:
        """Take the request."""
        step = self._step
        try:
            fill(step, data, self._regions)
            if step.model in self._engine.decoupled:
                raise RpcError(Status.UNIMPLEMENTED, _NOT_UNARY)
            if step.wishes is not None:
                prepare(step, self._engine, self._regions)
            adopt(step, self._engine)
            apply_step_header(step.call.metadata.get("legato-step"), step)
        except ClientError as error:
            self._engine.refused(step.model, error)
            step.done(error)
        else:
            self._submitted = True
            self._engine.submit(step)

    def half_close(self) -> None:
        """Note the end of the request; the reply comes when it comes."""

    def cancel(self) -> None:
        """Drop the step if it has not begun."""
        if self._submitted:
            self._engine.cancel(self._step)


# -- streams ------------------------------------------------------------------------------


class _Lane:
    """The unanswered steps of one sequence on one stream.

    Attributes:
        count: Unanswered steps of the sequence.
        order: Steps whose replies must leave in this order; shared by all lanes of a
            stream where replies leave in the order of requests.
    """

    __slots__ = ("count", "order")

    def __init__(self, order: deque[_StreamStep]) -> None:
        self.count = 0
        self.order = order


class _StreamStep(KserveStep):
    """A step that knows its stream; its reply may have to wait for earlier ones.

    ``done`` is a method here, so that a step needs no callback object of its own.
    """

    lane: _Lane | None = None
    outcome: Outcome | None = None

    def __init__(self, stream: InferStream) -> None:
        self.stream = stream
        self.model = ""
        self.correlation_id = None
        self.inputs = {}
        self.dialect = KSERVE

    def done(self, outcome: Any) -> None:
        """Hand the outcome to the stream."""
        self.stream.answered(self, outcome)

    def _part(self, body: bytes, meta: dict[str, Any]) -> None:
        """Hand on an answer that is not the last one."""
        self.stream.answered_in_part(self, body, meta)

    def let_answer_often(self) -> None:
        """Be ready for any number of answers."""
        self.decoupled = True
        self.called = self.request_id
        self.partial = self._part


class InferStream:
    """Handler of one ModelStreamInfer call."""

    __slots__ = (
        "_call",
        "_closes_on_error",
        "_crowded",
        "_deadline",
        "_door",
        "_half_closed",
        "_lanes",
        "_lanes_limit",
        "_loose",
        "_order",
        "_over",
        "_paused",
        "_unanswered",
        "_writers",
    )

    def __init__(self, door: Door, call: Call) -> None:
        self._door = door
        self._call = call
        self._deadline = call.deadline
        self._closes_on_error = call.metadata.get("triton_grpc_error", "").lower() == "true"
        self._order: deque[_StreamStep] | None = deque() if door.stream_order == "request" else None
        self._lanes: dict[tuple[str, int | str], _Lane] = {}
        self._lanes_limit = _LANES_KEPT
        self._loose: dict[_StreamStep, None] = {}  # ordered; a lane keeps the order of others
        self._writers: dict[str, ReplyWriter] = {}
        self._crowded: list[_Lane] = []
        self._unanswered = 0
        self._half_closed = False
        self._paused = False
        self._over = False

    def __repr__(self) -> str:
        return f"<InferStream unanswered={self._unanswered} lanes={len(self._lanes)}>"

    def message(self, data: bytes) -> None:
        """Take one request: parse it, put it in its lane, hand it to the engine."""
        if self._over:
            return
        step = _StreamStep(self)
        if self._deadline is not None:
            step.deadline = self._deadline
        refusal: ClientError | RpcError | None = None
        try:
            fill(step, data, self._door.regions)
            if step.wishes is not None:
                prepare(step, self._door.engine, self._door.regions)
            adopt(step, self._door.engine)
        except ClientError as error:
            self._door.engine.refused(step.model, error)
            refusal = error
        except RpcError as error:
            if not step.model and not step.request_id:
                raise  # not even readable: nobody could tell which request has failed
            refusal = error
        if step.model in self._door.engine.decoupled:
            step.let_answer_often()
        self._unanswered += 1
        self._enter_lane(step)
        if refusal is None:
            self._door.engine.submit(step)
        else:
            self.answered(step, refusal)

    def _enter_lane(self, step: _StreamStep) -> None:
        name = step.correlation_id
        if step.decoupled or (not name and self._order is None):
            self._loose[step] = None
        else:
            key = (step.model, name or 0)
            lane = self._lanes.get(key)
            if lane is None:
                lane = self._add_lane(key)
            step.lane = lane
            lane.order.append(step)
            lane.count += 1
            if lane.count >= LANE_HIGH and name:
                self._pause(lane)
        if self._unanswered >= STREAM_HIGH:
            self._pause(None)

    def _add_lane(self, key: tuple[str, int | str]) -> _Lane:
        if len(self._lanes) >= self._lanes_limit:
            self._lanes = {key: lane for key, lane in self._lanes.items() if lane.count}
            self._lanes_limit = max(_LANES_KEPT, 2 * len(self._lanes))
        order = self._order
        lane = self._lanes[key] = _Lane(deque() if order is None else order)
        return lane

    def _pause(self, lane: _Lane | None) -> None:
        if lane is not None and lane not in self._crowded:
            self._crowded.append(lane)
        if not self._paused:
            self._paused = True
            self._call.pause()

    # -- answers --------------------------------------------------------------------------

    def answered(self, step: _StreamStep, outcome: Outcome) -> None:
        """Send the outcome of a step, after those of earlier steps of its lane."""
        if self._over:
            return
        lane = step.lane
        if lane is None:
            self._loose.pop(step, None)
            self._emit(step, outcome)
        else:
            order = lane.order
            if order[0] is step:
                order.popleft()
                lane.count -= 1
                self._emit(step, outcome)
                if not lane.count and (step.end or not isinstance(outcome, Reply)):
                    self._lanes.pop((step.model, step.correlation_id or 0), None)
                if order and order[0].outcome is not None:
                    self._emit_waiting(order)
            else:
                step.outcome = outcome
                return
        if self._paused:
            self._resume_if_quiet()
        if self._half_closed and not self._unanswered:
            self._finish()

    def _emit_waiting(self, order: deque[_StreamStep]) -> None:
        while order and not self._over:
            step = order[0]
            outcome = step.outcome
            if outcome is None:
                return
            order.popleft()
            if step.lane is not None:
                step.lane.count -= 1
            self._emit(step, outcome)

    def _emit(self, step: _StreamStep, outcome: Outcome) -> None:
        self._unanswered -= 1
        if step.finishing is not None and isinstance(outcome, Reply):
            outcome = finished(step, outcome)
        if isinstance(outcome, Reply):
            model = step.model
            writer = self._writers.get(model)
            if writer is None:
                writer = self._writers[model] = self._door.writer(model, streamed=True)
            if not step.decoupled:
                self._call.send(writer.write(outcome, step.request_id))
            elif outcome.headers or step.empty_final:
                self._call.send(writer.write(outcome, step.called))
            return
        self._tell(failure(outcome, step, self._door.engine), step)

    def _tell(self, what: Failure, step: _StreamStep, *, final: bool = True) -> None:
        if self._closes_on_error:
            self._call.finish(what.status, what.message, what.trailers())
            self._drop_unanswered()
        else:
            name = step.called or step.request_id
            self._call.send(stream_error(what, step.model, name, final=final))

    def answered_in_part(self, step: _StreamStep, body: bytes, meta: dict[str, Any]) -> None:
        """Send answers of a decoupled model that are not the last to their request."""
        for part in from_part(body, meta):
            if self._over or step not in self._loose:
                return
            outcome: Outcome
            if isinstance(part, ModelSaysError):
                outcome = part
            else:
                version = self._door.engine.model(step.model, step.version).version
                reply = Reply(part.headers, part.data, step.correlation_id or 0, 0, version)
                outcome = finished(step, reply)
            if isinstance(outcome, Reply):
                self._call.send(self._door.part_writer(step.model).write(outcome, step.called))
            else:
                self._tell(failure(outcome, step, self._door.engine), step, final=False)

    def _resume_if_quiet(self) -> None:
        if self._unanswered > STREAM_HIGH // 2:
            return
        if any(lane.count > LANE_HIGH // 2 for lane in self._crowded):
            return
        self._crowded.clear()
        self._paused = False
        self._call.resume()

    # -- ends -----------------------------------------------------------------------------

    def half_close(self) -> None:
        """Finish once everything is answered; the sequences live on."""
        self._half_closed = True
        if not self._unanswered and not self._over:
            self._finish()

    def cancel(self) -> None:
        """Drop the steps that have not begun; the sequences live on."""
        if not self._over:
            self._drop_unanswered()

    def _finish(self) -> None:
        self._over = True
        self._call.finish()

    def _drop_unanswered(self) -> None:
        self._over = True
        for step in self._waiting():
            self._door.engine.cancel(step)
        self._lanes.clear()
        self._loose.clear()
        self._crowded.clear()

    def _waiting(self) -> Iterable[_StreamStep]:
        orders = [self._order] if self._order is not None else []
        if self._order is None:
            orders = [lane.order for lane in self._lanes.values()]
        # From the back: cancelling a step must not let a later one of its sequence begin.
        steps = [step for order in orders for step in reversed(order) if step.outcome is None]
        return [*steps, *reversed(self._loose)]
