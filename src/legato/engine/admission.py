"""The first beat's front half: admit steps, decide them at the head of their sequence.

What a step means is decided by :func:`legato.core.decide.decide`; here its verdict is
carried out: scheduled, answered from a receipt, refused, or put into the backlog.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from typing import TYPE_CHECKING, Any

from legato.core.decide import Verdict, decide
from legato.core.errors import (
    BacklogTimeoutError,
    BusyError,
    CancelledStepError,
    ClientError,
    DeadlineError,
    DrainingError,
    InputError,
    MissingIdError,
    OtherVersionError,
    SequenceLimitError,
    ServerBusyError,
    ServerError,
    StateDamagedError,
    StepQueueFullError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.core.ids import MAX_BYTES, RESERVED, is_reserved, is_too_long
from legato.core.reply import decode_reply
from legato.core.types import Durability, Reply, SequenceKey, StateRow, WhenFull
from legato.engine.model import digest_inputs
from legato.engine.rows import split
from legato.engine.work import Sequence, Work
from legato.faults import fault
from legato.observe.log import get_logger
from legato.stores.base import Damaged, Held, Missing, Owned
from legato.stores.rules import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import CorrelationId, Receipt, RecordHead, Step
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.engine.table import Model
    from legato.stores.base import AcquireResult

log = get_logger()

_NO_STATE = StateRow((), ())


class Admission:
    """Queues steps by sequence and decides them one at a time (D2)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._residence = engine.residence
        self._tokens = itertools.count(random.getrandbits(63))

    def admit(self, step: Step) -> ServerError | None:
        """Put a step into its sequence's queue, or say why not."""
        model = self._engine.tables.get(step.model)
        if model is None:
            return UnknownModelError(step.model, step.version)
        model.unanswered += 1
        if not model.versions and not model.lingering:
            return UnknownModelError(step.model, step.version, unloaded=True)
        if self._engine.draining:
            return DrainingError()
        if self._engine.unanswered > self._engine.max_queued:
            return ServerBusyError(self._engine.max_queued)
        if model.unanswered > model.max_queued:
            return ServerBusyError(model.max_queued)
        step.arrived = self._engine.clock()
        if not model.stateful:
            return self._admit_stateless(model, step)
        correlation_id = step.correlation_id
        if not correlation_id:
            if model.iterative:  # every request is a sequence of its own
                step.start = step.end = True
                return self._admit_unnamed(model, step)
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
            if is_too_long(correlation_id):
                return ClientError(f"the correlation id is longer than {MAX_BYTES} bytes")
            sequence = Sequence(SequenceKey(step.model, correlation_id))
            model.sequences[correlation_id] = sequence
        elif len(sequence.steps) >= model.max_queued_steps:
            return StepQueueFullError(model.max_queued_steps)
        sequence.steps.append(step)
        if not sequence.busy:
            self.advance(model, sequence)
        elif sequence.in_backlog:
            self._limit_wait(model, sequence, step)
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
                self._engine.finish(step, problem)

        if not self._engine.store.inline:
            self._engine.committer.call(lambda: self._new_id(model), done)
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
            return internal_error(error)
        if problem is None:
            return self._run(handle, step)
        if problem.reason == "batch" and step.partial is None:
            return self._admit_rows(model, handle, step)
        return problem

    def _run(self, handle: ModelHandle, step: Step) -> ServerError | None:
        """Schedule a step of a model without state, if there is room for it."""
        nobody = Sequence(SequenceKey(step.model, step.correlation_id or 0))
        rules = handle.queue_rules
        if rules is not None:
            full = rules.enter(handle, step)
            if full is not None:
                return full
        work = Work(handle, nobody, step, 0, _NO_STATE)
        self._engine.schedule(handle, work)
        if rules is not None:
            rules.watch(handle, work)
        return None

    def _admit_rows(self, model: Model, handle: ModelHandle, step: Step) -> ServerError | None:
        """Run a request of several rows: a step each, and one answer when all have theirs."""
        rows = split(step, handle, lambda answer: self._engine.finish(step, answer, handle))
        if isinstance(rows, InputError):
            return rows
        for row in rows:
            problem = handle.check(row, first=True)
            if problem is not None:  # that of any other row, too: nothing was begun
                return problem
        for row in rows:
            self._engine.unanswered += 1
            model.unanswered += 1
            problem_of_row = self._run(handle, row)
            if problem_of_row is not None:
                self._engine.finish(row, problem_of_row)
        return None

    def _new_id(self, model: Model) -> int:
        """Ids count up from 1; ids in use are passed over, freed ones not given again soon."""
        stride = 1
        while True:
            model.last_id += stride
            if model.last_id in model.sequences:
                continue
            found = self._engine.store.read(SequenceKey(model.name, model.last_id))
            if isinstance(found, Missing):
                if found.head is None:
                    return model.last_id
                # Freed a moment ago, by the server before this one: it may have given many.
                stride *= 2

    def advance(self, model: Model, sequence: Sequence) -> None:
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
                    steps.pop(0)
                self._engine.finish(step, internal_error(error))
        self._residence.rest(model, sequence)

    def go_on(self, model: Model, sequence: Sequence) -> None:
        """A step is over: decide the next one, or let the sequence rest."""
        if sequence.steps:
            self.advance(model, sequence)
        else:
            self._residence.rest(model, sequence)

    def _decide(self, model: Model, sequence: Sequence, step: Step) -> bool:
        """Decide the head of a sequence; true if it was scheduled or waits for room."""
        steps = sequence.steps
        if step.deadline is not None and step.deadline <= self._engine.clock():
            self._engine.finish(steps.pop(0), DeadlineError())
            return False
        if step.number or model.dedupe:
            step.digest = digest_inputs(step)
        elif not step.digest:
            # Unnumbered steps are no repeats of each other, whoever commits them and
            # whatever they carry: each gets a name of its own (D3).
            step.digest = next(self._tokens).to_bytes(8, "little")
        if model.max_age_s and _too_old(sequence.head, model.max_age_s) and not step.number:
            step.start = step.restart = True  # its time is over: another begins under its id
        decision = decide(
            sequence.head, step, dedupe=model.dedupe, start_of_live=model.start_of_live
        )
        fault("admit.after_dedupe")
        verdict = decision.verdict
        if verdict is Verdict.APPLY:
            steps.pop(0)
            return self._apply(model, sequence, step, decision.number)
        if verdict is Verdict.REFUSE:
            if sequence.fresh:
                self._engine.finish(steps.pop(0), _with_age(decision.error, sequence.head))
            else:
                # The copy may be behind (expired, or moved by another node): only what
                # the record itself says goes to a client.
                self._residence.forget(sequence)
            return False
        if verdict is Verdict.REPLAY:
            self._replay(model, sequence, steps.pop(0), decision.receipt)
            return False
        return self._create(model, sequence, step, verdict is Verdict.RESTART)

    def _acquire(self, model: Model, sequence: Sequence) -> bool:
        """Ask the store for a sequence; false if it is not known yet, or cannot be had."""
        self._residence.forget(sequence)  # a copy that was released while it was busy

        def ask() -> AcquireResult:
            fault("acquire.before")
            result = self._engine.store.acquire(sequence.key, self._engine.owner)
            fault("acquire.after")
            return result

        def done(result: AcquireResult | Exception) -> None:
            model.asking -= 1
            if self._acquired(model, sequence, result):
                self.advance(model, sequence)

        if self._engine.store.inline:
            # Quick stores answer here, and _advance goes on.
            return self._acquired(model, sequence, _try(ask))
        model.asking += 1
        self._engine.committer.call(ask, done)
        return False

    def _acquired(
        self, model: Model, sequence: Sequence, result: AcquireResult | Exception
    ) -> bool:
        """Take over what the store said; false if the waiting steps were refused."""
        if isinstance(result, Owned):
            sequence.head = result.head
            sequence.loaded = sequence.fresh = True
            self._residence.pin(sequence, None)
            if result.state is not None:
                self._residence.keep(sequence, result.state)
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
                self._engine.on_fatal(result)
        self._refuse_waiting(model, sequence, error)
        return False

    def _refuse_waiting(self, model: Model, sequence: Sequence, error: ServerError) -> None:
        """Answer all waiting steps of a sequence with one error."""
        # Taken out first: a callback may send another step at once.
        refused = list(sequence.steps)
        sequence.steps.clear()
        self._residence.rest(model, sequence)
        for step in refused:
            self._engine.finish(step, error)

    def _apply(self, model: Model, sequence: Sequence, step: Step, number: int) -> bool:
        """Schedule a step of a live sequence; false if it was answered with an error."""
        handle = sequence.handle
        if handle is None:
            try:
                handle = model.pinned(sequence)
            except ServerError as error:
                self._engine.finish(step, error)
                return False
            self._residence.pin(sequence, handle)
        if step.version and step.version != handle.version:
            elsewhere = OtherVersionError(step.correlation_id or 0, handle.version)
            self._engine.finish(step, elsewhere)
            return False
        problem = handle.check(step, first=False)
        state = sequence.state
        if problem is not None or state is None:
            self._engine.finish(step, problem or StateDamagedError("a live record has no state"))
            return False
        self._engine.schedule(handle, Work(handle, sequence, step, number, state))
        return True

    def _create(self, model: Model, sequence: Sequence, step: Step, restart: bool) -> bool:
        """Schedule the first step of an incarnation, if there is room."""
        steps = sequence.steps
        if not restart and model.max_live and self.live(model) >= model.max_live:
            if step.dialect.when_full is WhenFull.QUEUE and len(model.backlog) < model.max_backlog:
                self._wait_for_room(model, sequence, step)
                return True
            self._engine.finish(steps.pop(0), SequenceLimitError(model.name, model.max_live))
            return False
        steps.pop(0)
        unreachable = self._raise_level(step)
        if unreachable is not None:
            self._engine.finish(step, unreachable)
            return False
        try:
            handle = model.handle(step.version)
            problem = handle.check(step, first=True)
            state = _NO_STATE if problem else handle.batcher.states.initial(step.inputs)
        except ServerError as error:
            self._engine.finish(step, error)
            return False
        if problem is not None:
            self._engine.finish(step, problem)
            return False
        work = Work(handle, sequence, step, 1, state)
        work.create = True
        work.incarnation = os.urandom(16)
        if restart and sequence.head is not None:
            work.replaces = sequence.head.incarnation
        else:
            model.creating += 1
        self._engine.schedule(handle, work)
        return True

    def _raise_level(self, step: Step) -> ServerError | None:
        """Get ready for a sequence with more durability than the others have."""
        level = self._engine.store.level
        if not step.level or LEVELS.index(step.level) <= LEVELS.index(level):
            step.level = level
            return None
        if level == Durability.NONE.value:
            return StoreUnavailableError(
                f"this server keeps sequences in memory only; it cannot reach level '{step.level}'"
            )
        # Its commits wait for the disk, which the event loop must not.
        self._engine.committer.use_thread()
        return None

    def live(self, model: Model) -> int:
        """Live sequences of a model, those that begin now included."""
        return self._engine.store.live(model.name) + model.creating

    def _wait_for_room(self, model: Model, sequence: Sequence, step: Step) -> None:
        """Park a new sequence in the backlog; it begins when another ends."""
        sequence.in_backlog = True
        model.backlog.append(sequence)
        for waiting in sequence.steps:
            self._limit_wait(model, sequence, waiting)
        if step.deadline is not None:
            left_s = step.deadline - self._engine.clock()
            self._engine.loop.call_later(left_s, self._backlog_deadline, model, sequence, step)

    def _limit_wait(self, model: Model, sequence: Sequence, step: Step) -> None:
        """Any step may limit the wait of its sequence in the backlog, not the first alone."""
        if step.queue_timeout_s:
            self._engine.loop.call_later(
                step.queue_timeout_s, self._backlog_timeout, model, sequence, step
            )

    def _waits_first(self, sequence: Sequence, step: Step) -> bool:
        return sequence.in_backlog and bool(sequence.steps) and sequence.steps[0] is step

    def leave_backlog(self, model: Model, sequence: Sequence) -> None:
        """Take a sequence out of the backlog."""
        model.backlog.remove(sequence)
        sequence.in_backlog = False

    def clear_backlog(self, model: Model, error: ServerError) -> None:
        """Turn away all that waits for room; none will be made."""
        while model.backlog:
            waiting = model.backlog.popleft()
            waiting.in_backlog = False
            self._refuse_waiting(model, waiting, error)

    def _backlog_deadline(self, model: Model, sequence: Sequence, step: Step) -> None:
        if self._waits_first(sequence, step):
            self.leave_backlog(model, sequence)
            self._engine.finish(sequence.steps.pop(0), DeadlineError())
            self.advance(model, sequence)

    def _backlog_timeout(self, model: Model, sequence: Sequence, step: Step) -> None:
        if not sequence.in_backlog or step not in sequence.steps:
            return
        self.leave_backlog(model, sequence)
        error = BacklogTimeoutError("timeout of the corresponding sequence has been expired")
        self._refuse_waiting(model, sequence, error)

    def room_was_made(self, model: Model) -> None:
        """Let waiting sequences begin while there is room."""
        while model.backlog and (not model.max_live or self.live(model) < model.max_live):
            waiting = model.backlog.popleft()
            waiting.in_backlog = False
            self.advance(model, waiting)

    def _replay(
        self, model: Model, sequence: Sequence, step: Step, receipt: Receipt | None
    ) -> None:
        """Answer a repeat with the stored reply, byte for byte (D3)."""
        head = sequence.head
        if receipt is None or head is None:
            self._engine.finish(step, StateDamagedError("a repeat was found without its receipt"))
            return
        try:
            headers, data = decode_reply(receipt.response)
        except ValueError as error:
            self._engine.finish(step, StateDamagedError(str(error)))
            return
        handle = sequence.handle or model.versions.get(head.version)
        if handle is not None:
            handle.statistics.replayed += 1
        # A store that promises nothing has not kept the level that the sequence asked for.
        level = head.level if self._engine.store.level != "none" else "none"
        self._engine.finish(
            step,
            Reply(
                headers, data, sequence.key.correlation_id, receipt.step, head.version,
                replayed=True, durability=level, incarnation=head.incarnation,
            ),
        )  # fmt: skip


def _too_old(head: RecordHead | None, max_age_s: float) -> bool:
    """Whether a live sequence has reached the end of its life; by the wall, as it may be stored."""
    return head is not None and head.ending is None and time.time() - head.created > max_age_s


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


def internal_error(error: Exception) -> ServerError:
    """Give a mistake of ours the shape of a server error."""
    return ServerError(
        f"the step failed inside the server: {type(error).__name__}: {error}; "
        "send it again with its step number"
    )


def _try(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - told apart by the caller
        return error
