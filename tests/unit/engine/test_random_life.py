"""Random lives against a small reference (issue 2, item 6; style, section 6).

Starts, steps, ends, repeats, cancels, expiries, failures of rows, batches and the
store, parking, reloads and restarts of the server, on a few sequences at once. The
engine runs for real; the reference below is all that it has to agree with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doubles import (
    FAIL_ROW,
    NAN,
    OK,
    RAISE_BATCH,
    WALL_START,
    FailingStore,
    Harness,
    Sent,
    chain_of,
    state_of,
)
from legato.core.errors import CancelledStepError, StorageFullError
from legato.core.types import EndReason, Reply, SequenceKey
from legato.engine.manage import Manager
from legato.engine.residence import OVERHEAD
from legato.stores.base import Conflict, Fenced

CIDS = (1, "1", 2)
TTL_S = 50.0
BAD = {
    RAISE_BATCH: "model_failed",
    FAIL_ROW: "model_failed",
    NAN: "non_finite_state",
}

# -- the reference ---------------------------------------------------------------


@dataclass
class Life:
    """What a record must say. ``receipt``: number, request id, input, reply."""

    xs: list[int] = field(default_factory=list)
    receipt: tuple = ()
    over: bool = False


class Reference:
    """What each step must come to, in the order of each sequence."""

    def __init__(self) -> None:
        self.lives: dict = {}

    def expect(self, step, x: int, mode: int) -> tuple:
        """``("run", number)``, ``("replay", data)`` or ``("error", code)``."""
        life = self.lives.get(step.correlation_id, Life(over=True))
        number, at = step.number, len(life.xs)
        kept = life.receipt
        same = kept and number == kept[0] and step.request_id == kept[1]
        if life.over:
            if same and kept[2] == (x, mode) and (not step.start or step.request_id or at == 1):
                return "replay", kept[3]
            if not step.start:
                return "error", "unknown_sequence"
            return ("error", "step_gap") if number > 1 else ("run", 1)
        if number == 0:
            return "run", 1 if step.start else at + 1
        if step.start and number != 1:
            return "error", "step_gap"
        if number > at:
            return ("run", number) if number == at + 1 else ("error", "step_gap")
        if number != kept[0]:
            return "error", "step_already_applied"
        if not same:
            return "error", "step_taken"
        return ("replay", kept[3]) if kept[2] == (x, mode) else ("error", "request_id_reused")

    def apply(self, step, number: int, x: int, mode: int, data: tuple) -> None:
        """The step was acknowledged."""
        life = self.lives.get(step.correlation_id)
        if life is None or life.over or (step.start and number == 1):
            life = self.lives[step.correlation_id] = Life()
        life.xs.append(x)
        named = (x, mode) if step.number else object()
        life.receipt = (number, step.request_id, named, data)
        life.over = step.end

    def end(self, cid) -> None:
        if cid in self.lives:
            self.lives[cid].over = True


# -- the world ---------------------------------------------------------------------


class World:
    """An engine, its store, a reference, and the steps that are still to be judged."""

    def __init__(self, *, slow: bool, threads: bool, resident: int, batch: int) -> None:
        self.options = {"slow_store": slow, "max_resident_bytes": resident}
        self.config = {
            "execution": "thread" if threads else "inline",
            "instances": 2 if threads else 1,
            "max_batch_size": batch,
            "sequences": {"idle_timeout_s": TTL_S},
        }
        self.now = 100.0
        self.store = FailingStore(
            clock=lambda: WALL_START + (self.h.clock() if hasattr(self, "h") else self.now),
            tombstone_s=1e9,
        )
        self.reference = Reference()
        self.sent: list[tuple[Sent, int, int]] = []
        self.judged: list[tuple[Sent, int, int]] = []
        self.touched: dict = {}
        self.boot()

    def boot(self) -> None:
        h = Harness(store=self.store, **self.options)
        h.clock.now = self.h.clock.now if hasattr(self, "h") else self.now
        self.h = h
        self.load()

    def load(self) -> None:
        handle = self.h.load(**self.config)
        self.room = self.h.hold_instances(handle)

    def settle(self) -> None:
        """Run everything that is under way to its end, then judge it."""
        for _ in range(10_000):
            self.h.settle()
            if self.room:
                self.h.let_run(self.room)
            elif any(not sent.answered for sent, _, _ in self.sent):
                self.h.pass_time(0.05)  # a commit waits to be repeated
            else:
                break
        self.judge()

    def judge(self) -> None:
        for sent, x, mode in self.sent:
            step, outcome = sent.step, sent.outcome
            kind, what = self.reference.expect(step, x, mode)
            if isinstance(outcome, CancelledStepError):
                assert step.cancelled
            elif isinstance(outcome, StorageFullError):
                assert kind == "run"
            elif kind == "replay":
                assert (outcome.data, outcome.replayed) == (what, True)
            elif kind == "error":
                assert getattr(outcome, "code", outcome) == what
            elif mode:
                assert getattr(outcome, "code", outcome) == BAD[mode]
            else:
                assert isinstance(outcome, Reply), repr(outcome)
                assert (outcome.step, outcome.replayed) == (what, False)
                self.reference.apply(step, what, x, mode, outcome.data)
                assert outcome.data[0] == chain_of(self.reference.lives[step.correlation_id].xs)
                self.touched[step.correlation_id] = self.h.clock.now
        self.judged += self.sent
        self.sent = []

    # -- what may happen --

    def do_step(self, cid, x, mode, flags, number, request_id) -> None:
        start, end = flags
        if number == "next":
            found = self.h.stored(cid)
            number = 1 if start or found is None else found[0].step + 1
        sent = self.h.send(cid, x, mode, start=start, end=end, number=number, request_id=request_id)
        self.sent.append((sent, x, mode))

    def do_burst(self, modes) -> None:
        """A step of every sequence at once: they share a batch."""
        for cid, mode in zip(CIDS, modes, strict=True):
            self.do_step(cid, 7, mode, (False, False), 0, "")

    def do_repeat(self, back) -> None:
        numbered = [one for one in self.judged + self.sent if one[0].step.number]
        if numbered:
            old, x, mode = numbered[-1 - back % len(numbered)]
            step = old.step
            self.do_step(
                step.correlation_id, x, mode, (step.start, step.end), step.number, step.request_id
            )

    def do_cancel(self, back) -> None:
        waiting = [sent for sent, _, _ in self.sent if not sent.answered]
        if waiting:
            self.h.engine.cancel(waiting[-1 - back % len(waiting)].step)

    def do_turn(self) -> None:
        """A little goes on; the rest stays under way."""
        self.h.loop.settle()
        if self.room:
            self.h.let_run(self.room)
        elif self.h.held is not None and self.h.held.waiting:
            self.h.held.release(1)

    def do_settle(self) -> None:
        self.settle()

    def do_store_fault(self, kind) -> None:
        self.settle()  # so that no two of them meet in one commit
        faults = {
            "lost": [("lost", OSError("x"))],
            "failed twice": [OSError("x"), OSError("y")],
            "lost and failed": [("lost", OSError("x")), OSError("y")],
            "full": [StorageFullError("full")],
            "fenced": [lambda batch: [Fenced(1 << 20, 0) for _ in batch]],
            "conflict": [lambda batch: [Conflict(0) for _ in batch]],
        }
        self.store.commit_faults.clear()
        self.store.commit_faults.extend(faults[kind])

    def do_wait(self, seconds) -> None:
        self.settle()
        self.h.pass_time(seconds)
        for cid, touched in list(self.touched.items()):
            if self.h.clock.now > touched + TTL_S:
                self.reference.end(cid)

    def do_end(self, cid) -> None:
        self.settle()
        task = self.h.loop.create_task(
            Manager(self.h.engine).end(SequenceKey("m", cid), EndReason.EVICTED)
        )
        for _ in range(4):
            self.h.settle()
        life = self.reference.lives.get(cid)
        assert (task.exception() is None) == (life is not None and not life.over)
        self.reference.end(cid)

    def do_release(self, cid) -> None:
        self.h.engine.release(SequenceKey("m", cid))

    def do_reload(self) -> None:
        self.settle()
        self.load()

    def do_restart(self) -> None:
        """The server dies and comes back; what was acknowledged is in the store."""
        self.settle()
        self.h.close()
        self.boot()

    # -- the end --

    def audit(self) -> None:
        """The store holds the reference's bytes, and a clean replay gives them again."""
        self.settle()
        clean = Harness()
        clean.load()
        for cid in CIDS:
            life = self.reference.lives.get(cid)
            if life is None or life.over:
                assert self.h.stored(cid) is None
                continue
            head, state = self.h.stored(cid)
            assert head.step == len(life.xs)
            assert state == state_of(life.xs)
            for at, x in enumerate(life.xs):
                clean.ask(cid, x, start=at == 0)
            assert clean.state(cid) == state
        engine = self.h.engine
        model = engine.tables["m"]
        resident = [s.state for s in model.sequences.values() if s.state is not None]
        assert engine.residence.bytes == sum(state.nbytes + OVERHEAD for state in resident)
        self._compare_gauges(model)
        assert (engine.unanswered, model.unanswered, model.creating) == (0, 0, 0)
        assert not any(sequence.busy for sequence in model.sequences.values())
        clean.close()
        self.h.close()

    @staticmethod
    def _compare_gauges(model) -> None:
        """What was counted on the way is what a walk through all finds."""
        for handle in model.versions.values():
            model.refresh(handle, 0)
            gauges = handle.statistics
            mine = [s.state for s in model.sequences.values() if s.handle is handle and s.state]
            assert gauges.resident == len(mine)
            assert gauges.state_bytes == sum(state.nbytes for state in mine)
            assert (gauges.queued, gauges.waiting, gauges.committing) == (0, 0, 0)


