"""The unanswered steps of one sequence, and what to do when a connection breaks. Pure.

A step is kept, with its number, request id and input, until its answer is delivered.
After a broken connection everything unanswered is sent again, oldest first, under the
same numbers and ids: the server applies what it has not applied and repeats its stored
answer for the rest (spec durability, section 7). Answers are delivered once and in the
order of the steps, whatever is lost, late or duplicated.

No clock and no randomness in here: time and jitter are handed in.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from legato.client.errors import Failure, Hope, SequenceError, hope

if TYPE_CHECKING:
    from collections.abc import Callable

SHORTEST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.2
FAINT_TRIES = 10


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to keep trying.

    Attributes:
        retry_for_s: Seconds without an answer after which a step is given up.
        attempt_timeout_s: Seconds without an answer after which a connection is given up
            for another one. A step that takes longer is not lost: it is asked for again,
            and the server answers when it is done.
    """

    retry_for_s: float = 60.0
    attempt_timeout_s: float = 10.0


@dataclass(slots=True, eq=False)
class Pending:
    """A step without an answer.

    Attributes:
        number: Step number.
        request_id: The same for every attempt.
        payload: The input, as the transport wants it.
        end: The sequence ends with this step.
        sink: Where the outcome goes; opaque here.
        answer: An answer that came before those of earlier steps.
    """

    number: int
    request_id: str
    payload: Any
    end: bool
    sink: Any
    answer: Any = None


class Delivery(NamedTuple):
    """An answer whose turn has come."""

    pending: Pending
    answer: Any


class Again(NamedTuple):
    """Connect again after this many seconds; with nothing unanswered, when there is something."""

    delay_s: float


class Refused(NamedTuple):
    """The first of these steps was refused; none was applied and none is kept."""

    steps: list[Pending]
    failure: Failure


class GaveUp(NamedTuple):
    """These steps have waited long enough; they are kept, but not sent until told to."""

    steps: list[Pending]
    failure: Failure
    waited_s: float


