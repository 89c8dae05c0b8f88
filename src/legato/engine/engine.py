"""The engine: admit, decide, schedule, run, commit, publish. The one door is ``submit``.

It lives on one event loop and is never awaited for a step: a step carries a
callback. Three beats, always in this order: plan, run, commit. Until the commit
nothing that a reader of the sequence could see has changed (D1, D2).
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import random
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from legato.core.decide import Verdict, decide
from legato.core.errors import (
    BacklogTimeoutError,
    BusyError,
    CancelledStepError,
    ClientError,
    ConfigError,
    DeadlineError,
    DrainingError,
    MissingIdError,
    SequenceLimitError,
    ServerBusyError,
    ServerError,
    StateDamagedError,
    StepQueueFullError,
    StorageFullError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.core.ids import RESERVED, is_reserved
from legato.core.reply import decode_reply
from legato.core.types import (
    Durability,
    EndReason,
    Receipt,
    RecordHead,
    Reply,
    SequenceKey,
    StateRow,
    WhenFull,
)
from legato.engine.committer import Committer
from legato.engine.model import ModelHandle, digest_inputs
from legato.engine.succession import Succession
from legato.engine.table import Model
from legato.engine.work import Sequence, Work
from legato.faults import fault
from legato.observe.log import get_logger
from legato.repository.loader import content_digest
from legato.runtimes import registry
from legato.stores.base import (
    Commit,
    Damaged,
    Duplicate,
    Held,
    Missing,
    Ok,
    Owned,
)
from legato.stores.rules import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from legato.core.types import CorrelationId, Step
    from legato.engine.batch import BatchOutcome, RowResult
    from legato.engine.instance import Instance
    from legato.engine.suspicion import Suspicion
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime
    from legato.stores.base import AcquireResult, CommitResult, Listed, Store

    Observer = Callable[
        [ModelHandle, list[tuple[Work, RowResult]], list[Commit], list[CommitResult]], None
    ]

log = get_logger()

COMMIT_TRIES = 3
MOST_CONFLICTS = 8
MOST_SLICES = 50
SLICE_S = 0.002
_NO_STATE = StateRow((), ())


class Engine:
    """Serves sequences of any number of models on one store.

    Args:
        store: Where committed state lives.
        clock: Monotonic seconds.
        owner: Name of this server among the users of the store.
        max_resident_bytes: Bound on the state of idle sequences kept in memory
            (0 = none); beyond it the least recently used are parked.
        max_queued: Bound on unanswered steps, all models together.
        on_fatal: Called when the store can no longer be trusted; must end the process.
        suspicion: What is known of steps that crashed the process before this one.

    Attributes:
        observers: Told of every batch that was committed, before its replies leave; each
            must return at once. None by default, and then they cost nothing.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.monotonic,
        owner: str = "local",
        max_resident_bytes: int = 0,
        max_queued: int = 100_000,
        on_fatal: Callable[[Exception], None] | None = None,
        suspicion: Suspicion | None = None,
    ) -> None:
        self.store = store
        self.ready = False
        self.draining = False
        self.max_queued = max_queued
        self.max_resident_bytes = max_resident_bytes
        self._clock = clock
        self._owner = owner
        self.suspicion = suspicion
        self._on_fatal = on_fatal or _die
        self._writable = True
        self._models: dict[str, Model] = {}
        self._unanswered = 0
        self._resident_bytes = 0
        self._idle: OrderedDict[Sequence, Model] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop
        self._committer: Committer
        self._ticker: asyncio.Task[None] | None = None
        self._quiet = asyncio.Event()
        self.observers: list[Observer] = []
        self._succession = Succession(self.manage, self._retire, clock)
        self._tokens = itertools.count(random.getrandbits(63))

    def __repr__(self) -> str:
        return f"<Engine models={len(self._models)} unanswered={self._unanswered}>"

    # -- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind to the running loop and begin housekeeping."""
        self._loop = asyncio.get_running_loop()
        self._committer = Committer(self.store, self._loop)
        self._ticker = asyncio.create_task(self._tick(), name="legato-ticker")
        self.ready = True

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and finish what is in flight; false if time ran out."""
        self.draining = True
        self._quiet.clear()
        for model in self._models.values():
            self._clear_backlog(model, DrainingError())
        if self._unanswered:
            try:
                await asyncio.wait_for(self._quiet.wait(), timeout_s)
            except TimeoutError:
                return False
        return True

    async def close(self) -> None:
        """Stop housekeeping, free the models and close the store."""
        self.ready = False
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for model in self._models.values():
            for handle in (*model.versions.values(), *model.lingering):
                for instance in handle.instances:
                    instance.close()
        self._models.clear()
        if hasattr(self, "_committer"):
            self._committer.close()
        self.store.close()

    # -- models -------------------------------------------------------------------------

    async def load(self, config: ModelConfig, *, keep_sequences: bool = False) -> ModelHandle:
        """Load a model version and make it known; a version served before is replaced.

        Args:
            config: What to load.
            keep_sequences: A version that is replaced by other content goes on, unseen,
                until the sequences that live on it are over.

        Raises:
            ConfigError: The model cannot be served as configured.
        """
        digest = await asyncio.to_thread(content_digest, config)
        runtimes: list[Runtime] = []
        try:
            while len(runtimes) < config.instances:
                runtimes += [await asyncio.to_thread(registry.build, config)]
        except BaseException:
            for runtime in runtimes:
                runtime.close()
            raise
        handle = ModelHandle(config, runtimes, digest)
        for instance in handle.instances:
            instance.suspicion = self.suspicion
        model = self._models.get(config.name)
        if model is None:
            model = self._models[config.name] = Model(config.name)
        old = model.versions.get(handle.version)
        if model.versions and model.stateful != handle.stateful:
            for runtime in runtimes:
                runtime.close()
            raise ConfigError(
                f"version {handle.version} of model '{handle.name}' "
                f"{'carries' if handle.stateful else 'does not carry'} state, others differ",
                key="states",
                fix="serve it under another name",
            )
        model.add(handle)
        if old is not None:
            await self._let_go(model, [old], keep_sequences=keep_sequences)
        self._room_was_made(model)  # the limit may have grown
        log.info("model_loaded", model=handle.name, version=handle.version, digest=digest)
        return handle

    async def _let_go(self, model: Model, gone: list[ModelHandle], *, keep_sequences: bool) -> None:
        """Free versions that are served no more, or let their sequences go on to their end."""
        kept = [h for h in gone if keep_sequences and h.stateful and not model.reads(h.digest)]
        for handle in gone:
            if handle in kept:
                self._succession.give_way(model, handle)
            else:
                self._forget_pinned(model, handle)
        for handle in gone:
            if handle in kept:
                await self._succession.find_pinned(model, handle)
            else:
                await self._retire(handle)

    async def unload(self, name: str, version: str = "", *, keep_sequences: bool = False) -> None:
        """Stop serving a model (or one version); its sequences stay in the store.

        Args:
            name: Which model.
            version: Which of its versions; "" = all.
            keep_sequences: Its sequences go on to their end.
        """
        model = self._models.get(name)
        gone = (
            []
            if model is None
            else [handle for handle in model.versions.values() if version in ("", handle.version)]
        )
        if model is None or not gone:
            raise UnknownModelError(name, version)
        for handle in gone:
            model.remove(handle)
        if not model.versions:
            self._clear_backlog(model, UnknownModelError(name, unloaded=True))
        await self._let_go(model, gone, keep_sequences=keep_sequences)
        for sequence in list(model.sequences.values()):
            if sequence.handle is None and not sequence.busy:
                self._drop(model, sequence)
        self._forget_empty(model)

    def _forget_empty(self, model: Model) -> None:
        used = model.versions or model.lingering or model.sequences
        if not used and self._models.get(model.name) is model:
            del self._models[model.name]

    async def _retire(self, handle: ModelHandle) -> None:
        handle.ready = False
        # Polled, because it is rare: an event would cost every model call.
        while len(handle.free) < len(handle.instances) or len(handle.scheduler):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        for instance in handle.instances:
            await asyncio.to_thread(instance.close)

    def _forget_pinned(self, model: Model, handle: ModelHandle) -> None:
        for sequence in model.sequences.values():
            if sequence.handle is handle:
                sequence.handle = None

    def model(self, name: str, version: str = "") -> ModelHandle:
        """Find a served model version; "" = the default one.

        Raises:
            UnknownModelError: It is not served.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(name, version)
        return model.handle(version)

    def models(self) -> list[ModelHandle]:
        """All served versions, with their gauges brought up to date."""
        handles = []
        for model in self._models.values():
            live = self.store.live(model.name) if model.stateful else 0
            for handle in model.versions.values():
                model.refresh(handle, live)
                handles.append(handle)
        return handles

    # -- steps --------------------------------------------------------------------------

    def submit(self, step: Step) -> None:
        """Take a step. Never raises: ``step.done`` gets a Reply or a ServerError, once."""
        self._unanswered += 1
        problem = self._admit(step)
        if problem is not None:
            self._finish(step, problem)

    def _admit(self, step: Step) -> ServerError | None:
        """Put a step into its sequence's queue, or say why not."""
        model = self._models.get(step.model)
        if model is None:
            return UnknownModelError(step.model, step.version)
        model.unanswered += 1
        if not model.versions and not model.lingering:
            return UnknownModelError(step.model, step.version, unloaded=True)
        if self.draining:
            return DrainingError()
        if self._unanswered > self.max_queued:
            return ServerBusyError(self.max_queued)
        if model.unanswered > model.max_queued:
            return ServerBusyError(model.max_queued)
        step.arrived = self._clock()
        if not model.stateful:
            return self._admit_stateless(model, step)
        correlation_id = step.correlation_id
        if not correlation_id:
            if not (step.dialect.server_gives_id and (step.start or step.dialect.unknown_opens)):
                return MissingIdError(step.model)
            return self._admit_unnamed(model, step)
        return self._enqueue(model, step, correlation_id)

    def _enqueue(
        self, model: Model, step: Step, correlation_id: CorrelationId
    ) -> ServerError | None:
        sequence = model.sequences.get(correlation_id)
        if sequence is None:
            if is_reserved(correlation_id):
                return ClientError(f"ids that begin with '{RESERVED}' are kept for snapshots")
            sequence = Sequence(SequenceKey(step.model, correlation_id))
            model.sequences[correlation_id] = sequence
        elif len(sequence.steps) >= model.max_queued_steps:
            return StepQueueFullError(model.max_queued_steps)
        sequence.steps.append(step)
        if not sequence.busy:
            self._advance(model, sequence)
        return None

    def _admit_unnamed(self, model: Model, step: Step) -> ServerError | None:
        """Give the step a free id: quick stores are asked here, others in turn."""

        def done(result: int | Exception) -> None:
            problem: ServerError | None
            if step.cancelled:
                problem = CancelledStepError()
            elif isinstance(result, Exception):
                problem = _store_trouble(result)
            else:
                step.correlation_id = result
                problem = self._enqueue(model, step, result)
            if problem is not None:
                self._finish(step, problem)

        if not self.store.inline:
            self._committer.call(lambda: self._new_id(model), done)
            return None
        result = _try(lambda: self._new_id(model))
        if isinstance(result, Exception):
            return _store_trouble(result)
        step.correlation_id = result
        return self._enqueue(model, step, result)

    def _admit_stateless(self, model: Model, step: Step) -> ServerError | None:
        """A model without state: each step is a batch row and nothing else."""
        try:
            handle = model.handle(step.version)
            problem = handle.check(step, first=True)
        except UnknownModelError as error:
            return error
        except Exception as error:  # noqa: BLE001 - submit never raises
            return _internal(error)
        if problem is None:
            nobody = Sequence(SequenceKey(step.model, step.correlation_id or 0))
            self._schedule(handle, Work(handle, nobody, step, 0, _NO_STATE))
        return problem

    def _new_id(self, model: Model) -> int:
        """Ids count up from 1; ids in use are passed over, freed ones not given again soon."""
        while True:
            model.last_id += 1
            key = SequenceKey(model.name, model.last_id)
            if model.last_id not in model.sequences and isinstance(self.store.read(key), Missing):
                return model.last_id

    def cancel(self, step: Step) -> None:
        """Drop a step that has not begun; one that runs is finished and committed."""
        step.cancelled = True
        model = self._models.get(step.model)
        sequence = model.sequences.get(step.correlation_id or 0) if model else None
        if model is None or sequence is None or step not in sequence.steps:
            return
        head = sequence.steps[0] is step
        sequence.steps.remove(step)
        self._finish(step, CancelledStepError())
        if head and sequence.in_backlog:
            self._leave_backlog(model, sequence)
            self._advance(model, sequence)

    # -- decide ---------------------------------------------------------------------------

    def _advance(self, model: Model, sequence: Sequence) -> None:
        """Decide steps from the head of a sequence until one is scheduled or none is left."""
        sequence.busy = True
        steps = sequence.steps
        while steps:
            if not sequence.loaded and not self._acquire(model, sequence):
                return
            if not steps:  # cancelled by a callback meanwhile
                break
            step = steps[0]
            try:
                if self._decide(model, sequence, step):
                    sequence.fresh = False
                    return
            except Exception as error:
                # A mistake of ours, or an input that no check foresaw: it costs this step only.
                log.exception("step_not_decided", model=model.name)
                if steps and steps[0] is step:
                    steps.popleft()
                self._finish(step, _internal(error))
        self._rest(model, sequence)

    def _decide(self, model: Model, sequence: Sequence, step: Step) -> bool:
        """Decide the head of a sequence; true if it was scheduled or waits for room."""
        steps = sequence.steps
        if step.deadline is not None and step.deadline <= self._clock():
            self._finish(steps.popleft(), DeadlineError())
            return False
        if step.number or model.dedupe:
            step.digest = digest_inputs(step)
        elif not step.digest:
            # Unnumbered steps are no repeats of each other, whoever commits them and
            # whatever they carry: each gets a name of its own (D3).
            step.digest = next(self._tokens).to_bytes(8, "little")
        decision = decide(sequence.head, step, dedupe=model.dedupe)
        fault("admit.after_dedupe")
        verdict = decision.verdict
        if verdict is Verdict.APPLY:
            steps.popleft()
            return self._apply(model, sequence, step, decision.number)
        if verdict is Verdict.REFUSE:
            if sequence.fresh:
                self._finish(steps.popleft(), _with_age(decision.error, sequence.head))
            else:
                # The copy may be behind (expired, or moved by another node): only what
                # the record itself says goes to a client.
                self._forget(sequence)
            return False
        if verdict is Verdict.REPLAY:
            self._replay(model, sequence, steps.popleft(), decision.receipt)
            return False
        return self._create(model, sequence, step, verdict is Verdict.RESTART)

    def _acquire(self, model: Model, sequence: Sequence) -> bool:
        """Ask the store for a sequence; false if it is not known yet, or cannot be had."""
        self._forget(sequence)  # a copy that was released while it was busy

        def ask() -> AcquireResult:
            fault("acquire.before")
            result = self.store.acquire(sequence.key, self._owner)
            fault("acquire.after")
            return result

        def done(result: AcquireResult | Exception) -> None:
            if self._acquired(model, sequence, result):
                self._advance(model, sequence)

        if self.store.inline:
            # Quick stores answer here, and _advance goes on.
            return self._acquired(model, sequence, _try(ask))
        self._committer.call(ask, done)
        return False

    def _acquired(
        self, model: Model, sequence: Sequence, result: AcquireResult | Exception
    ) -> bool:
        """Take over what the store said; false if the waiting steps were refused."""
        if isinstance(result, Owned):
            sequence.head, sequence.state = result.head, result.state
            sequence.loaded = sequence.fresh = True
            sequence.handle = None
            self._resident_bytes += result.state.nbytes if result.state else 0
            return True
        if isinstance(result, Missing):
            sequence.head, sequence.state = result.head, None
            sequence.loaded = sequence.fresh = True
            return True
        error: ServerError
        if isinstance(result, Damaged):
            error = StateDamagedError(
                f"the stored state of sequence {sequence.key.correlation_id!r} cannot be trusted: "
                f"{result.problem}; the sequence was not continued, others are not affected"
            )
        elif isinstance(result, Held):
            error = BusyError(f"the sequence is being served by {result.owner}", retry_after_s=0.25)
        elif isinstance(result, ServerError):
            error = result
        else:
            error = _store_trouble(result)
            if getattr(result, "fatal", False):
                self._on_fatal(result)
        self._refuse_waiting(model, sequence, error)
        return False

    def _refuse_waiting(self, model: Model, sequence: Sequence, error: ServerError) -> None:
        """Answer all waiting steps of a sequence with one error."""
        # Taken out first: a callback may send another step at once.
        refused = list(sequence.steps)
        sequence.steps.clear()
        self._rest(model, sequence)
        for step in refused:
            self._finish(step, error)

    def _apply(self, model: Model, sequence: Sequence, step: Step, number: int) -> bool:
        """Schedule a step of a live sequence; false if it was answered with an error."""
        handle = sequence.handle
        if handle is None:
            try:
                handle = sequence.handle = model.pinned(sequence)
            except ServerError as error:
                self._finish(step, error)
                return False
        if step.version and step.version != handle.version:
            msg = f"the sequence runs on version {handle.version} until its end"
            self._finish(step, ClientError(msg))
            return False
        problem = handle.check(step, first=False)
        state = sequence.state
        if problem is not None or state is None:
            self._finish(step, problem or StateDamagedError("a live record has no state"))
            return False
        self._schedule(handle, Work(handle, sequence, step, number, state))
        return True

    def _create(self, model: Model, sequence: Sequence, step: Step, restart: bool) -> bool:
        """Schedule the first step of an incarnation, if there is room."""
        steps = sequence.steps
        if not restart and model.max_live and self._live(model) >= model.max_live:
            if step.dialect.when_full is WhenFull.QUEUE and len(model.backlog) < model.max_backlog:
                self._wait_for_room(model, sequence, step)
                return True
            self._finish(steps.popleft(), SequenceLimitError(model.name, model.max_live))
            return False
        steps.popleft()
        unreachable = self._raise_level(step)
        if unreachable is not None:
            self._finish(step, unreachable)
            return False
        try:
            handle = model.handle(step.version)
            problem = handle.check(step, first=True)
            state = _NO_STATE if problem else handle.batcher.states.initial(step.inputs)
        except ServerError as error:
            self._finish(step, error)
            return False
        if problem is not None:
            self._finish(step, problem)
            return False
        work = Work(handle, sequence, step, 1, state)
        work.create = True
        work.incarnation = os.urandom(16)
        if restart and sequence.head is not None:
            work.replaces = sequence.head.incarnation
        else:
            model.creating += 1
        self._schedule(handle, work)
        return True

    def _raise_level(self, step: Step) -> ServerError | None:
        """Get ready for a sequence with more durability than the others have."""
        level = self.store.level
        if not step.level or LEVELS.index(step.level) <= LEVELS.index(level):
            step.level = level
            return None
        if level == Durability.NONE.value:
            return StoreUnavailableError(
                f"this server keeps sequences in memory only; it cannot reach level '{step.level}'"
            )
        # Its commits wait for the disk, which the event loop must not.
        self._committer.use_thread()
        return None

    def _live(self, model: Model) -> int:
        return self.store.live(model.name) + model.creating

    def _wait_for_room(self, model: Model, sequence: Sequence, step: Step) -> None:
        """Park a new sequence in the backlog; it begins when another ends."""
        sequence.in_backlog = True
        model.backlog.append(sequence)
        later = self._loop.call_later
        if step.queue_timeout_s:
            later(step.queue_timeout_s, self._backlog_timeout, model, sequence, step)
        if step.deadline is not None:
            later(step.deadline - self._clock(), self._backlog_deadline, model, sequence, step)

    def _waits_first(self, sequence: Sequence, step: Step) -> bool:
        return sequence.in_backlog and bool(sequence.steps) and sequence.steps[0] is step

    def _leave_backlog(self, model: Model, sequence: Sequence) -> None:
        model.backlog.remove(sequence)
        sequence.in_backlog = False

    def _clear_backlog(self, model: Model, error: ServerError) -> None:
        """Turn away all that waits for room; none will be made."""
        while model.backlog:
            waiting = model.backlog.popleft()
            waiting.in_backlog = False
            self._refuse_waiting(model, waiting, error)

    def _backlog_deadline(self, model: Model, sequence: Sequence, step: Step) -> None:
        if self._waits_first(sequence, step):
            self._leave_backlog(model, sequence)
            self._finish(sequence.steps.popleft(), DeadlineError())
            self._advance(model, sequence)

    def _backlog_timeout(self, model: Model, sequence: Sequence, step: Step) -> None:
        if not self._waits_first(sequence, step):
            return
        self._leave_backlog(model, sequence)
        error = BacklogTimeoutError("timeout of the corresponding sequence has been expired")
        self._refuse_waiting(model, sequence, error)

    def _room_was_made(self, model: Model) -> None:
        while model.backlog and (not model.max_live or self._live(model) < model.max_live):
            waiting = model.backlog.popleft()
            waiting.in_backlog = False
            self._advance(model, waiting)

    def _replay(
        self, model: Model, sequence: Sequence, step: Step, receipt: Receipt | None
    ) -> None:
        """Answer a repeat with the stored reply, byte for byte (D3)."""
        head = sequence.head
        if receipt is None or head is None:
            self._finish(step, StateDamagedError("a repeat was found without its receipt"))
            return
        try:
            headers, data = decode_reply(receipt.response)
        except ValueError as error:
            self._finish(step, StateDamagedError(str(error)))
            return
        handle = sequence.handle or model.versions.get(head.version)
        if handle is not None:
            handle.statistics.replayed += 1
        # A store that promises nothing has not kept the level that the sequence asked for.
        level = head.level if self.store.level != "none" else "none"
        self._finish(
            step,
            Reply(
                headers, data, sequence.key.correlation_id, receipt.step, head.version,
                replayed=True, durability=level, incarnation=head.incarnation,
            ),
        )  # fmt: skip

    # -- schedule and run -----------------------------------------------------------------

    def _schedule(self, handle: ModelHandle, work: Work) -> None:
        handle.scheduler.add(work)
        if not handle.wake_scheduled:
            handle.wake_scheduled = True
            # At the end of this turn of the loop: what arrives together runs together.
            self._loop.call_soon(self._pump, handle)

    def _pump(self, handle: ModelHandle) -> None:
        """Run whatever is ready on whatever instance is free."""
        handle.wake_scheduled = False
        scheduler = handle.scheduler
        while handle.free:
            now = self._clock()
            plan = scheduler.schedule(now)
            if not plan:
                break
            plan = self._still_wanted(plan, now)
            if not plan:
                continue
            queue_s = handle.statistics.queue_s
            for work in plan:
                queue_s.observe(now - work.arrived)
            if handle.inline:
                instance = handle.free[-1]
                self._ran(handle, plan, instance.run(plan))
                if len(scheduler) and not handle.wake_scheduled:
                    handle.wake_scheduled = True
                    self._loop.call_soon(self._pump, handle)
                return
            instance = handle.free.pop()
            handle.statistics.running += len(plan)
            instance.submit(plan, self._done_in_thread)
        if handle.timer is not None:
            handle.timer.cancel()
            handle.timer = None
        wake_at = scheduler.wake_at() if handle.free else None
        if wake_at is not None:
            # Apart from wake_scheduled: whoever makes the batch full must not wait for it.
            delay_s = max(0.0, wake_at - self._clock())
            handle.timer = self._loop.call_later(delay_s, self._pump, handle)

    def _still_wanted(self, plan: list[Work], now: float) -> list[Work]:
        """Drop steps that were cancelled, or whose deadline passed, while they waited."""
        wanted = []
        for work in plan:
            step = work.step
            if step.cancelled:
                self._fail(work, CancelledStepError())
            elif step.deadline is not None and step.deadline <= now:
                self._fail(work, DeadlineError())
            else:
                wanted.append(work)
        return wanted

    def _done_in_thread(self, instance: Instance, plan: list[Work], outcome: BatchOutcome) -> None:
        self._loop.call_soon_threadsafe(self._back_on_loop, instance, plan, outcome)

    def _back_on_loop(self, instance: Instance, plan: list[Work], outcome: BatchOutcome) -> None:
        handle = instance.handle
        handle.statistics.running -= len(plan)
        handle.free.append(instance)
        self._ran(handle, plan, outcome)
        if len(handle.scheduler):
            self._pump(handle)

    # -- commit and publish -----------------------------------------------------------------

    def _ran(self, handle: ModelHandle, plan: list[Work], outcome: BatchOutcome) -> None:
        """Count a model call and commit the rows that succeeded."""
        handle.note_call(outcome.compute_s)
        statistics = handle.statistics
        statistics.batches += 1
        statistics.retried_rows += outcome.retried
        statistics.batch_size.observe(len(plan))
        statistics.compute_s.observe(outcome.compute_s)
        calls = statistics.batch_seconds.setdefault(len(plan), [0, 0.0])
        calls[0] += 1
        calls[1] += outcome.compute_s
        done: list[tuple[Work, RowResult]] = []
        for work, row in zip(plan, outcome.rows, strict=True):
            if isinstance(row, ServerError):
                self._fail(work, row)
            else:
                done.append((work, row))
        if not done:
            return
        if handle.stateful:
            self._commit(handle, done)
        else:
            for work, row in done:
                statistics.applied += 1
                self._finish(work.step, self._reply(work, row, "none", b""))

    def _commit(self, handle: ModelHandle, done: list[tuple[Work, RowResult]]) -> None:
        sent: list[tuple[Work, RowResult]] = []
        batch: list[Commit] = []
        replies: list[Reply] = []
        now = self._clock()
        for work, row in done:
            head = work.sequence.head
            incarnation = work.incarnation or (head.incarnation if head else b"")
            try:
                reply = self._reply(work, row, self.store.level, incarnation)
                batch.append(self._entry(handle, work, row, reply, now))
            except Exception as error:  # an output that no receipt can hold, for one
                log.exception("step_not_committed", model=handle.name)
                self._fail(work, _internal(error))
                continue
            replies.append(reply)
            sent.append((work, row))
        if sent:
            self._send_commit(handle, sent, batch, replies)

    def _send_commit(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        replies: list[Reply],
    ) -> None:
        """Commit a batch; an unknown outcome is asked for again with the identical commit."""
        started = time.perf_counter()

        def finished(results: list[CommitResult] | Exception, tries: int = 1) -> None:
            if not isinstance(results, Exception):
                handle.statistics.commit_s.observe(time.perf_counter() - started)
                self._publish(handle, done, batch, replies, results)
            elif isinstance(results, StorageFullError):  # the one that says: nothing was written
                for work, _row in done:
                    self._fail(work, results)
            elif getattr(results, "fatal", False):
                self._on_fatal(results)
            elif tries < COMMIT_TRIES:
                # The outcome is unknown: the identical commit finds out (Ok or Duplicate).
                self._loop.call_later(
                    random.uniform(0.01, 0.2),  # noqa: S311 - jitter
                    self._committer.commit,
                    batch,
                    functools.partial(finished, tries=tries + 1),
                )
            else:
                self._give_up(done, results)

        self._committer.commit(batch, finished)

    def _entry(
        self, handle: ModelHandle, work: Work, row: RowResult, reply: Reply, now: float
    ) -> Commit:
        step, head = work.step, work.sequence.head
        receipt = Receipt(
            work.number, step.request_id.encode(), step.digest,
            handle.receipts.encode(reply.headers, reply.data),
        )  # fmt: skip
        state = _NO_STATE if step.end else row.state
        end = EndReason.ENDED if step.end else None
        waited = now - step.arrived
        if work.create or head is None:
            config = handle.config.sequences
            return Commit(
                work.sequence.key, work.incarnation, 1, 1, (receipt,), state, True, work.replaces,
                end, handle.version, handle.digest, step.dialect.name,
                config.idle_timeout_s if step.ttl_s is None else step.ttl_s,
                step.level, waited,
            )  # fmt: skip
        keep = handle.config.sequences.receipts
        receipts = (receipt,) if keep == 1 else (*head.receipts, receipt)[-keep:]
        return Commit(
            work.sequence.key, head.incarnation, head.epoch, work.number, receipts, state, False,
            b"", end, handle.version, handle.digest, head.dialect, head.ttl_s, head.level, waited,
        )  # fmt: skip

    @staticmethod
    def _reply(work: Work, row: RowResult, level: str, incarnation: bytes) -> Reply:
        headers, data = row.headers, row.data
        if work.step.outputs:
            headers, picks = work.handle.batcher.outputs.subset(headers, work.step.outputs)
            if picks:
                data = tuple([data[at] for at in picks])
        return Reply(
            headers, data, work.sequence.key.correlation_id, work.number, work.handle.version,
            False, level, incarnation,
        )  # fmt: skip

    def _publish(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        replies: list[Reply],
        results: list[CommitResult],
    ) -> None:
        """Move memory forward for what was committed; decide the rest again (D5)."""
        model = self._models.get(handle.name) or Model(handle.name)
        statistics = handle.statistics
        statistics.last_step_at = time.time()
        if self.observers:
            self._tell_observers(handle, done, batch, results)
        for (work, row), entry, reply, result in zip(done, batch, replies, results, strict=True):
            try:
                self._publish_row(work, row, entry, reply, result)
            except Exception as error:
                # The commit stands or not: the record knows, the copy does not (D5).
                log.exception("step_not_published", model=handle.name)
                self._forget(work.sequence)
                self._finish(work.step, _internal(error))
            if work.create and not work.replaces:
                model.creating -= 1
        for work, _row in done:
            sequence = work.sequence
            if sequence.steps:
                self._advance(model, sequence)
            else:
                self._rest(model, sequence)
        if model.backlog:
            self._room_was_made(model)

    def _tell_observers(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        results: list[CommitResult],
    ) -> None:
        for observer in self.observers:
            try:
                observer(handle, done, batch, results)
            except Exception:
                # Whoever watches must not hurt who is watched.
                log.exception("observer_failed", model=handle.name)

    def _publish_row(
        self, work: Work, row: RowResult, entry: Commit, reply: Reply, result: CommitResult
    ) -> None:
        """Act on the store's answer to one entry of a batch (D6)."""
        fault("commit.before_publish")
        sequence = work.sequence
        if type(result) is Ok:
            reply.durability = result.level
            work.handle.statistics.applied += 1
            self._moved(work, entry, row)
            self._finish(work.step, reply)
        elif isinstance(result, Duplicate):
            # This very commit stands already: a reply was lost between the store and us.
            # Its bytes are the reply, whoever computed them (D3).
            work.handle.statistics.applied += 1
            reply.headers, reply.data = decode_reply(result.receipt.response)
            self._moved(work, entry, row)
            self._forget(sequence)
            self._finish(work.step, reply)
        elif sequence.contested >= MOST_CONFLICTS:
            sequence.contested = 0
            self._forget(sequence)
            error = BusyError("others keep moving this sequence; try again", retry_after_s=0.25)
            work.handle.statistics.failed[error.code] += 1
            self._finish(work.step, error)
        else:  # Fenced, Conflict, Gone: read the record and decide again
            sequence.contested += 1
            self._forget(sequence)
            sequence.steps.appendleft(work.step)

    def _moved(self, work: Work, entry: Commit, row: RowResult) -> None:
        """A step is committed: the copy in memory follows the record."""
        sequence, handle = work.sequence, work.handle
        head = sequence.head
        if work.create:
            handle.statistics.opened += 1
            if work.replaces:
                self._count_end(handle, sequence.key.correlation_id, EndReason.DISPLACED)
            head = sequence.head = RecordHead(
                entry.incarnation, 1, 1, entry.receipts, entry.version, entry.model_digest,
                entry.dialect, time.time(), entry.ttl_s, entry.level,
            )  # fmt: skip
            # A version that was replaced meanwhile takes no further step.
            sequence.handle = handle if handle.ready else None
            if handle.pinned is not None:  # it gave way while this step was under way
                handle.pinned[sequence.key] = entry.incarnation
            self._resident_bytes += row.state.nbytes
            if sequence.state is not None:
                self._resident_bytes -= sequence.state.nbytes
        elif head is not None:
            head.step = entry.step
            head.receipts = entry.receipts
            if head.model_digest is not entry.model_digest:
                head.version, head.model_digest = entry.version, entry.model_digest
            if not handle.batcher.states.fixed and sequence.state is not None:
                self._resident_bytes += row.state.nbytes - sequence.state.nbytes
        sequence.state = row.state
        sequence.contested = 0
        if entry.end is not None:
            self._count_end(handle, sequence.key.correlation_id, entry.end)
            self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        """Drop the copy of a sequence; the store has the truth (D5)."""
        if sequence.state is not None:
            self._resident_bytes -= sequence.state.nbytes
        sequence.forget()

    def _count_end(self, handle: ModelHandle, cid: CorrelationId, reason: EndReason) -> None:
        handle.statistics.ended[reason.name.lower()] += 1
        for instance in handle.instances:
            try:
                instance.runtime.sequence_ended(cid, reason)
            except Exception:
                # The model's own code; the sequence is over whatever it says.
                log.exception("sequence_ended_hook_failed", model=handle.name)

    def _give_up(self, done: list[tuple[Work, RowResult]], error: Exception) -> None:
        log.error("commit_unknown", error=str(error), steps=len(done))
        answer: ServerError = StoreUnavailableError(
            "the store did not answer and it is not known whether the step was committed; "
            "send it again with its step number",
            retry_after_s=0.5,
        )
        if isinstance(error, StateDamagedError):
            answer = error
        for work, _row in done:
            self._forget(work.sequence)
            self._fail(work, answer)

    # -- ends of steps ------------------------------------------------------------------------

    def _fail(self, work: Work, error: ServerError) -> None:
        """Answer a scheduled step with an error; its sequence is as it was and goes on."""
        work.handle.statistics.failed[error.code] += 1
        model = self._models.get(work.handle.name)
        if work.create and not work.replaces and model is not None:
            model.creating -= 1
        self._finish(work.step, error)
        if work.handle.stateful and model is not None:
            sequence = work.sequence
            if sequence.steps:
                self._advance(model, sequence)
            else:
                self._rest(model, sequence)
            if model.backlog:
                self._room_was_made(model)

    def _finish(self, step: Step, outcome: Reply | ServerError) -> None:
        self._unanswered -= 1
        model = self._models.get(step.model)
        if model is not None and model.unanswered:
            model.unanswered -= 1
        try:
            step.done(outcome)
        except Exception:
            log.exception("reply_callback_failed", model=step.model)
        if self.draining and not self._unanswered:
            self._quiet.set()

    def _rest(self, model: Model, sequence: Sequence) -> None:
        """A sequence has nothing to do: keep its copy while there is room."""
        sequence.busy = sequence.fresh = False
        if not sequence.live:
            model.sequences.pop(sequence.key.correlation_id, None)
            self._idle.pop(sequence, None)
            return
        if self.max_resident_bytes:
            self._idle[sequence] = model
            self._idle.move_to_end(sequence)
            if self._resident_bytes > self.max_resident_bytes:
                self._park()

    def _park(self) -> None:
        """Let go of the longest idle copies until the rest fits; the store has them all."""
        while self._idle and self._resident_bytes > self.max_resident_bytes:
            sequence, model = self._idle.popitem(last=False)
            if not sequence.busy:
                self._drop(model, sequence)

    def _drop(self, model: Model, sequence: Sequence) -> None:
        self._idle.pop(sequence, None)
        self._forget(sequence)
        model.sequences.pop(sequence.key.correlation_id, None)

    # -- sequences ------------------------------------------------------------------------------

    def sequences(self, model: str | None = None) -> Iterator[Listed]:
        """Live sequences in the store, oldest first."""
        return self.store.list(model)

    async def manage(self, function: Callable[[Store], Any]) -> Any:
        """Call the store in turn with the steps (fork, export, delete ...)."""
        return await self._committer.run(lambda: function(self.store))

    def release(self, key: SequenceKey) -> None:
        """Drop the copy in memory after the record was changed from outside the engine.

        A copy in use is dropped before the next step is decided; the step that runs on it
        meets the change in the store (D4).
        """
        model = self._models.get(key.model)
        sequence = model.sequences.get(key.correlation_id) if model else None
        if model is None or sequence is None:
            return
        if sequence.busy:
            sequence.loaded = sequence.fresh = False
        else:
            self._drop(model, sequence)

    def began(self, key: SequenceKey, version: str) -> None:
        """Count a sequence that was made from outside."""
        self.release(key)
        model = self._models.get(key.model)
        handle = model.versions.get(version) if model else None
        if handle is not None:
            handle.statistics.opened += 1

    def ended(self, key: SequenceKey, version: str, reason: EndReason) -> None:
        """Count a sequence that was ended from outside, and let others into its place."""
        self.release(key)
        model = self._models.get(key.model)
        if model is None:
            return
        handle = model.versions.get(version)
        if handle is not None:
            self._count_end(handle, key.correlation_id, reason)
        self._room_was_made(model)

    def room(self, name: str) -> SequenceLimitError | None:
        """Why no further sequence of a model may be made from outside; ``None`` = it may."""
        model = self._models.get(name)
        if model is None or not model.max_live or self._live(model) < model.max_live:
            return None
        return SequenceLimitError(name, model.max_live)

    def fitting(self, name: str, head: RecordHead, state: StateRow) -> ModelHandle:
        """Find the served version that goes on with a state (D8).

        Raises:
            UnknownModelError: It is not served.
            ModelChangedError: The version has other content than the one that wrote it.
            StateDamagedError: The state does not have the model's shapes.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(name)
        return model.fitting(head, state)

    def resident(self, key: SequenceKey) -> bool:
        """Whether the state of a sequence is in memory."""
        sequence = self._in_memory(key)
        return sequence is not None and sequence.state is not None

    def waiting(self, key: SequenceKey) -> int:
        """Steps of a sequence that are not answered yet, the running one left out."""
        sequence = self._in_memory(key)
        return 0 if sequence is None else len(sequence.steps)

    def _in_memory(self, key: SequenceKey) -> Sequence | None:
        model = self._models.get(key.model)
        return model.sequences.get(key.correlation_id) if model else None

    # -- housekeeping -----------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Expire what is idle, let the store tidy up."""
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.sweep()
                await self._maintain()
                for model in [m for m in self._models.values() if m.lingering]:
                    await self._succession.look_after(model)
                    self._forget_empty(model)
            except Exception as error:
                # The next round may go better; idle sequences must not pile up for ever.
                log.exception("sweep_failed")
                if getattr(error, "fatal", False):
                    self._on_fatal(error)
            self._look_after_store()

    async def _maintain(self) -> None:
        """Let the store make room, in slices that steps hardly notice."""
        maintain: Callable[[float], bool] | None = getattr(self.store, "maintain", None)
        if maintain is None:
            return
        for _slice in range(MOST_SLICES):
            if not await self.manage(lambda _store: maintain(SLICE_S)):
                return
            await asyncio.sleep(SLICE_S * 4)

    def _look_after_store(self) -> None:
        """Say once that the store cannot write, and once that it can again."""
        found = self.store.statistics()
        if found.writable is not self._writable:
            self._writable = found.writable
            if found.writable:
                log.warning("store_writable_again")
            else:
                log.error("store_not_writable", problem=found.problem)

    async def sweep(self, limit: int = 1000) -> int:
        """End expired sequences; a step in flight or waiting stops the idle clock."""
        expired = await self.manage(lambda store: store.sweep(limit, _Busy(self._models)))
        for key, head in expired:
            if is_reserved(key.correlation_id):
                continue  # a snapshot whose time is over
            self.ended(key, head.version, EndReason.EXPIRED)
            log.info("sequence_expired", model=key.model, steps=head.step)
        for model in self._models.values():
            if model.backlog:  # other nodes make room, too
                self._room_was_made(model)
        return len(expired)


