"""A request of any wire becomes a step, and its outcome an answer: once, whatever happens."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from legato.core.errors import ClientError, SequenceLimitError, ServerError
from legato.core.types import TORCHSERVE, Reply, SequenceKey, Step
from legato.observe.log import get_logger
from legato.protocols.torchserve import errors
from legato.protocols.torchserve.errors import Failure, failure
from legato.runtimes.torchserve.exchange import Answer, from_reply, to_step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.engine.engine import Engine
    from legato.protocols.torchserve.metrics import Metrics
    from legato.protocols.torchserve.registry import Registered, Registry
    from legato.runtimes.torchserve.exchange import Part

log = get_logger()

MADE_ID: Final = "ts-seq-"
TRUE: Final = "true"
STEP_HEADER: Final = "legato-step"
_MOST_STEP: Final = 2**63


class Request:
    """What a client asked for, in the words of no wire.

    Attributes:
        model, version: "" = the default version.
        parts: What goes into the handler's row.
        headers: What the handler's context shows; changed by :class:`Job`.
        sequence_id: "" = none came.
        start, end: It is the first or last request of its sequence.
        number: Step number, 0 = the next one.
        deadline: Monotonic seconds.
    """

    __slots__ = (
        "deadline", "end", "headers", "model", "number", "parts", "sequence_id", "start", "version",
    )  # fmt: skip

    def __init__(
        self,
        model: str,
        version: str,
        parts: Sequence[Part],
        headers: dict[str, str],
        sequence_id: str = "",
    ) -> None:
        self.model = model
        self.version = version
        self.parts = parts
        self.headers = headers
        self.sequence_id = sequence_id
        self.start = self.end = False
        self.number = 0
        self.deadline: float | None = None


class Door:
    """What all requests share.

    Args:
        registry: The models.
        metrics: Counts requests.
        header_keys: Names of the headers of sequence id, start and end.
    """

    def __init__(
        self, registry: Registry, metrics: Metrics, header_keys: tuple[str, str, str]
    ) -> None:
        self.registry = registry
        self.engine: Engine = registry.engine
        self.metrics = metrics
        self.id_key, self.start_key, self.end_key = header_keys
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds tasks only weakly
        self._sweeping: asyncio.Task[Any] | None = None
        self._under_way: dict[SequenceKey, int] = {}
        self._ending: dict[SequenceKey, bytes] = {}

    def run(self, work: Any) -> asyncio.Task[Any]:
        """Run a coroutine to its end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def entered(self, key: SequenceKey) -> None:
        """Count a request of a sequence that is under way."""
        self._under_way[key] = self._under_way.get(key, 0) + 1

    def left(self, key: SequenceKey) -> None:
        """Count it no more; the last one lets a sequence end whose handler said so."""
        count = self._under_way.pop(key, 1) - 1
        if count:
            self._under_way[key] = count
        elif key in self._ending:
            self.run(self._end_now(key, self._ending.pop(key)))

    def alone(self, key: SequenceKey) -> bool:
        """Tell whether at most one request of a sequence is under way."""
        return self._under_way.get(key, 0) <= 1

    async def end(self, keys: Sequence[SequenceKey], own: SequenceKey, incarnation: bytes) -> None:
        """End sequences now, but for those of which other requests are still answered.

        Args:
            keys: Which ones.
            own: The sequence of the request that says so; it is under way itself.
            incarnation: Of that one: another one under its id is not meant.
        """
        for key in keys:
            which = incarnation if key == own else b""
            if self._under_way.get(key, 0) > (key == own):
                self._ending[key] = which
            else:
                await self._end_now(key, which)

    async def _end_now(self, key: SequenceKey, incarnation: bytes) -> None:
        try:
            await self.registry.manager.end(key, incarnation=incarnation)
        except ServerError as error:
            log.debug("sequence_not_ended", model=key.model, error=error.code)

    def sweep(self) -> asyncio.Task[Any]:
        """End what is over its idle limit now; one such task at a time."""
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = self.run(self.engine.sweep())
        return self._sweeping


