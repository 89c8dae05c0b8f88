"""The engine: admit, decide, schedule, run, commit, publish. The one door is ``submit``.

It lives on one event loop and is never awaited for a step: a step carries a
callback. Three beats, always in this order: plan, run, commit. Until the commit
nothing that a reader of the sequence could see has changed (D1, D2).
"""

from __future__ import annotations

import asyncio
import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from legato.core.errors import (
    BacklogTimeoutError,
    CancelledStepError,
    ConfigError,
    DeadlineError,
    DrainingError,
    InstanceGoneError,
    NoSlotError,
    SequenceLimitError,
    ServerError,
    StateLostError,
    UnknownModelError,
)
from legato.core.ids import is_reserved
from legato.core.types import (
    EndReason,
    RecordHead,
    Reply,
    SequenceKey,
    StateRow,
)
from legato.engine import process
from legato.engine.admission import Admission
from legato.engine.asking import ask
from legato.engine.batch import Unfinished
from legato.engine.commits import Commits
from legato.engine.committer import Committer
from legato.engine.findings import tell_findings
from legato.engine.model import ModelHandle
from legato.engine.queueing import QueueRules
from legato.engine.residence import Residence
from legato.engine.succession import Succession
from legato.engine.table import Model
from legato.engine.warmup import warm_up
from legato.engine.workers import Workers
from legato.observe.log import get_logger
from legato.repository.loader import content_digest
from legato.runtimes import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from legato.core.types import CorrelationId, Step
    from legato.engine.batch import BatchOutcome, Row, RowResult
    from legato.engine.instance import Instance
    from legato.engine.suspicion import Suspicion
    from legato.engine.work import Sequence, Work
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import Runtime
    from legato.stores.base import (
        Commit,
        CommitResult,
        Listed,
        Store,
    )

    Observer = Callable[
        [ModelHandle, list[tuple[Work, RowResult]], list[Commit], list[CommitResult]], None
    ]

log = get_logger()

COMMIT_TRIES = 3
MOST_CONFLICTS = 8
MOST_SLICES = 50
SLOT_LOOK_S = 0.05
SLICE_S = 0.002
_NO_STATE = StateRow((), ())


