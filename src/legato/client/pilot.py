"""Takes the steps of one sequence over streams, one stream after the other. Runs on a loop.

One task a sequence reads answers, one writes requests; a step itself is an entry of the
window and a future of its caller. Whatever a stream dies of comes out of one place as a
:class:`~legato.client.errors.Failure`, and the window says what is to be done.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio

from legato.client.errors import Failure, Hope, SequenceError, gave_up, hope, refusal
from legato.client.window import Again, GaveUp, Refused, Window
from legato.client.wire import failure_of, incarnation_of, streamed_failure
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from legato.client.tensors import Payload
    from legato.client.window import Pending
    from legato.client.wire import StepWriter

    Call = grpc.aio.StreamStreamCall[Any, pb.ModelStreamInferResponse]

_GOODBYE_S = 1.0


class Sink(Protocol):
    """Takes the outcome of a step: a future of asyncio or of a waiting thread."""

    def done(self) -> bool:
        """Tell whether nobody waits any more."""

    def set_result(self, result: Any, /) -> None:
        """Take the answer."""

    def set_exception(self, exception: Any, /) -> None:
        """Take the error."""


class Pilot:
    """One sequence's way to the server.

    All methods are called on the loop.

    Args:
        where: What this is, for messages.
        window: The sequence's unanswered steps.
        writer: Makes the requests.
        incarnation: Incarnation of the sequence, where known.
        connect: Opens a stream.
        state: Says in a few words how the connection is, for messages.

    Attributes:
        unanswered: Steps whose outcome was not known when it was closed.
        over: The sequence had taken its last step when it was closed.
    """

    def __init__(
        self,
        where: str,
        window: Window,
        writer: StepWriter,
        *,
        incarnation: str = "",
        connect: Callable[[], Call],
        state: Callable[[], str],
    ) -> None:
        self.where = where
        self.window = window
        self.incarnation = incarnation
        self.unanswered = 0
        self.over = False
        self._writer = writer
        self._connect = connect
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None
        self._timed_out = False
        self._closing = False

    def __repr__(self) -> str:
        return f"<Pilot of {self.where} {self.window!r}>"

    def submit(self, payload: Payload, sink: Sink, *, end: bool = False) -> None:
        """Take a step; its answer or error goes to ``sink``."""
        if self._closing:
            sink.set_exception(self._closed())
            return
        try:
            self.window.push(payload, self._loop.time(), end=end, sink=sink)
        except SequenceError as error:
            sink.set_exception(error)
            return
        self._go()

    def retry(self, sink: Sink) -> None:
        """Send given-up steps again; ``sink`` gets the (number, answer) of each of them."""
        answers: list[tuple[int, Any]] = []
        waiting = [step for step in self.window.pending if step.sink.done()]
        if not waiting or self._closing:
            sink.set_result(answers)
            return
        for step in waiting:
            step.sink = _Collector(step.number, answers, len(waiting), sink)
        self.window.resume(self._loop.time())
        self._go()

    def check(self, now: float) -> None:
        """Give up a connection that is silent for too long."""
        deadline = self.window.deadline()
        if self._call is not None and deadline is not None and now >= deadline:
            self._timed_out = True
            self._call.cancel()

    async def close(self) -> None:
        """End the stream; unanswered steps fail at this end, whatever becomes of them there."""
        if not self._closing:
            self._closing = True
            self.unanswered, self.over = len(self.window.pending), self.window.over
        task, call = self._task, self._call
        if task is None:
            return
        if call is not None and not self.window.pending:
            # A stream that is reset looks like trouble to proxies; let this one end well.
            with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.done_writing()
            await asyncio.wait({task}, timeout=_GOODBYE_S)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # -- the task -------------------------------------------------------------------------

    def _go(self) -> None:
        self._news.set()
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run(), name=f"legato {self.where}")

    async def _run(self) -> None:
        try:
            while not self._closing:
                while self.window.stalled or not self.window.pending:
                    self._news.clear()
                    await self._news.wait()
                failure = await self._connected()
                await self._after(failure)
        finally:
            self._fail(self.window.drop(), self._closed())

    async def _connected(self) -> Failure:
        """Take steps over one stream until it ends; return what it died of."""
        self._timed_out = False
        self.window.connected(self._loop.time())
        call = self._call = self._connect()
        writing = self._loop.create_task(self._write(call))
        try:
            while isinstance(message := await call.read(), pb.ModelStreamInferResponse):
                if not message.error_message:
                    self._answered(message.infer_response)
                elif (failure := self._refused_here(message)) is not None:
                    return failure
            return Failure("OK", "the server closed the stream")
        except grpc.aio.AioRpcError as error:
            return failure_of(error.code().name, error.details() or "", error.trailing_metadata())
        except asyncio.CancelledError:
            if not self._timed_out:
                raise
            return Failure("DEADLINE_EXCEEDED", self._state())
        finally:
            self._call = None
            writing.cancel()
            call.cancel()
            await asyncio.wait({writing})

    async def _write(self, call: Call) -> None:
        # A broken call tells the reader what it died of; here is nothing to add.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                step = self.window.next_to_send()
                if step is not None:
                    known = self.window.acknowledged
                    await call.write(self._writer.write(step, known, self.incarnation))
                else:
                    self._news.clear()
                    await self._news.wait()

    def _answered(self, response: pb.ModelInferResponse) -> None:
        if not self.incarnation:
            self.incarnation = incarnation_of(response)
        for step, answer in self.window.answered(response.id, response, self._loop.time()):
            if not step.sink.done():
                step.sink.set_result(answer)
        self._news.set()

    def _refused_here(self, message: pb.ModelStreamInferResponse) -> Failure | None:
        """Take a refusal that leaves the stream as it is; return one that does not.

        The stream is left for another one when the step is to be sent again, and when
        steps are on their way behind it: their own refusals would be taken for those of
        the steps that get their numbers.
        """
        failure = streamed_failure(message)
        final = failure.code and hope(failure) is Hope.NONE
        if not final or not self.window.alone(message.infer_response.id):
            return failure
        self._refuse(self.window.drop(), failure)
        return None

    async def _after(self, failure: Failure) -> None:
        """Do what the window says about a stream that has ended."""
        match self.window.broken(failure, self._loop.time()):
            case Again(delay_s):
                await asyncio.sleep(delay_s)
            case Refused(steps, failure):
                self._refuse(steps, failure)
            case GaveUp(steps, failure, waited_s):
                self._fail(steps, gave_up(failure, self.where, steps[0].number, waited_s))

    def _refuse(self, steps: Sequence[Pending], failure: Failure) -> None:
        self._fail(steps[:1], refusal(failure, self.where, steps[0].number))
        for step in steps[1:]:
            self._fail([step], _not_sent(self.where, step, steps[0]))

    def _fail(self, steps: Sequence[Pending], error: SequenceError) -> None:
        for step in steps:
            if not step.sink.done():
                step.sink.set_exception(error)

    def _closed(self) -> SequenceError:
        return SequenceError(f"{self.where} is closed at this end", reason="closed")


class _Collector:
    """The sink of one of several steps whose answers are awaited together."""

    def __init__(self, number: int, answers: list[tuple[int, Any]], count: int, sink: Sink) -> None:
        self._number = number
        self._answers = answers
        self._count = count
        self._sink = sink

    def done(self) -> bool:
        return self._sink.done()

    def set_result(self, result: Any, /) -> None:
        self._answers.append((self._number, result))
        if len(self._answers) == self._count:
            self._sink.set_result(self._answers)

    def set_exception(self, exception: Any, /) -> None:
        self._sink.set_exception(exception)


def _not_sent(where: str, step: Pending, refused: Pending) -> SequenceError:
    return SequenceError(
        f"{where}, step {step.number}: not applied, because step {refused.number} was refused",
        code="FAILED_PRECONDITION",
        reason="earlier_step_refused",
        expected_step=refused.number,
        step=step.number,
    )
