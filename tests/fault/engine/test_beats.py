"""Fail, cancel and kill between the beats; the end is that of a clean run, bit for bit.

Two clients number their steps and send again what was not acknowledged, as the
client library does. Whatever is injected on the way, each step is applied once.
"""

from __future__ import annotations

from collections import Counter

import pytest

from doubles import WALL_START, FailingStore, Harness, Sent, chain_of, state_of
from legato import faults
from legato.core.errors import CancelledStepError
from legato.core.types import Reply
from legato.engine import admission as admission_module
from legato.engine import commits as commits_module
from legato.engine import instance as instance_module

POINTS = (
    "acquire.before",
    "acquire.after",
    "admit.after_dedupe",
    "step.before_run",
    "step.after_run",
    "commit.before_publish",
)
INPUTS = {1: [3, 1, 4], "b": [2, 7, 1]}


class Client:
    """Sends one step at a time and again until it is acknowledged."""

    def __init__(self, world: World, cid) -> None:
        self.world = world
        self.cid = cid
        self.acknowledged: list[bytes] = []
        self.pending: Sent | None = None
        self.failures = 0

    @property
    def finished(self) -> bool:
        return len(self.acknowledged) == len(INPUTS[self.cid])

    def look(self) -> None:
        """Take in an answer, then send what comes next."""
        if self.pending is not None and self.pending.answered:
            outcome = self.pending.outcome
            if isinstance(outcome, Reply):
                assert outcome.step == len(self.acknowledged) + 1
                self.acknowledged.append(outcome.data[0])
            else:
                self.failures += 1
            self.pending = None
        if self.pending is None and not self.finished:
            at = len(self.acknowledged)
            self.pending = self.world.h.send(
                self.cid,
                INPUTS[self.cid][at],
                start=at == 0,
                number=at + 1,
                request_id=f"{self.cid}-{at}",
            )


class World:
    """Two clients, one store, and as many lives of the server as it takes."""

    def __init__(self, *, slow: bool, threads: bool) -> None:
        self.slow, self.threads = slow, threads
        self.h: Harness
        self.store = FailingStore(clock=lambda: WALL_START)
        self.boot()
        self.clients = [Client(self, cid) for cid in INPUTS]

    def boot(self) -> None:
        # One byte of memory: every step fetches its sequence from the store.
        self.h = Harness(store=self.store, slow_store=self.slow, max_resident_bytes=1)
        handle = self.h.load(execution="thread" if self.threads else "inline")
        self.room = self.h.hold_instances(handle)

    def turn(self) -> None:
        """One beat: clients look, the loop comes to rest, one held thing goes on."""
        for client in self.clients:
            client.look()
        self.h.loop.settle()
        if self.room:
            self.h.let_run(self.room)
        elif self.h.held is not None and self.h.held.waiting:
            self.h.held.release(1)

    def run(self, at: int = -1, action=lambda: None) -> int:
        """Run until all is acknowledged, doing ``action`` before turn ``at``; the turns taken."""
        for turn in range(200):
            if turn == at:
                action()
            if all(client.finished for client in self.clients):
                return turn
            self.turn()
        raise AssertionError("the clients never got through")

    def kill(self) -> None:
        """The process is gone, with all that was under way."""
        self.h.kill()
        for client in self.clients:
            client.pending = None
        self.boot()

    def audit(self) -> None:
        """Every acknowledgement was true, and the record is that of a clean run."""
        for client in self.clients:
            xs = INPUTS[client.cid]
            assert client.acknowledged == [chain_of(xs[: n + 1]) for n in range(len(xs))]
            head, state = self.h.stored(client.cid)
            assert head.step == len(xs)
            assert state == state_of(xs)
        assert self.h.engine.unanswered == 0
        self.h.close()


SETTINGS = [(False, False), (True, False), (False, True), (True, True)]
NAMES = ["inline", "slow store", "threads", "slow store and threads"]


@pytest.fixture(params=SETTINGS, ids=NAMES)
def setting(request):
    return {"slow": request.param[0], "threads": request.param[1]}


