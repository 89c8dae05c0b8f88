"""The window against the server's own decision table, over a network that cannot be relied on."""

from __future__ import annotations

import hashlib
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.client.errors import Failure, SequenceError
from legato.client.window import FAINT_TRIES, Again, GaveUp, Patience, Refused, Window
from legato.core.decide import Verdict, decide
from legato.core.types import KSERVE, Ending, EndReason, Receipt, RecordHead, Step

LOST = Failure("UNAVAILABLE", "connection reset")
BUSY = Failure("RESOURCE_EXHAUSTED", "full", "step_queue_full", retry_after_s=0.05)
BAD = Failure("INTERNAL", "the model failed", "model_failed")


def window(size: int = 1, acknowledged: int = 0, **patience: float) -> Window:
    return Window(
        "t", size=size, acknowledged=acknowledged, patience=Patience(**patience), jitter=lambda: 0.5
    )


def sent(window: Window) -> list[int]:
    """Send everything that may be sent."""
    numbers = []
    while (step := window.next_to_send()) is not None:
        numbers.append(step.number)
    return numbers


class Server:
    """One sequence, decided by the server's own rules; its state is a hash chain."""

    def __init__(self, receipts: int) -> None:
        self.keep = receipts
        self.record: RecordHead | None = None
        self.chain = b""
        self.applied: list[bytes] = []

    def take(self, number: int, request_id: str, payload: bytes, end: bool, acknowledged: int):
        step = Step(
            "m", "s", {}, KSERVE,
            number=number, request_id=request_id, start=number == 1, end=end,
            acknowledged=acknowledged, digest=hashlib.sha256(payload).digest()[:8],
        )  # fmt: skip
        decision = decide(self.record, step)
        if decision.verdict is Verdict.REFUSE:
            return decision.error
        if decision.verdict is Verdict.REPLAY:
            return decision.receipt.response
        self.chain = hashlib.sha256(self.chain + payload).digest()
        self.applied.append(payload)
        receipt = Receipt(number, request_id.encode(), step.digest, self.chain)
        kept = self.record.receipts if self.record is not None else ()
        self.record = RecordHead(
            b"i", 1, number, (*kept, receipt)[-self.keep :], "1", "", "kserve", 0.0, 0.0, "none"
        )
        if end:
            self.record.ending = Ending(EndReason.ENDED, number, 0.0)
        return self.chain


class Network:
    """One client's window and the wires to the server; a broken wire may still deliver."""

    def __init__(self, size: int, steps: int) -> None:
        self.window = window(size, retry_for_s=1e9)
        self.server = Server(size)
        self.todo = deque(bytes([index]) for index in range(steps))
        self.requests: deque[tuple] = deque()
        self.late: deque[tuple] = deque()
        self.answers: deque[tuple[str, bytes]] = deque()
        self.delivered: list[tuple[int, bytes]] = []
        self.window.connected(0.0)

    def push(self) -> None:
        if self.todo:
            payload = self.todo.popleft()
            self.window.push(payload, 0.0, end=not self.todo)

    def send(self) -> None:
        step = self.window.next_to_send()
        if step is not None:
            self.requests.append(
                (step.number, step.request_id, step.payload, step.end, self.window.acknowledged)
            )

    def serve(self) -> None:
        """The server answers the oldest request; a refusal ends the connection."""
        if not self.requests:
            return
        request = self.requests.popleft()
        outcome = self.server.take(*request)
        assert isinstance(outcome, bytes), f"{self.window!r} was refused: {outcome}"
        self.answers.append((request[1], outcome))

    def serve_late(self) -> None:
        """A request of a connection that is no more arrives all the same."""
        if self.late:
            self.server.take(*self.late.popleft())

    def deliver(self) -> None:
        if self.answers:
            for step, answer in self.window.answered(*self.answers.popleft(), 0.0):
                self.delivered.append((step.number, answer))

    def repeat(self) -> None:
        if self.answers:
            self.answers.append(self.answers[0])

    def reorder(self) -> None:
        self.answers.rotate(1)

    def lose(self, failure: Failure = LOST) -> None:
        """The connection breaks: answers are lost, requests are lost or late."""
        self.late.extend(self.requests)
        self.requests.clear()
        self.answers.clear()
        verdict = self.window.broken(failure, 0.0)
        assert isinstance(verdict, Again)
        self.window.connected(0.0)

    def busy(self) -> None:
        """The server refuses the oldest request for now, which ends the connection."""
        if self.requests:
            while self.answers:
                self.deliver()
            self.requests.popleft()
            self.lose(BUSY)


ACTIONS = ("push", "send", "serve", "deliver", "serve_late", "repeat", "reorder", "lose", "busy")