class Job:
    """One request under way.

    Args:
        door: What all share.
        request: What was asked.
        done: Called once with an answer or a failure.
        partial: Called with each answer that is not the last one; ``None`` = they are put
            before the last one's body.

    Attributes:
        request_id: What the handler's context gives, and ``x-request-id``.
        sequence_id: Of the sequence; "" = the model has none.
        number: Step number, once answered.
    """

    __slots__ = (
        "_began", "_chunks", "_done", "_door", "_ends_later", "_one", "_over", "_partial",
        "_request", "_step", "_swept", "_timer", "number", "request_id", "sequence_id",
    )  # fmt: skip

    def __init__(
        self,
        door: Door,
        request: Request,
        done: Callable[[Job, Answer | Failure], None],
        partial: Callable[[Answer], None] | None = None,
    ) -> None:
        self._door = door
        self._request = request
        self._done = done
        self._partial = partial
        self._chunks: list[bytes] = []
        self._one: Registered | None = None
        self._step: Step | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = self._swept = self._ends_later = False
        self._began = time.perf_counter()
        self.request_id = str(uuid.uuid4())
        self.sequence_id = ""
        self.number = 0

    def stream_to(self, partial: Callable[[Answer], None]) -> None:
        """Send answers that are not the last one on, each by itself."""
        self._partial = partial

    def begin(self) -> None:
        """Submit the step, or answer at once why not."""
        request = self._request
        try:
            self._one = one = self._door.registry.find(request.model, request.version)
            self._step = step = self._make(one)
        except Failure as error:
            self._answer(error)
            return
        if one.limits.client_timeout_ms:
            delay_s = one.limits.client_timeout_ms / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._too_late)
        self._door.engine.submit(step)

    def cancel(self) -> None:
        """The client is gone: drop the step if it has not begun; nobody is told."""
        if self._over:
            return
        self._close()
        if self._step is not None:
            self._door.engine.cancel(self._step)

    # -- the step -------------------------------------------------------------------------

    def _make(self, one: Registered) -> Step:
        request, handle = self._request, one.handle
        if handle is None or not handle.instances:
            raise errors.no_worker(request.model, request.version)
        if one.limits.use_job_ticket and (not handle.free or len(handle.scheduler)):
            raise errors.no_worker(request.model, request.version, "every worker is busy")
        if handle.stateful:
            self._name_sequence()
        inputs, parameters = to_step(request.parts, request.headers, self.request_id)
        step = Step(request.model, self.sequence_id or None, inputs, TORCHSERVE, self._outcome)
        step.parameters = parameters
        step.partial = self._took_partial
        if request.version:
            step.version = request.version
        if request.start and handle.stateful:
            step.start = step.restart = True  # its first message, whatever lived under that id
        step.end = request.end and handle.stateful
        if step.end and one.limits.continuous and not self._door.alone(self._key):
            # A stream of the sequence may run: it gets its answers, then the sequence ends.
            step.end, self._ends_later = False, True
        step.number = request.number
        step.deadline = request.deadline
        return step

    def _name_sequence(self) -> None:
        """Take the client's id, or make one up and say to the handler that it begins."""
        request, door = self._request, self._door
        if not request.sequence_id:
            request.sequence_id = f"{MADE_ID}{uuid.uuid4()}"
            request.headers[door.start_key] = TRUE
        self.sequence_id = request.headers[door.id_key] = request.sequence_id
        door.entered(self._key)

    @property
    def _key(self) -> SequenceKey:
        return SequenceKey(self._request.model, self.sequence_id)

    # -- its outcome ----------------------------------------------------------------------

    def _took_partial(self, body: bytes, meta: dict[str, Any]) -> None:
        if self._over:
            return
        if self._partial is None:
            self._chunks.append(body)
        else:
            self._partial(Answer.of(body, meta))

    def _outcome(self, outcome: Reply | ServerError) -> None:
        if self._over:
            return
        if isinstance(outcome, Reply):
            self.number = outcome.step
            answer = from_reply(outcome)
            ended = self._ended(answer) if self.sequence_id else []
            if ended:
                self._door.run(self._end(ended, answer, outcome.incarnation))
            else:
                self._answer(answer)
        elif isinstance(outcome, SequenceLimitError) and not self._swept:
            self._swept = True
            self._door.run(self._again())
        else:
            self._answer(self._failure(outcome))

    def _failure(self, error: ServerError) -> Failure:
        request = self._request
        if self._one is not None and error.code == "unknown_model":
            return errors.no_worker(request.model, request.version)  # its workers were taken away
        return failure(error, request.model, request.version)

    async def _again(self) -> None:
        """Make room by ending what has expired, and try once more."""
        await self._door.sweep()
        if not self._over and self._step is not None:
            self._door.engine.submit(self._step)

    def _ended(self, answer: Answer) -> list[SequenceKey]:
        """Return the sequences that end with an answer, by the handler's word or the client's."""
        said = answer.headers.get(self._door.end_key, "")
        names = dict.fromkeys(filter(None, (part.strip() for part in said.split(";"))))
        if self._ends_later:
            names[self.sequence_id] = None
        return [SequenceKey(self._request.model, name) for name in names]

    async def _end(self, keys: list[SequenceKey], answer: Answer, incarnation: bytes) -> None:
        """End sequences before the answer leaves that ends them."""
        await self._door.end(keys, self._key, incarnation)
        self._answer(answer)

    def _too_late(self) -> None:
        """The client's own limit has passed: tell it; a late answer is dropped."""
        step = self._step
        text = "the answer did not come within clientTimeoutInMills"
        self._answer(Failure(504, "InternalServerException", text, rpc=errors.rpc_status(504)))
        if step is not None:
            self._door.engine.cancel(step)

    def _close(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self.sequence_id:
            self._door.left(self._key)

    def _answer(self, outcome: Answer | Failure) -> None:
        if self._over:
            return
        self._close()
        if self._chunks and isinstance(outcome, Answer):
            body = b"".join((*self._chunks, outcome.body))
            outcome = Answer(
                body, outcome.status, outcome.phrase, outcome.content_type, outcome.headers
            )
        if self._one is not None:
            seconds = time.perf_counter() - self._began
            self._door.metrics.count(self._request.model, self._request.version, seconds)
        self._done(self, outcome)


def step_number(headers: Mapping[str, str]) -> int:
    """Return the step number of a ``legato-step`` header, 0 = none.

    Raises:
        ClientError: It is no number.
    """
    text = headers.get(STEP_HEADER)
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < _MOST_STEP):
        raise ClientError(f"{STEP_HEADER} must be a step number, got '{text[:40]}'")
    return int(text)