class Engine:
    """Serves sequences of any number of models on one store.

    Args:
        store: Where committed state lives.
        clock: Monotonic seconds.
        owner: Name of this server among the users of the store.
        max_resident_bytes: Bound on the memory of idle sequences that are kept there
            (0 = none); beyond it the least recently used are parked.
        max_queued: Bound on unanswered steps, all models together.
        on_fatal: Called when the store can no longer be trusted; must end the process.
        suspicion: What is known of steps that crashed the process before this one.
        return_s: Seconds after the start in which no sequence of the store grows idle, for
            clients to come back.

    Attributes:
        observers: Told of every batch that was committed, before its replies leave; each
            must return at once. None by default, and then they cost nothing.
        decoupled: Names of models that may answer a step any number of times.
        unloaded: Names of models that were served once and are not now.
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
        return_s: float = 0.0,
    ) -> None:
        self.store = store
        self._return_s = return_s
        self.ready = False
        self.draining = False
        self.max_queued = max_queued
        self.clock = clock
        self.owner = owner
        self.suspicion = suspicion
        self.on_fatal = on_fatal or _die
        self._writable = True
        self.tables: dict[str, Model] = {}
        self.decoupled: set[str] = set()
        self.unloaded: set[str] = set()
        self.unanswered = 0
        self.residence = Residence(max_resident_bytes)
        self.loop: asyncio.AbstractEventLoop
        self.committer: Committer
        self._ticker: asyncio.Task[None] | None = None
        self._quiet = asyncio.Event()
        self._succession = Succession(self.manage, self._retire, clock)
        self._workers = Workers(self._pump, self.fail)
        self.admission = Admission(self)
        self.commits = Commits(self)

    def __repr__(self) -> str:
        return f"<Engine models={len(self.tables)} unanswered={self.unanswered}>"

    # -- life ---------------------------------------------------------------------------

    async def start(self) -> None:
        """Bind to the running loop and begin housekeeping."""
        self.loop = asyncio.get_running_loop()
        self.committer = Committer(self.store, self.loop)
        self._ticker = asyncio.create_task(self._tick(), name="legato-ticker")
        self.store.begin(self._return_s if self.store.statistics().live else 0.0)
        self.ready = True

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and finish what is in flight; false if time ran out."""
        self.draining = True
        self._quiet.clear()
        for model in self.tables.values():
            self.admission.clear_backlog(model, DrainingError())
        if self.unanswered:
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
        for model in self.tables.values():
            for handle in (*model.versions.values(), *model.lingering):
                for instance in handle.instances:
                    instance.close()
        self.tables.clear()
        await self._workers.closed()
        if hasattr(self, "committer"):
            self.committer.close()
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
        runtimes = await self._build(config, config.instances)
        signature = None if runtimes else registry.signature_of(config)
        handle = ModelHandle(config, runtimes, digest, signature)
        handle.post = asyncio.get_running_loop().call_soon_threadsafe  # models come before start()
        handle.ask_other = partial(ask, self, handle)
        for instance in handle.instances:
            instance.suspicion = self.suspicion
        if config.queue is not None and not handle.stateful:
            later = asyncio.get_running_loop().call_later
            handle.queue_rules = QueueRules(config.queue, self.fail, later)
        model = self.tables.get(config.name)
        if model is None:
            model = self.tables[config.name] = Model(config.name)
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
        often = config.decoupled or handle.signature.decoupled
        (self.decoupled.add if often else self.decoupled.discard)(config.name)
        self.unloaded.discard(config.name)
        if old is not None:
            await self._let_go(model, [old], keep_sequences=keep_sequences)
        self.admission.room_was_made(model)  # the limit may have grown
        log.info("model_loaded", model=handle.name, version=handle.version, digest=digest)
        tell_findings(handle, runtimes)
        return handle

    async def _build(self, config: ModelConfig, count: int) -> list[Runtime]:
        """Load so many copies of a model, off the loop."""
        build: Callable[[ModelConfig], Runtime] = registry.build
        if config.instance == "process":
            build = process.build
        runtimes: list[Runtime] = []
        try:
            while len(runtimes) < count:
                # What loading found out (states, axes, the gate) need not be found out again.
                clone = getattr(runtimes[0], "clone", None) if runtimes else None
                runtimes += [await asyncio.to_thread(clone or partial(build, config))]
                if config.warmup:
                    await asyncio.to_thread(warm_up, runtimes[-1], config)
        except BaseException:
            for runtime in runtimes:
                runtime.close()
            raise
        return runtimes

    async def scale(self, handle: ModelHandle, least: int, most: int) -> int:
        """Run at least and at most so many instances of a model version from now on.

        Nothing happens to a number in between. Instances that go finish the plan in hand;
        no sequence loses its state.

        Returns:
            How many there are.

        Raises:
            ConfigError: The bounds are wrong, or a further copy cannot be loaded.
        """
        if not 0 <= least <= most:
            raise ConfigError(f"cannot run between {least} and {most} instances")
        async with handle.scaling:
            while handle.serving and len(handle.instances) < least:
                (runtime,) = await self._build(handle.config, 1)
                instance = handle.make_instance(runtime)
                instance.suspicion = self.suspicion
                if not handle.serving:  # unloaded meanwhile
                    await asyncio.to_thread(instance.close)
                    break
                self._workers.add(handle, instance)
            if len(handle.instances) > most:
                await self._workers.shrink(handle, len(handle.instances) - most)
            log.info("model_scaled", model=handle.name, instances=len(handle.instances))
            return len(handle.instances)

    async def _let_go(self, model: Model, gone: list[ModelHandle], *, keep_sequences: bool) -> None:
        """Free versions that are served no more, or let their sequences go on to their end."""
        kept = [h for h in gone if keep_sequences and h.stateful and not model.continues(h)]
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
        model = self.tables.get(name)
        gone = (
            []
            if model is None
            else [handle for handle in model.versions.values() if version in ("", handle.version)]
        )
        if model is None or not gone:
            raise UnknownModelError(name, version)
        for handle in gone:
            model.remove(handle)
        if not version and not keep_sequences:  # nor do the sequences go on that outlived theirs
            gone += model.lingering
            model.lingering.clear()
        if not model.versions:
            self.unloaded.add(name)
            self.admission.clear_backlog(model, UnknownModelError(name, unloaded=True))
        await self._let_go(model, gone, keep_sequences=keep_sequences)
        for sequence in list(model.sequences.values()):
            if sequence.handle is None and not sequence.busy:
                self.residence.drop(model, sequence)
        self._forget_empty(model)

    def _forget_empty(self, model: Model) -> None:
        used = model.versions or model.lingering or model.sequences
        if not used and self.tables.get(model.name) is model:
            del self.tables[model.name]

    async def _retire(self, handle: ModelHandle) -> None:
        handle.serving = False
        # Polled, because it is rare: an event would cost every model call.
        while (
            handle.late
            or len(handle.scheduler)
            or len(handle.free) + len(handle.down) < len(handle.instances)
        ):
            if len(handle.down) == len(handle.instances):
                self._workers.refuse(handle)
            await asyncio.sleep(0.005)
        for instance in list(handle.instances):
            await asyncio.to_thread(instance.close)

    def _forget_pinned(self, model: Model, handle: ModelHandle) -> None:
        for sequence in model.sequences.values():
            if sequence.handle is handle:
                self.residence.pin(sequence, None)

    def model(self, name: str, version: str = "") -> ModelHandle:
        """Find a served model version; "" = the default one.

        Raises:
            UnknownModelError: It is not served.
        """
        model = self.tables.get(name)
        if model is None:
            raise UnknownModelError(name, version)
        return model.handle(version)

    def prefer(self, name: str, version: str) -> None:
        """Make a version the one that new sequences get; "" = the highest one again.

        Raises:
            UnknownModelError: It is not served.
        """
        model = self.tables.get(name)
        if model is None or (version and version not in model.versions):
            raise UnknownModelError(name, version)
        model.prefer(version)

    def models(self) -> list[ModelHandle]:
        """All served versions, with their gauges brought up to date."""
        handles = []
        for model in self.tables.values():
            live = self.store.live(model.name) if model.stateful else 0
            for handle in model.versions.values():
                model.refresh(handle, live)
                handles.append(handle)
        return handles

    # -- steps --------------------------------------------------------------------------

    def submit(self, step: Step) -> None:
        """Take a step. Never raises: ``step.done`` gets a Reply or a ServerError, once."""
        self.unanswered += 1
        problem = self.admission.admit(step)
        if problem is not None:
            self.finish(step, problem)

    def cancel(self, step: Step) -> None:
        """Drop a step that has not begun; one that runs is finished and committed."""
        step.cancelled = True
        model = self.tables.get(step.model)
        sequence = model.sequences.get(step.correlation_id or 0) if model else None
        if model is None or sequence is None or step not in sequence.steps:
            return
        head = sequence.steps[0] is step
        sequence.steps.remove(step)
        self.finish(step, CancelledStepError())
        if head and sequence.in_backlog:
            self.admission.leave_backlog(model, sequence)
            self.admission.advance(model, sequence)

    # -- schedule and run -----------------------------------------------------------------

    def schedule(self, handle: ModelHandle, work: Work) -> None:
        """Make a decided step ready to run."""
        if handle.line is not None:
            handle.line.enter(work.step)
        handle.scheduler.add(work)
        if not handle.wake_scheduled:
            handle.wake_scheduled = True
            # At the end of this turn of the loop: what arrives together runs together.
            self.loop.call_soon(self._pump, handle)

    def _company(self, handle: ModelHandle) -> int | None:
        """How many rows a batch can wait for, where that is known."""
        if not handle.waits_for_live:
            return None
        model = self.tables.get(handle.name)
        return None if model is None else self.admission.live(model)

    def _pump(self, handle: ModelHandle) -> None:
        """Run whatever is ready on whatever instance is free."""
        handle.wake_scheduled = False
        scheduler = handle.scheduler
        while handle.free:
            now = self.clock()
            plan = scheduler.schedule(now, self._company(handle))
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
                    self.loop.call_soon(self._pump, handle)
                return
            chosen = self._workers.choose(handle, plan)
            handle.statistics.running += len(plan)
            if chosen is not None:
                chosen.submit(plan, self._done_in_thread)
        if len(scheduler) and len(handle.down) == len(handle.instances):
            self._workers.refuse_hopeless(handle)
        if handle.timer is not None:
            handle.timer.cancel()
            handle.timer = None
        wake_at = scheduler.wake_at() if handle.free else None
        if wake_at is not None:
            # Apart from wake_scheduled: whoever makes the batch full must not wait for it.
            delay_s = max(0.0, wake_at - self.clock())
            handle.timer = self.loop.call_later(delay_s, self._pump, handle)

    def _still_wanted(self, plan: list[Work], now: float) -> list[Work]:
        """Drop steps that were cancelled, or whose deadline passed, while they waited."""
        wanted = []
        for work in plan:
            step = work.step
            if step.cancelled:
                self.fail(work, CancelledStepError())
            elif step.deadline is not None and step.deadline <= now:
                self.fail(work, DeadlineError())
            else:
                wanted.append(work)
        return wanted

    def _done_in_thread(self, instance: Instance, plan: list[Work], outcome: BatchOutcome) -> None:
        self.loop.call_soon_threadsafe(self._back_on_loop, instance, plan, outcome)

    def _back_on_loop(self, instance: Instance, plan: list[Work], outcome: BatchOutcome) -> None:
        handle = instance.handle
        handle.statistics.running -= len(plan)
        waiting = None
        if self._workers.ran(instance, plan, outcome):
            handle.free.append(instance)
            waiting = self._workers.waiting(instance)
        self._ran(handle, plan, outcome)
        if waiting is not None:
            instance.submit(waiting, self._done_in_thread)
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
        self._settle(handle, zip(plan, outcome.rows, strict=True))

    def _late(self, handle: ModelHandle, work: Work, row: RowResult | ServerError) -> None:
        """A row is answered that its call had left open."""
        handle.late -= 1
        self._settle(handle, [(work, row)])
        if len(handle.scheduler):
            self._pump(handle)

    def _settle(self, handle: ModelHandle, rows: Iterable[tuple[Work, Row]]) -> None:
        """Commit the rows that succeeded, and see what becomes of the others."""
        done: list[tuple[Work, RowResult]] = []
        for work, row in rows:
            if isinstance(row, ServerError):
                self._see_to(work, row)
            elif isinstance(row, Unfinished):
                handle.late += 1
                row.attach(partial(handle.post, self._late, handle, work))
            else:
                done.append((work, row))
        if not done:
            return
        if handle.stateful:
            self.commits.commit(handle, done)
        else:
            statistics = handle.statistics
            for work, row in done:
                statistics.applied += 1
                if row.again is not None:
                    self.commits.tell_part(work, row.again)
                    self.schedule(handle, work)
                    continue
                self.finish(work.step, self.commits.reply(work, row, "none", b""))

    def _see_to(self, work: Work, error: ServerError) -> None:
        """A row failed: answer its step, or have it run again where that helps."""
        if isinstance(error, InstanceGoneError):
            problem = self._workers.retry(work, error)
            if problem is not None:
                self.fail(work, problem)
        elif isinstance(error, NoSlotError):
            self._wait_for_slot(work, error)
        elif isinstance(error, StateLostError) and work.sequence.head is not None:
            self._lose(work, error)
        else:
            self.fail(work, error)

    def _wait_for_slot(self, work: Work, error: NoSlotError) -> None:
        """Try again soon, as long as the step may wait: others end meanwhile, or expire."""
        limit_s = work.step.queue_timeout_s
        if limit_s and self.clock() - work.step.arrived >= limit_s:
            self.fail(work, BacklogTimeoutError(error.message))
        else:
            self.loop.call_later(SLOT_LOOK_S, self._look_for_slot, work, error)

    def _look_for_slot(self, work: Work, error: NoSlotError) -> None:
        if self.draining or not work.handle.serving:
            self.fail(work, error)
        else:
            self.schedule(work.handle, work)

    def _lose(self, work: Work, error: StateLostError) -> None:
        """End a sequence whose state is gone; its steps are decided again, and so told of it."""
        sequence, handle = work.sequence, work.handle
        head = sequence.head
        incarnation = head.incarnation if head is not None else b""

        def ended(result: Any) -> None:
            if isinstance(result, Exception):
                log.error("sequence_not_ended", model=handle.name, error=str(result))
                self.fail(work, error)
                return
            log.warning("sequence_lost", model=handle.name, sequence=str(sequence.key[1]))
            self.count_end(handle, sequence.key.correlation_id, EndReason.LOST)
            self.residence.forget(sequence)
            sequence.bound, sequence.home = False, None
            sequence.steps.insert(0, work.step)
            model = self.tables.get(handle.name) or Model(handle.name)
            self.admission.go_on(model, sequence)
            self.admission.room_was_made(model)

        self.committer.call(
            lambda: self.store.delete(sequence.key, incarnation, EndReason.LOST), ended
        )

    def count_end(self, handle: ModelHandle, cid: CorrelationId, reason: EndReason) -> None:
        """Count the end of a sequence and tell the model."""
        handle.statistics.ended[reason.name.lower()] += 1
        for instance in handle.instances:
            try:
                instance.runtime.sequence_ended(cid, reason)
            except Exception:
                # The model's own code; the sequence is over whatever it says.
                log.exception("sequence_ended_hook_failed", model=handle.name)

    # -- ends of steps ------------------------------------------------------------------------

    def fail(self, work: Work, error: ServerError) -> None:
        """Answer a scheduled step with an error; its sequence is as it was and goes on."""
        if work.step.again:
            work.step.request_id = work.step.asked_as
        model = self.tables.get(work.handle.name)
        if work.create and not work.replaces and model is not None:
            model.creating -= 1
        self.finish(work.step, error, work.handle)
        if work.handle.stateful and model is not None:
            self.admission.go_on(model, work.sequence)
            if model.backlog:
                self.admission.room_was_made(model)

    def finish(
        self, step: Step, outcome: Reply | ServerError, handle: ModelHandle | None = None
    ) -> None:
        """Answer a step; errors are counted for ``handle``, or the model's default version."""
        self.unanswered -= 1
        model = self.tables.get(step.model)
        if model is not None:
            model.unanswered -= 1
            if isinstance(outcome, ServerError):
                counted = handle or model.default
                if counted is not None:
                    counted.statistics.failed[outcome.code] += 1
                    counted.statistics.failed_s += self.clock() - (step.arrived or self.clock())
        try:
            step.done(outcome)
        except Exception:
            log.exception("reply_callback_failed", model=step.model)
        if self.draining and not self.unanswered:
            self._quiet.set()

    def refused(self, name: str, error: ServerError) -> None:
        """Count a request that a protocol refused before it was a step."""
        model = self.tables.get(name)
        if model is not None and model.default is not None:
            model.default.statistics.failed[error.code] += 1

    # -- sequences ------------------------------------------------------------------------------

    def sequences(self, model: str | None = None) -> Iterator[Listed]:
        """Live sequences in the store, oldest first."""
        return self.store.list(model)

    async def manage(self, function: Callable[[Store], Any]) -> Any:
        """Call the store in turn with the steps (fork, export, delete ...)."""
        return await self.committer.run(lambda: function(self.store))

    def release(self, key: SequenceKey) -> None:
        """Drop the copy in memory after the record was changed from outside the engine.

        A copy in use is dropped before the next step is decided; the step that runs on it
        meets the change in the store (D4).
        """
        model = self.tables.get(key.model)
        sequence = model.sequences.get(key.correlation_id) if model else None
        if model is None or sequence is None:
            return
        if sequence.busy:
            sequence.loaded = sequence.fresh = False
        else:
            self.residence.drop(model, sequence)

    def began(self, key: SequenceKey, version: str) -> None:
        """Count a sequence that was made from outside."""
        self.release(key)
        model = self.tables.get(key.model)
        handle = model.versions.get(version) if model else None
        if handle is not None:
            handle.statistics.opened += 1

    def ended(self, key: SequenceKey, version: str, reason: EndReason) -> None:
        """Count a sequence that was ended from outside, and let others into its place."""
        self.release(key)
        model = self.tables.get(key.model)
        if model is None:
            return
        handle = model.versions.get(version)
        if handle is not None:
            self.count_end(handle, key.correlation_id, reason)
        self.admission.room_was_made(model)

    def room(self, name: str) -> SequenceLimitError | None:
        """Why no further sequence of a model may be made from outside; ``None`` = it may."""
        model = self.tables.get(name)
        if model is None or not model.max_live or self.admission.live(model) < model.max_live:
            return None
        return SequenceLimitError(name, model.max_live)

    def fitting(self, name: str, head: RecordHead, state: StateRow) -> ModelHandle:
        """Find the served version that goes on with a state (D8).

        Raises:
            UnknownModelError: It is not served.
            ModelChangedError: The version has other content than the one that wrote it.
            StateDamagedError: The state does not have the model's shapes.
        """
        model = self.tables.get(name)
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
        model = self.tables.get(key.model)
        return model.sequences.get(key.correlation_id) if model else None

    # -- housekeeping -----------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Expire what is idle, let the store tidy up."""
        while True:
            await asyncio.sleep(1.0)
            for chore in (
                self._watch_workers, self.sweep, self._maintain, self._retire_old_versions,
            ):  # fmt: skip
                try:
                    await chore()
                except Exception as error:
                    # The next round may go better; idle sequences must not pile up for ever.
                    log.exception("chore_failed", chore=chore.__name__)
                    if getattr(error, "fatal", False):
                        self.on_fatal(error)
                self._look_after_store()

    async def _watch_workers(self) -> None:
        for model in self.tables.values():
            for handle in (*model.versions.values(), *model.lingering):
                self._workers.look_after(handle)

    async def _retire_old_versions(self) -> None:
        for model in [m for m in self.tables.values() if m.lingering]:
            await self._succession.look_after(model)
            self._forget_empty(model)

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
        expired = await self.manage(lambda store: store.sweep(limit, _Busy(self.tables)))
        for key, head in expired:
            if is_reserved(key.correlation_id):
                continue  # a snapshot whose time is over
            self.ended(key, head.version, EndReason.EXPIRED)
            log.info("sequence_expired", model=key.model, steps=head.step)
        for model in self.tables.values():
            if model.backlog:  # other nodes make room, too
                self.admission.room_was_made(model)
        return len(expired)


class _Busy:
    """Keys with a step waiting or in flight; asked by the store during a sweep."""

    def __init__(self, models: dict[str, Model]) -> None:
        self.tables = models

    def __contains__(self, key: object) -> bool:
        if not isinstance(key, tuple):
            return False
        model = self.tables.get(key[0])
        sequence = model.sequences.get(key[1]) if model else None
        return sequence is not None and (sequence.busy or bool(sequence.steps))


def _die(error: Exception) -> None:
    log.critical("store_cannot_be_trusted", error=str(error))
    os._exit(70)