class _Busy:
    """Keys with a step waiting or in flight; asked by the store during a sweep."""

    def __init__(self, models: dict[str, Model]) -> None:
        self._models = models

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple):
            return False
        model = self._models.get(key[0])
        sequence = model.sequences.get(key[1]) if model else None
        return sequence is not None and (sequence.busy or bool(sequence.steps))


def _with_age(error: ServerError | None, head: RecordHead | None) -> ServerError:
    """Tell how long ago an ended sequence ended."""
    if error is None:
        return ServerError("the step was refused")
    if isinstance(error, UnknownSequenceError) and head is not None and head.ending is not None:
        ago_s = max(0.0, time.time() - head.ending.at)
        return UnknownSequenceError(error.correlation_id, head.ending, ago_s)
    return error


def _store_trouble(error: Exception) -> ServerError:
    if isinstance(error, ServerError):
        return error
    return StoreUnavailableError(f"the store did not answer: {error}", retry_after_s=0.2)


def _internal(error: Exception) -> ServerError:
    return ServerError(
        f"the step failed inside the server: {type(error).__name__}: {error}; "
        "send it again with its step number"
    )


def _try(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - told apart by the caller
        return error


def _die(error: Exception) -> None:
    log.critical("store_cannot_be_trusted", error=str(error))
    os._exit(70)