@given(
    st.integers(1, 5), st.integers(1, 8), st.lists(st.sampled_from(ACTIONS), max_size=120)
)  # fmt: skip
def test_every_step_is_delivered_once_and_in_order(size, steps, actions) -> None:
    """Whatever is lost, late or duplicated, answers are those of one clean run."""
    network = Network(size, steps)
    chain, clean = b"", []
    for index in range(steps):
        chain = hashlib.sha256(chain + bytes([index])).digest()
        clean.append((index + 1, chain))

    for action in actions:
        getattr(network, action)()
    for _turn in range(steps * 4):
        network.push()
        network.send()
        network.serve()
        network.deliver()

    assert network.delivered == clean
    assert network.server.applied == [bytes([index]) for index in range(steps)]
    assert not network.window.pending


def test_first_step_goes_alone() -> None:
    """What follows waits for the first answer, then goes ahead up to the size."""
    steps = window(size=3)
    for index in range(6):
        steps.push(index, 0.0)

    before = sent(steps)
    steps.answered("t.1", "answer", 0.0)

    assert before == [1]
    assert sent(steps) == [2, 3, 4]


def test_resend_keeps_numbers_and_request_ids() -> None:
    """After a broken connection the unanswered steps go again, oldest first."""
    steps = window(size=2, acknowledged=7)
    first = [steps.push(index, 0.0) for index in range(2)]
    sent(steps)

    steps.broken(LOST, 1.0)
    steps.connected(1.1)
    again = [steps.next_to_send(), steps.next_to_send()]

    assert again == first
    assert [step.request_id for step in again] == ["t.8", "t.9"]


def test_refusal_gives_the_number_to_the_next_step() -> None:
    """A refused step and those after it are forgotten."""
    steps = window(size=2, acknowledged=3)
    dropped = [steps.push(index, 0.0) for index in range(3)]
    sent(steps)

    verdict = steps.broken(BAD, 0.0)

    assert verdict == Refused(dropped, BAD)
    assert steps.push("next", 0.0).number == 4


def test_refusal_is_final_only_while_something_waits() -> None:
    """A quiet connection may end as it likes."""
    assert window().broken(BAD, 0.0) == Again(0.0)


def test_gives_up_after_its_patience_and_holds_on_to_the_steps() -> None:
    """A given-up step is kept, blocks later ones, and can be sent again."""
    steps = window(retry_for_s=10)
    kept = steps.push("x", 0.0)
    assert isinstance(steps.broken(LOST, 9.9), Again)

    verdict = steps.broken(LOST, 10.0)
    with pytest.raises(SequenceError, match="step 1 is still unanswered"):
        steps.push("y", 11.0)
    steps.resume(20.0)
    steps.connected(20.0)

    assert verdict == GaveUp([kept], LOST, 10.0)
    assert isinstance(steps.broken(LOST, 29.9), Again)
    steps.connected(29.9)
    assert steps.next_to_send() is kept


def test_every_answer_renews_the_patience() -> None:
    """Only time without any answer counts."""
    steps = window(acknowledged=1, retry_for_s=10)
    steps.push("x", 0.0)
    steps.push("y", 0.0)
    steps.answered("t.2", "answer", 9.0)

    assert isinstance(steps.broken(LOST, 18.9), Again)
    assert isinstance(steps.broken(LOST, 19.0), GaveUp)


def test_silent_connection_has_a_deadline_while_steps_wait() -> None:
    """The attempt's limit, or what is left of the patience; none while nothing waits."""
    steps = window(attempt_timeout_s=10, retry_for_s=25)
    assert steps.deadline() is None

    steps.push("x", 1.0)
    steps.connected(2.0)
    first = steps.deadline()
    steps.connected(20.0)

    assert (first, steps.deadline()) == (12.0, 26.0)


def test_waits_grow_and_stay_within_their_limits() -> None:
    """20 ms at first, 200 ms at most, longer only if the server asks for it."""
    steps = window()
    steps.push("x", 0.0)

    waits = [steps.broken(LOST, 0.0).delay_s for _try in range(8)]
    asked = steps.broken(Failure("RESOURCE_EXHAUSTED", "", "queue_full", retry_after_s=2), 0.0)

    assert waits == sorted(waits)
    assert waits[0] >= 0.02
    assert waits[-1] <= 0.2
    assert asked.delay_s == pytest.approx(2.25)


def test_unexplained_internal_errors_end_it_after_a_few_tries() -> None:
    """A dying connection looks like this once, a broken server always; the step is kept."""
    steps = window()
    steps.push("x", 0.0)
    failure = Failure("INTERNAL", "?")

    verdicts = [type(steps.broken(failure, 0.0)) for _try in range(FAINT_TRIES + 1)]

    assert verdicts == [Again] * FAINT_TRIES + [GaveUp]


def test_nothing_follows_the_last_step() -> None:
    """An END closes the sequence, unless it was refused."""
    steps = window(acknowledged=1)
    steps.push("x", 0.0, end=True)
    with pytest.raises(SequenceError, match="no more steps"):
        steps.push("y", 0.0)

    steps.broken(BAD, 0.0)

    assert steps.push("y", 0.0).number == 2
