"""The third beat: commit a batch, then publish it. Replies leave here and nowhere else (D1)."""

from __future__ import annotations

import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from legato.core.errors import (
    BusyError,
    ServerError,
    StateDamagedError,
    StorageFullError,
    StoreUnavailableError,
)
from legato.core.reply import decode_reply
from legato.core.types import EndReason, Receipt, RecordHead, Reply, StateRow
from legato.engine.admission import internal_error
from legato.engine.table import Model
from legato.faults import fault
from legato.observe.log import get_logger
from legato.runtimes.base import AGAIN
from legato.stores.base import Commit, Duplicate, Ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.engine.batch import RowResult
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.engine.work import Work
    from legato.stores.base import CommitResult

    Observer = Callable[
        [ModelHandle, list[tuple[Work, RowResult]], list[Commit], list[CommitResult]], None
    ]

log = get_logger()

COMMIT_TRIES = 3
MOST_CONFLICTS = 8
_NO_STATE = StateRow((), ())


class Commits:
    """Commits what models computed and moves memory forward.

    Attributes:
        observers: Told of every batch that was committed, before its replies leave; each
            must return at once. None by default, and then they cost nothing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._residence = engine.residence
        self.observers: list[Observer] = []

    def commit(self, handle: ModelHandle, done: list[tuple[Work, RowResult]]) -> None:
        """Commit the rows of a model call, then publish and answer them."""
        sent: list[tuple[Work, RowResult]] = []
        batch: list[Commit] = []
        replies: list[Reply] = []
        now = self._engine.clock()
        for work, row in done:
            head = work.sequence.head
            incarnation = work.incarnation or (head.incarnation if head else b"")
            try:
                reply = self.reply(work, row, self._engine.store.level, incarnation)
                batch.append(self._entry(handle, work, row, reply, now))
            except Exception as error:  # an output that no receipt can hold, for one
                log.exception("step_not_committed", model=handle.name)
                self._engine.fail(work, internal_error(error))
                continue
            replies.append(reply)
            sent.append((work, row))
        if sent:
            self._send(handle, sent, batch, replies)

    def _send(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        replies: list[Reply],
    ) -> None:
        # No closure that names itself: a cycle for every batch is what the garbage
        # collector would be busy with.
        handle.statistics.committing += len(done)
        started = time.perf_counter()
        finished = partial(self._sent, handle, done, batch, replies, started, 1)
        self._engine.committer.commit(batch, finished)

    def _sent(
        self,
        handle: ModelHandle,
        done: list[tuple[Work, RowResult]],
        batch: list[Commit],
        replies: list[Reply],
        started: float,
        tries: int,
        results: list[CommitResult] | Exception,
    ) -> None:
        """Act on a commit's outcome; an unknown one is asked for again, identically."""
        handle.statistics.committing -= len(done)
        if not isinstance(results, Exception):
            handle.statistics.commit_s.observe(time.perf_counter() - started)
            self._publish(handle, done, batch, replies, results)
        elif isinstance(results, StorageFullError):  # the one that says: nothing was written
            for work, _row in done:
                self._engine.fail(work, results)
        elif getattr(results, "fatal", False):
            self._engine.on_fatal(results)
        elif tries < COMMIT_TRIES:
            # The outcome is unknown: the identical commit finds out (Ok or Duplicate).
            handle.statistics.committing += len(done)
            again = partial(self._sent, handle, done, batch, replies, started, tries + 1)
            self._engine.loop.call_later(
                random.uniform(0.01, 0.2),  # noqa: S311 - jitter
                self._engine.committer.commit,
                batch,
                again,
            )
        else:
            self._give_up(done, results)

    def _entry(
        self, handle: ModelHandle, work: Work, row: RowResult, reply: Reply, now: float
    ) -> Commit:
        step, head = work.step, work.sequence.head
        receipt = Receipt(
            work.number, step.request_id.encode(), step.digest,
            handle.receipts.encode(reply.headers, reply.data),
        )  # fmt: skip
        over = (step.end or row.over) and row.again is None
        state = _NO_STATE if over else row.state
        end = EndReason.ENDED if over else None
        waited = now - step.arrived
        if work.create or head is None:
            config = handle.config.sequences
            return Commit(
                work.sequence.key, work.incarnation, 1, 1, (receipt,), state, True, work.replaces,
                end, handle.version, handle.digest, step.dialect.name,
                config.idle_timeout_s if step.ttl_s is None else step.ttl_s,
                step.level, 0.0,  # judged now: what lived when it arrived may be over
            )  # fmt: skip
        keep = handle.config.sequences.receipts
        receipts = (receipt,) if keep == 1 else (*head.receipts, receipt)[-keep:]
        return Commit(
            work.sequence.key, head.incarnation, head.epoch, work.number, receipts, state, False,
            b"", end, handle.version, handle.digest, head.dialect, head.ttl_s, head.level, waited,
        )  # fmt: skip

    @staticmethod
    def reply(work: Work, row: RowResult, level: str, incarnation: bytes) -> Reply:
        """Make the reply to a row: the outputs that were asked for."""
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
        model = self._engine.tables.get(handle.name) or Model(handle.name)
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
                self._residence.forget(work.sequence)
                self._engine.finish(work.step, internal_error(error))
            if work.create and not work.replaces:
                model.creating -= 1
        for work, _row in done:
            self._engine.admission.go_on(model, work.sequence)
        if model.backlog:
            self._engine.admission.room_was_made(model)

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
            self._answer(work, row, entry, reply)
        elif isinstance(result, Duplicate):
            # This very commit stands already: a reply was lost between the store and us.
            # Its bytes are the reply, whoever computed them (D3).
            work.handle.statistics.applied += 1
            reply.headers, reply.data = decode_reply(result.receipt.response)
            self._moved(work, entry, row)
            self._residence.forget(sequence)
            self._answer(work, row, entry, reply)
        elif sequence.contested >= MOST_CONFLICTS:
            sequence.contested = 0
            self._residence.forget(sequence)
            error = BusyError("others keep moving this sequence; try again", retry_after_s=0.25)
            self._engine.finish(work.step, error, work.handle)
        else:  # Fenced, Conflict, Gone: read the record and decide again
            sequence.contested += 1
            self._residence.forget(sequence)
            sequence.steps.insert(0, work.step)

    def _answer(self, work: Work, row: RowResult, entry: Commit, reply: Reply) -> None:
        """Answer a committed step, or give a part of the answer and queue the rest."""
        if row.again is None:
            if work.step.again:
                work.step.request_id = work.step.asked_as
            self._engine.finish(work.step, reply)
            return
        self.tell_part(work, row.again)
        work.step.incarnation = entry.incarnation  # it goes on with this sequence or not at all
        work.sequence.steps.append(work.step)

    def tell_part(self, work: Work, again: tuple[bytes, dict[str, Any]]) -> None:
        """Give an answer that is not the last, and get the request ready to be run again.

        What it came from is committed (D1); the next part is a step of its own (D2), so a
        request of the same sequence that came meanwhile, a cancel perhaps, goes first.
        """
        step = work.step
        if step.partial is not None:
            try:
                step.partial(*again)
            except Exception:
                log.exception("reply_callback_failed", model=step.model)
        step.again += 1
        step.start = step.restart = False
        step.asked_as = step.request_id or step.asked_as
        step.number, step.request_id, step.digest = 0, "", b""
        step.parameters = {**step.parameters, AGAIN: step.again}
        work.arrived = step.arrived = self._engine.clock()

    def _moved(self, work: Work, entry: Commit, row: RowResult) -> None:
        """A step is committed: the copy in memory follows the record."""
        sequence, handle = work.sequence, work.handle
        head = sequence.head
        if work.create:
            handle.statistics.opened += 1
            if work.replaces:
                self._engine.count_end(handle, sequence.key.correlation_id, EndReason.DISPLACED)
            self._residence.release(sequence)
            head = sequence.head = RecordHead(
                entry.incarnation, 1, 1, entry.receipts, entry.version, entry.model_digest,
                entry.dialect, time.time(), entry.ttl_s, entry.level,
            )  # fmt: skip
            # A version that was replaced meanwhile takes no further step.
            sequence.handle = handle if handle.serving else None
            if handle.pinned is not None:  # it gave way while this step was under way
                handle.pinned[sequence.key] = entry.incarnation
            self._residence.keep(sequence, row.state)
        elif head is not None:
            head.step = entry.step
            head.receipts = entry.receipts
            if head.model_digest is not entry.model_digest:
                head.version, head.model_digest = entry.version, entry.model_digest
            if handle.batcher.states.fixed and sequence.state is not None:
                sequence.state = row.state  # nothing to count: it is as large as the one before
            else:
                self._residence.keep(sequence, row.state)
        sequence.contested = 0
        if entry.end is not None:
            self._engine.count_end(handle, sequence.key.correlation_id, entry.end)
            self._residence.forget(sequence)

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
            self._residence.forget(work.sequence)
            self._engine.fail(work, answer)