cids = st.sampled_from(CIDS)
steps = st.tuples(
    st.just("step"),
    cids,
    st.integers(0, 3),
    st.sampled_from([OK] * 6 + list(BAD)),
    st.sampled_from([(False, False)] * 4 + [(True, False)] * 2 + [(False, True), (True, True)]),
    st.sampled_from([0, 0, "next", "next", 1, 2, 3]),
    st.sampled_from(["", "", "a", "b"]),
)
bursts = st.tuples(
    st.just("burst"), st.lists(st.sampled_from([OK] * 4 + list(BAD)), min_size=3, max_size=3)
)
others = st.one_of(
    st.tuples(st.just("repeat"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("turn")),
    st.tuples(st.just("settle")),
    st.tuples(
        st.just("store_fault"),
        st.sampled_from(["lost", "failed twice", "lost and failed", "full", "fenced", "conflict"]),
    ),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 100.0])),
    st.tuples(st.just("end"), cids),
    st.tuples(st.just("release"), cids),
    st.tuples(st.just("reload")),
    st.tuples(st.just("restart")),
)
BEGINNING = [("step", cid, 0, OK, (True, False), 0, "") for cid in CIDS]


@pytest.mark.parametrize("slow", [False, True], ids=["quick store", "slow store"])
@pytest.mark.parametrize("threads", [False, True], ids=["inline", "threads"])
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    operations=st.lists(st.one_of(steps, steps, bursts, others), min_size=10, max_size=50),
    resident=st.sampled_from([0, 1, 60]),
    batch=st.sampled_from([1, 2, 8]),
)
def test_whatever_happens_the_record_is_what_was_acknowledged(
    slow, threads, operations, resident, batch
) -> None:
    """Every outcome, every stored byte and a clean replay agree with the reference."""
    world = World(slow=slow, threads=threads, resident=resident, batch=batch)

    for name, *arguments in BEGINNING + operations:
        getattr(world, f"do_{name}")(*arguments)

    world.audit()
