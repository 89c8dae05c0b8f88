"""Unary calls of one connection keep the order in which they were begun."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.protocols.rpc.fake import FakeStream, turn

from legato.protocols.rpc.app import RpcApp
from legato.protocols.rpc.line import HOLD_S, Line
from legato.protocols.rpc.service import Service, unary


class FakeTimer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """Keeps what is to be called later."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Any, FakeTimer]] = []

    def call_later(self, delay: float, function: Any) -> FakeTimer:
        timer = FakeTimer()
        self.later.append((delay, function, timer))
        return timer

    def run(self) -> None:
        """Let the time pass."""
        waiting, self.later = self.later, []
        for _delay, function, timer in waiting:
            if not timer.cancelled:
                function()


class Call:
    def __init__(self, name: str, handed_over: list[str]) -> None:
        self.name = name
        self.has_come = False
        self._handed_over = handed_over

    def next_in_line(self, *, come: bool) -> None:
        self._handed_over.append(self.name if come else f"({self.name})")


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def lines() -> dict[Any, Line]:
    return {}


@pytest.fixture
def handed_over() -> list[str]:
    """Names in the order of hand-over; in brackets, those that were passed over."""
    return []


@pytest.fixture
def line(loop, lines) -> Line:
    return Line(loop, lines, "client")


@pytest.fixture
def calls(line, handed_over) -> dict[str, Call]:
    """Three calls, begun in the order of the alphabet."""
    made = {name: Call(name, handed_over) for name in "abc"}
    for call in made.values():
        line.join(call)
    return made


def test_a_request_waits_for_those_begun_before(line, calls, handed_over) -> None:
    """However they come."""
    for name in "cab":
        line.came(calls[name])

    assert handed_over == ["a", "b", "c"]


def test_a_request_in_turn_does_not_wait(line, calls, handed_over, loop, lines) -> None:
    """No timer is needed, and nothing is kept of a connection that is quiet."""
    for name in "abc":
        line.came(calls[name])

    assert handed_over == ["a", "b", "c"]
    assert all(timer.cancelled for _delay, _function, timer in loop.later)
    assert lines == {}


def test_slow_senders_are_passed_over(line, calls, handed_over, loop) -> None:
    """After a moment, those behind them go; they themselves go when they come."""
    line.came(calls["b"])
    waited = [delay for delay, _function, _timer in loop.later]

    loop.run()
    line.came(calls["c"])

    assert waited == [HOLD_S]
    assert handed_over == ["(a)", "b", "c"]


def test_others_are_waited_for_again(line, calls, handed_over, loop, lines) -> None:
    """Each slow one costs those behind it one wait at most."""
    line.came(calls["c"])
    line.came(calls["a"])

    loop.run()

    assert handed_over == ["a", "(b)", "c"]
    assert lines == {}


def test_calls_that_are_over_hold_up_nobody(line, calls, handed_over, lines) -> None:
    """A client that gave a request up does not want it to be waited for."""
    line.came(calls["b"])
    line.leave(calls["a"])
    line.leave(calls["c"])

    assert handed_over == ["b"]
    assert lines == {}


def test_a_new_line_is_not_forgotten_with_an_old_one(line, calls, loop, lines) -> None:
    """A call that comes while the last one is handed over stands in a line of its own."""
    for name in "abc":
        line.came(calls[name])
    newer = Line(loop, lines, "client")

    line._go_on()

    assert lines == {"client": newer}


# -- in the app ---------------------------------------------------------------------------


@pytest.fixture
def served() -> list[bytes]:
    """Messages in the order in which the service got them."""
    return []


@pytest.fixture
def begin(served):
    """Begin a unary call and return its stream."""

    def answer(call: Any, data: bytes) -> None:
        served.append(data)
        call.finish()

    app = RpcApp([Service("t.S", {"One": unary(answer)})])

    async def begin(port: int, **headers: str) -> FakeStream:
        stream = FakeStream("/t.S/One", headers)
        stream.scope["client"] = ("127.0.0.1", port)
        await app(stream.scope, stream.receive, stream.send)
        return stream

    return begin


async def test_bodies_told_in_another_order_do_not_overtake(begin, served) -> None:
    """Those of other connections are not waited for."""
    first, second = await begin(1), await begin(1)
    other = await begin(2)

    second.say(b"second", more=False)
    other.say(b"other", more=False)
    await turn()
    first.say(b"first", more=False)
    await turn()

    assert served == [b"other", b"first", b"second"]


async def test_a_body_in_pieces_keeps_its_place(begin, served) -> None:
    """It has come when its last piece has."""
    first, second = await begin(1), await begin(1)

    first.say(raw=b"\0\0\0\0\5fi")
    second.say(b"second", more=False)
    await turn()
    before = list(served)
    first.say(raw=b"rst", more=False)
    await turn()

    assert (before, served) == ([], [b"first", b"second"])


async def test_a_client_that_leaves_lets_the_others_pass(begin, served) -> None:
    """Also one whose request has come and waits."""
    first, second, third = await begin(1), await begin(1), await begin(1)
    third.say(b"third", more=False)
    await turn()

    second.leave()
    first.leave()
    await turn()

    assert served == [b"third"]