class Window:
    """The state of one sequence at the client.

    Args:
        prefix: Begins the request ids; another one for every client of a sequence.
        size: Steps that may be under way at once. The model must keep as many receipts.
        acknowledged: Number of the last step whose answer is known (to resume).
        patience: How long to keep trying.
        jitter: Draws from [0, 1).
    """

    __slots__ = (
        "_attempt_began",
        "_ending",
        "_faint",
        "_jitter",
        "_patience",
        "_prefix",
        "_quiet_since",
        "_sent",
        "_size",
        "_tries",
        "acknowledged",
        "pending",
        "stalled",
    )  # fmt: skip

    def __init__(
        self,
        prefix: str,
        *,
        size: int = 1,
        acknowledged: int = 0,
        patience: Patience = Patience(),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.pending: deque[Pending] = deque()
        self.acknowledged = acknowledged
        self.stalled = False
        self._prefix = prefix
        self._size = size
        self._patience = patience
        self._jitter = jitter
        self._sent = 0  # of the pending ones, how many went out on this connection
        self._tries = 0
        self._faint = 0
        self._quiet_since = 0.0
        self._attempt_began = 0.0
        self._ending = False

    def __repr__(self) -> str:
        return f"<Window acknowledged={self.acknowledged} pending={len(self.pending)}>"

    # -- steps ----------------------------------------------------------------------------

    def push(self, payload: Any, now: float, *, end: bool = False, sink: Any = None) -> Pending:
        """Give a step its number and keep it until it is answered.

        Raises:
            SequenceError: The sequence has ended, or holds steps that were given up.
        """
        number = self.acknowledged + len(self.pending) + 1
        if self._ending:
            raise SequenceError(
                "the sequence takes no more steps: its last one was sent",
                code="FAILED_PRECONDITION",
                reason="ended",
                step=number,
            )
        if self.stalled:
            raise SequenceError(
                f"step {self.pending[0].number} is still unanswered; retry() sends it again",
                code="FAILED_PRECONDITION",
                reason="unanswered",
                step=number,
            )
        if not self.pending:
            self._quiet_since = self._attempt_began = now
        step = Pending(number, f"{self._prefix}.{number}", payload, end, sink)
        self.pending.append(step)
        self._ending = end
        return step

    def next_to_send(self) -> Pending | None:
        """Return the step to send now on the present connection, if there is one.

        The first step of a sequence goes alone: what is sent after it names the
        incarnation that its answer tells.
        """
        ahead = self._size if self.acknowledged else 1
        while self._sent < min(ahead, len(self.pending)):
            step = self.pending[self._sent]
            self._sent += 1
            if step.answer is None:
                return step
        return None

    def answered(self, request_id: str, answer: Any, now: float) -> list[Delivery]:
        """Take an answer; return those whose turn has come. Others are kept or not wanted."""
        for step in self.pending:
            if step.request_id == request_id:
                step.answer = answer
                break
        delivered = []
        while self.pending and self.pending[0].answer is not None:
            step = self.pending.popleft()
            self.acknowledged = step.number
            self._sent = max(0, self._sent - 1)
            delivered.append(Delivery(step, step.answer))
        if delivered:
            self._quiet_since = self._attempt_began = now
            self._tries = self._faint = 0
            self.stalled = False
        return delivered

    @property
    def over(self) -> bool:
        """Tell whether the sequence has taken its last step."""
        return self._ending and not self.pending and self.acknowledged > 0

    def alone(self, request_id: str) -> bool:
        """Tell whether this step is unanswered and none was sent after it."""
        return self._sent == 1 and bool(self.pending) and self.pending[0].request_id == request_id

    # -- connections ----------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A new connection: everything unanswered is to be sent on it."""
        self._sent = 0
        self._attempt_began = now

    def deadline(self) -> float | None:
        """Return the time at which the present connection is given up; ``None`` = not waiting."""
        if not self.pending:
            return None
        attempt = self._attempt_began + self._patience.attempt_timeout_s
        return min(attempt, self._quiet_since + self._patience.retry_for_s)

    def broken(self, failure: Failure, now: float) -> Again | Refused | GaveUp:
        """The connection has ended; say what becomes of the unanswered steps.

        Answers come in order, so a refusal is that of the first unanswered step. The
        steps after it were made for a sequence that had taken it, and go with it.
        """
        if not self.pending:
            self._tries = self._faint = 0
            return Again(0.0)
        chance = hope(failure)
        if chance is Hope.FAINT:
            self._faint += 1
        if chance is Hope.NONE:
            return Refused(self.drop(), failure)
        waited = now - self._quiet_since
        if waited >= self._patience.retry_for_s or self._faint > FAINT_TRIES:
            self.stalled = True
            return GaveUp(list(self.pending), failure, waited)
        self._tries += 1
        return Again(self._delay(failure.retry_after_s))

    def resume(self, now: float) -> None:
        """Send again what was given up."""
        self.stalled = False
        self._tries = self._faint = 0
        self._quiet_since = self._attempt_began = now

    def drop(self) -> list[Pending]:
        """Forget the unanswered steps and return them; the next one takes their number."""
        steps = list(self.pending)
        self.pending.clear()
        self._sent = self._tries = self._faint = 0
        self._ending = self.stalled = False
        return steps

    def _delay(self, hint_s: float | None) -> float:
        """Return a wait between the two limits, growing with the tries; a hint may make it longer.

        Jitter keeps many sequences that broke together from coming back together.
        """
        most = min(LONGEST_WAIT_S, SHORTEST_WAIT_S * 2.0 ** min(self._tries, 10))
        delay = SHORTEST_WAIT_S + (most - SHORTEST_WAIT_S) * self._jitter()
        return max(delay, (hint_s or 0.0) * (1 + self._jitter() / 4))