def arm(monkeypatch, plan: str) -> Counter:
    """Arm fault points of the engine; returns a count of passages."""
    armed = faults.Faults(faults.parse(plan))
    passed: Counter = Counter()

    def fault(name: str) -> str:
        passed[name] += 1
        return armed.fault(name)

    monkeypatch.setattr(admission_module, "fault", fault)
    monkeypatch.setattr(commits_module, "fault", fault)
    monkeypatch.setattr(instance_module, "fault", fault)
    return passed


def test_a_clean_run_passes_every_point(monkeypatch, setting) -> None:
    """So that none of the tests below is empty."""
    passed = arm(monkeypatch, "")
    world = World(**setting)

    world.run()

    world.audit()
    assert set(passed) == set(POINTS)


def test_every_point_of_the_engine_is_known_here() -> None:
    """A new one joins the tests below."""
    import re
    from pathlib import Path

    folder = Path(admission_module.__file__).parent
    found = {
        name
        for path in folder.glob("*.py")
        for name in re.findall(r'\bfault\("([^"]+)"\)', path.read_text())
    }

    assert found == set(POINTS)


@pytest.mark.parametrize("passage", [1, 2, 3])
@pytest.mark.parametrize("point", POINTS)
def test_an_exception_at_any_point_loses_and_repeats_nothing(
    monkeypatch, setting, point, passage
) -> None:
    """The step is answered with an error; sent again, it is applied once."""
    passed = arm(monkeypatch, f"{point}:raise:{passage}")
    world = World(**setting)

    world.run()

    assert passed[point] >= passage
    assert sum(client.failures for client in world.clients) >= 1
    world.audit()


@pytest.mark.parametrize("point", POINTS)
def test_two_exceptions_in_a_row_do_not_wedge_a_sequence(monkeypatch, setting, point) -> None:
    """The third try gets through."""
    arm(monkeypatch, f"{point}:raise:1,{point}:raise:2")
    world = World(**setting)

    world.run()

    world.audit()


def test_a_cancel_before_any_beat_loses_and_repeats_nothing(setting) -> None:
    """Dropped, or finished and committed; the client finds out by sending again."""
    clean = World(**setting)
    turns = clean.run()
    clean.audit()
    outcomes: set[type] = set()
    for at in range(turns):
        world = World(**setting)
        victim = world.clients[0]
        cancelled: list[Sent] = []

        def cancel(world=world, victim=victim, cancelled=cancelled) -> None:
            for client in world.clients:
                client.look()  # a step that was only just sent, too
            if victim.pending is not None:
                cancelled.append(victim.pending)
                world.h.engine.cancel(victim.pending.step)

        world.run(at, cancel)
        outcomes |= {type(sent.outcome) for sent in cancelled}
        world.audit()

    assert CancelledStepError in outcomes
    if setting["slow"] or setting["threads"]:
        assert Reply in outcomes


def test_a_kill_before_any_beat_loses_and_repeats_nothing(setting) -> None:
    """The store is all that survives; clients go on from their last acknowledgement."""
    clean = World(**setting)
    turns = clean.run()
    clean.audit()
    for at in range(turns):
        world = World(**setting)
        world.run(at, world.kill)
        world.audit()


@pytest.mark.parametrize("kind", ["lost", "failed", "conflict"])
def test_a_store_that_fails_at_any_commit_loses_and_repeats_nothing(setting, kind) -> None:
    """Three in a row, so that the engine gives up and the client has to find the truth."""
    from legato.stores.base import Conflict

    fault = {
        "lost": ("lost", OSError("x")),
        "failed": OSError("x"),
        "conflict": lambda batch: [Conflict(9) for _ in batch],
    }[kind]
    for good in range(5):
        world = World(**setting)
        world.store.commit_faults.extend([None] * good + [fault] * 3)
        for _turn in range(200):
            if all(client.finished for client in world.clients):
                break
            world.turn()
            world.h.loop.settle()
            due = world.h.loop.next_timer()
            if not world.room and not (world.h.held and world.h.held.waiting):
                world.h.clock.now = max(world.h.clock.now, due)  # a commit to be repeated
        world.audit()
