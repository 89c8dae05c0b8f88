"""Doubles for tests of the engine, and a harness that drives them without sleeping.

Time stands still unless a test moves it; a model misbehaves and a store fails on request.

The model's state is a hash chain (spec durability, section 12, "the oracle"): any step
that is lost, repeated or out of order shows in the state's bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np

from legato.core.errors import ModelError
from legato.core.types import (
    KSERVE,
    Reply,
    SequenceKey,
    Signature,
    StateRow,
    StateSpec,
    Step,
    TensorSpec,
)
from legato.engine import engine as engine_module
from legato.engine.engine import Engine
from legato.repository.config import ModelConfig, SequenceConfig
from legato.runtimes.base import StepResult
from legato.stores.base import Missing
from legato.stores.memory import MemoryStore

WALL_START = 1_700_000_000.0


class FakeClock:
    """Seconds that pass only when a test says so."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose time is a :class:`FakeClock` and whose threads are calls."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        return self.clock()

    def run_in_executor(self, executor, func, *args):
        future: Any = Future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - what an executor does
            future.set_exception(error)
        return asyncio.wrap_future(future, loop=self)

    def settle(self) -> None:
        """Run until nothing is ready and no timer is due; time stands still."""
        for _turn in range(100_000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready and self.next_timer() > self.time():
                return
        raise AssertionError("the loop never comes to rest")

    def next_timer(self) -> float:
        pending = [timer.when() for timer in self._scheduled if not timer.cancelled()]
        return min(pending, default=float("inf"))

    def finish(self, coroutine, within_s: float = 60.0):
        """Run a coroutine to its end, letting time pass where it waits for a timer."""
        task = self.create_task(coroutine)
        until = self.clock.now + within_s
        self.settle()
        while not task.done():
            due = self.next_timer()
            assert due <= until, f"{coroutine} waits for something that never comes"
            self.clock.now = max(self.clock.now, due)
            self.settle()
        return task.result()


# -- the model --------------------------------------------------

CHAIN = "chain"
COUNT = "count"
OK, RAISE_BATCH, FAIL_ROW, NAN, WRONG_SHAPE = 0, 1, 2, 3, 4

CHAIN_SIGNATURE = Signature(
    inputs=(TensorSpec("x", "int64", (1, 1)), TensorSpec("mode", "int64", (1,), default=0)),
    outputs=(TensorSpec("link", "uint8", (1, 16)), TensorSpec("count", "float32", (2, 1), 1)),
    # Two states whose batch axes differ.
    states=(
        StateSpec(CHAIN, "chain_in", "chain_out", "uint8", (1, 16)),
        StateSpec(COUNT, "count_in", "count_out", "float32", (2, 1), batch_axis=1),
    ),
)
STATELESS = Signature((TensorSpec("x", "int64", (1, 1)),), (TensorSpec("y", "int64", (1, 1)),))


def link(state: bytes, x: int) -> bytes:
    """The next link of the chain."""
    return hashlib.blake2b(state + x.to_bytes(8, "little", signed=True), digest_size=16).digest()


FIRST_LINK = bytes(16)


class ChainRuntime:
    """A model whose state is a hash chain and a counter; ``mode`` makes it misbehave.

    Attributes:
        calls: Correlation ids of each model call, in order.
        ended: What the hook was told.
    """

    def __init__(self, signature: Signature = CHAIN_SIGNATURE) -> None:
        self.signature = signature
        self.calls: list[list[Any]] = []
        self.rows: list[tuple[Any, ...]] = []
        self.ended: list[tuple[Any, Any]] = []
        self.closed = False
        self.hook_raises = False

    def step(self, batch):
        assert not self.closed, "a closed model was run"
        self.calls.append([row.correlation_id for row in batch.rows])
        self.rows.append(batch.rows)
        modes = batch.inputs["mode"].ravel().tolist()
        if RAISE_BATCH in modes:
            raise RuntimeError("boom")
        xs = batch.inputs["x"].ravel().tolist()
        chain = batch.state[CHAIN]
        links = [link(chain[at].tobytes(), x) for at, x in enumerate(xs)]
        following = np.frombuffer(b"".join(links), np.uint8).reshape(len(xs), 16)
        count = batch.state[COUNT] + np.float32(1)
        count[:, [at for at, mode in enumerate(modes) if mode == NAN]] = np.nan
        if WRONG_SHAPE in modes:
            count = count[:1]
        failed = {at: ModelError("row failed") for at, m in enumerate(modes) if m == FAIL_ROW}
        outputs = {"link": following, "count": batch.state[COUNT] + np.float32(1)}
        return StepResult(outputs, {CHAIN: following, COUNT: count}, failed)

    def sequence_ended(self, correlation_id, reason):
        self.ended.append((correlation_id, reason))
        if self.hook_raises:
            raise RuntimeError("the hook is broken")

    def close(self):
        self.closed = True


class EchoRuntime:
    """A model without state: y = 2 x; a negative x fails its row."""

    signature = STATELESS

    def __init__(self) -> None:
        self.calls: list[int] = []

    def step(self, batch):
        x = batch.inputs["x"]
        self.calls.append(len(x))
        failed = {at: ModelError("negative") for at, v in enumerate(x.ravel()) if v < 0}
        return StepResult({"y": x * 2}, {}, failed)

    def sequence_ended(self, correlation_id, reason):
        raise AssertionError("a model without state has no sequences")

    def close(self):
        pass


# -- the store --------------------------------------------------


class FailingStore(MemoryStore):
    """A memory store whose next calls fail as told.

    Attributes:
        commit_faults: For each coming commit: ``None`` = normal; an exception = nothing
            is written; ``("lost", error)`` = it is written, and the answer is lost;
            a function = asked for the results instead.
        acquire_faults: For each coming acquire: ``None``, an exception, or a result.
        batches: The commits that were asked for.
    """

    def __init__(self, *, clock, tombstone_s: float = 600.0) -> None:
        super().__init__(clock=clock, tombstone_s=tombstone_s)
        self.commit_faults: deque[Any] = deque()
        self.acquire_faults: deque[Any] = deque()
        self.sweep_faults: deque[Any] = deque()
        self.batches: list[list[Any]] = []
        self.acquired: list[SequenceKey] = []
        self.closed = False

    def commit(self, batch):
        self.batches.append(list(batch))
        fault = self.commit_faults.popleft() if self.commit_faults else None
        if isinstance(fault, Exception):
            raise fault
        if callable(fault):
            return fault(batch)
        results = super().commit(batch)
        if isinstance(fault, tuple):
            raise fault[1]
        return results

    def acquire(self, key, owner, **options):
        self.acquired.append(key)
        fault = self.acquire_faults.popleft() if self.acquire_faults else None
        if isinstance(fault, Exception):
            raise fault
        return fault if fault is not None else super().acquire(key, owner, **options)

    def sweep(self, limit, busy):
        if self.sweep_faults:
            raise self.sweep_faults.popleft()
        return super().sweep(limit, busy)

    def close(self):
        self.closed = True


class HeldCommitter:
    """A committer whose calls wait until a test lets them go: a slow store, without threads."""

    def __init__(self, store, loop) -> None:
        self.store = store
        self.loop = loop
        self.waiting: deque[tuple[Any, Any]] = deque()

    def commit(self, batch, done):
        self.waiting.append((lambda: self.store.commit(batch), done))

    def call(self, function, done):
        self.waiting.append((function, done))

    async def run(self, function):
        future = self.loop.create_future()
        self.call(function, future.set_result)
        result = await future
        if isinstance(result, Exception):
            raise result
        return result

    def release(self, count: int | None = None) -> int:
        """Carry out the oldest calls; all that are waiting now, unless told how many."""
        count = len(self.waiting) if count is None else count
        for _ in range(count):
            function, done = self.waiting.popleft()
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - what the committer does
                result = error
            self.loop.call_soon(done, result)
        return count

    def close(self):
        pass


# -- the harness --------------------------------------------------


class Sent:
    """A step that was sent, and what came back."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.outcomes: list[Any] = []

    @property
    def outcome(self):
        """The one answer."""
        assert len(self.outcomes) == 1, f"{len(self.outcomes)} answers to {self.step}"
        return self.outcomes[0]

    @property
    def reply(self) -> Reply:
        assert isinstance(self.outcome, Reply), repr(self.outcome)
        return self.outcome

    @property
    def error(self):
        assert not isinstance(self.outcome, Reply), "the step was applied"
        return self.outcome

    @property
    def answered(self) -> bool:
        return bool(self.outcomes)


class Harness:
    """An engine on a fake loop, driven by hand."""

    def __init__(
        self,
        *,
        store: Any = None,
        slow_store: bool = False,
        runtimes: Any = None,
        **options: Any,
    ) -> None:
        self.clock = FakeClock(100.0)
        self.loop = FakeTimeLoop(self.clock)
        self.store = store or FailingStore(clock=lambda: WALL_START + self.clock())
        self.fatal: list[Exception] = []
        self.runtimes: list[Any] = []
        self.make_runtime = runtimes or ChainRuntime
        self.digests: dict[str, str] = {}
        self.engine = Engine(self.store, clock=self.clock, on_fatal=self.fatal.append, **options)
        self.loop.finish(self.engine.start())
        self.held: HeldCommitter | None = None
        if slow_store:
            self.store.inline = False
            self.engine.committer.close()
            self.held = self.engine.committer = HeldCommitter(self.store, self.loop)

    def load(self, name: str = "m", *, digest: str = "d" * 16, **options: Any):
        """Load a model; ``sequences`` may be a dict."""
        sequences = SequenceConfig(**options.pop("sequences", {}))
        options.setdefault("execution", "inline")
        config = ModelConfig(name=name, sequences=sequences, **options)
        before = engine_module.content_digest, engine_module.registry.build

        def build(_config):
            runtime = self.make_runtime()
            self.runtimes.append(runtime)
            return runtime

        engine_module.content_digest = lambda _config: digest
        engine_module.registry.build = build
        try:
            return self.loop.finish(self.engine.load(config))
        finally:
            engine_module.content_digest, engine_module.registry.build = before

    @property
    def runtime(self):
        return self.runtimes[-1]

    def send(self, cid: Any = 1, x: int = 0, mode: int = OK, *, model="m", **options: Any) -> Sent:
        """Submit a step; it runs when the loop does."""
        inputs = options.pop("inputs", None)
        if inputs is None:
            inputs = {"x": np.array([[x]], np.int64), "mode": np.array([mode], np.int64)}
        dialect = options.pop("dialect", KSERVE)
        then = options.pop("then", None)
        sent = Sent(Step(model, cid, inputs, dialect, **options))

        def done(outcome):
            sent.outcomes.append(outcome)
            if then is not None:
                then(outcome)

        sent.step.done = done
        self.engine.submit(sent.step)
        return sent

    def ask(self, *args: Any, **options: Any) -> Any:
        """Submit a step and run until it is answered; the reply or the error."""
        sent = self.send(*args, **options)
        self.settle()
        return sent.outcome

    def settle(self) -> None:
        """Run until idle; calls of a slow store are carried out too."""
        self.loop.settle()
        while self.held is not None and self.held.waiting:
            self.held.release()
            self.loop.settle()

    def pass_time(self, seconds: float) -> None:
        """Let time pass; calls of a slow store are carried out as they come."""
        until = self.clock.now + seconds
        self.settle()
        while (due := self.loop.next_timer()) <= until:
            self.clock.now = max(self.clock.now, due)
            self.settle()
        self.clock.now = until
        self.settle()

    def stored(self, cid: Any = 1, model: str = "m"):
        """Head and state in the store, or ``None``."""
        found = self.store.read(SequenceKey(model, cid))
        return None if isinstance(found, Missing) else found

    def state(self, cid: Any = 1, model: str = "m") -> StateRow | None:
        found = self.stored(cid, model)
        return None if found is None else found[1]

    def hold_instances(self, handle) -> deque[Any]:
        """Make model calls of a threaded model wait; returns the waiting room."""
        room: deque[Any] = deque()
        for instance in handle.instances:
            instance.submit = lambda plan, done, i=instance: room.append((i, plan, done))
        return room

    def let_run(self, room: deque[Any]) -> None:
        """Carry out the oldest waiting model call."""
        instance, plan, done = room.popleft()
        done(instance, plan, instance.run(plan))

    def kill(self) -> None:
        """End as a process does that is killed: nothing that was under way goes on."""
        self.loop._ready.clear()
        self.loop._scheduled.clear()
        self.engine._ticker.cancel()
        self.loop.settle()
        self.loop.close()

    def close(self) -> None:
        """Close; nothing may have gone wrong behind the scenes."""
        self.loop.finish(self.engine.close())
        self.settle()
        self.loop.close()
        assert not self.loop.errors, self.loop.errors


def chain_of(xs: list[int]) -> bytes:
    """The chain after these inputs."""
    state = FIRST_LINK
    for x in xs:
        state = link(state, x)
    return state


def state_of(xs: list[int]) -> StateRow:
    """The state row after these inputs, bit for bit."""
    count = np.full((2, 1), len(xs), np.float32).tobytes()
    return StateRow((chain_of(xs), count), ((1, 16), (2, 1)))
