"""Workers whose calls end before all of their rows are answered.

A decoupled model may hand a request to a thread of its own, return, and answer it whenever it
likes; its worker takes the next call meanwhile. So one thread reads all that such a worker says,
and a row that is not answered yet is :class:`Unfinished`: the engine goes on without it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from legato.core.types import StateRow
from legato.engine.batch import RowResult, Unfinished, as_model_error
from legato.engine.process import ProcessRuntime, WorkerGoneError
from legato.runtimes.worker.frames import ChannelClosedError
from legato.runtimes.worker.messages import from_endings, from_rows, to_error

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Future

    from legato.core.errors import ServerError
    from legato.engine.process import Worker
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import RowInfo, StepBatch

    Answer = tuple[dict[str, Any], memoryview]

_LOOK_S: Final = 0.25
"""Seconds between looks for requests that were cancelled."""
_TELL_S: Final = 30.0
_DEATH_S: Final = 0.5
_NO_STATE: Final = StateRow((), ())


class LateRuntime(ProcessRuntime):
    """A runtime whose rows may be answered after their call."""

    def __init__(self, config: ModelConfig) -> None:
        self._talk: _Talk | None = None
        super().__init__(config)

    def restart(self) -> None:
        """Start a worker where none lives, and listen to it.

        Raises:
            ConfigError: The model cannot be loaded, or the runtime was closed meanwhile.
        """
        super().restart()
        self._talk = _Talk(self._living(), self)

    def close(self) -> None:
        """Let the worker close its model, end it, and hear what it said until then."""
        super().close()
        if self._talk is not None:
            self._talk.join()

    def outcome(self, message: dict[str, Any]) -> RowResult | ServerError:
        """Read what a worker says of a row after its call."""
        if message["error"] is not None:
            return as_model_error(to_error(message["error"]))
        headers, data = message["answer"]
        return RowResult(self._headers(headers), tuple(data), _NO_STATE)

    def _ask(self, worker: Worker, batch: StepBatch, deadline: float, *, hold: bool) -> Answer:
        del hold  # such models have no state
        talk = self._talk
        if talk is None or talk.worker is not worker:
            raise ChannelClosedError("the worker is being restarted")
        ended = from_endings(self._endings.popleft() for _ in range(len(self._endings)))
        return talk.ask(batch, deadline, ended)


class _Row(NamedTuple):
    """A row that a worker has in hand."""

    info: RowInfo
    unfinished: Unfinished


class _Talk:
    """What is said to one worker, and what it says."""

    def __init__(self, worker: Worker, runtime: LateRuntime) -> None:
        self.worker = worker
        self._runtime = runtime
        self._rows: dict[tuple[int, int], _Row] = {}
        self._told: set[tuple[int, int]] = set()
        self._calls = 0
        self._sending = threading.Lock()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="legato-worker-reader", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        return f"<_Talk pid={self.worker.pid} calls={self._calls} rows={len(self._rows)}>"

    def ask(self, batch: StepBatch, deadline: float, ended: list[Any]) -> Answer:
        """Let the worker take a call; what it says of rows later goes to them.

        Raises:
            ChannelClosedError: The worker is gone.
            TimeoutError: The call took too long.
        """
        self._calls += 1
        call = self._calls
        for at, info in enumerate(batch.rows):
            self._rows[call, at] = _Row(info, Unfinished())
        rows = from_rows(batch.rows)
        message = {"kind": "step", "call": call, "rows": rows, "held": {}, "ended": ended}
        later: dict[int, Unfinished] = {}
        unfinished = {at: self._rows[call, at].unfinished for at in range(len(batch.rows))}
        try:
            with self._sending:
                self.worker.channel.send(message, {"inputs": batch.inputs, "states": {}}, deadline)
            answer, data = self._answer(deadline)
            later = {at: unfinished[at] for at in answer.get("later", ())}
            answer["unfinished"] = later
            return answer, data
        finally:
            self._let_go((call, at) for at in unfinished if at not in later)

    def _answer(self, deadline: float) -> Answer:
        try:
            answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if answer is None:
            raise ChannelClosedError("the worker is gone")
        return answer

    def _let_go(self, keys: Iterable[tuple[int, int]]) -> None:
        for key in keys:
            self._rows.pop(key, None)
            self._told.discard(key)

    # -- what the worker says -------------------------------------------------------------

    def _read(self) -> None:
        """Take everything that the worker says, until it is gone."""
        try:
            while True:
                self._tell_cancelled()
                try:
                    message, data = self.worker.channel.receive(time.monotonic() + _LOOK_S)
                except TimeoutError:
                    continue
                self._take(message, data)
        except ChannelClosedError:
            self._answers.put(None)
        except RuntimeError:
            return  # the event loop is closed: nobody waits for anything
        self._end()

    def _end(self) -> None:
        """Tell the rows that are open how the worker ended."""
        until = time.monotonic() + _DEATH_S
        while self.worker.alive and time.monotonic() < until:
            time.sleep(0.01)  # it closed its side, and is about to be gone
        error = WorkerGoneError(f"the worker process died ({self.worker.epitaph()})", ran=True)
        with contextlib.suppress(RuntimeError):  # as above
            for row in list(self._rows.values()):
                row.unfinished.finish(error)
        self._rows.clear()

    def join(self) -> None:
        """Wait until everything that the worker said was heard."""
        if threading.current_thread() is not self._reader:
            self._reader.join(_TELL_S)

    def _take(self, message: dict[str, Any], data: memoryview) -> None:
        kind = message["kind"]
        if kind == "ask":
            wish = self._runtime.wish(self.worker, message, data)
            wish.add_done_callback(partial(self._tell, message["id"]))
            return
        if kind not in ("partial", "later"):
            self._answers.put((message, data))
            return
        key = message["call"], message["row"]
        row = self._rows.get(key)
        if row is None:
            return
        if kind == "later":
            self._let_go([key])
            row.unfinished.finish(self._runtime.outcome(message))
        elif row.info.partial is not None:
            row.info.partial(message["body"], message["meta"])

    def _tell(self, number: int, told: Future[dict[str, Any]]) -> None:
        """Hand another model's answer to the worker, from a thread that may wait."""
        message = {"kind": "told", "id": number, **told.result()}

        def send() -> None:
            with contextlib.suppress(ChannelClosedError, TimeoutError), self._sending:
                self.worker.channel.send(message, deadline=time.monotonic() + _TELL_S)

        threading.Thread(target=send, name="legato-worker-teller", daemon=True).start()

    def _tell_cancelled(self) -> None:
        """Let the worker know of requests that nobody waits for any more."""
        for key, row in list(self._rows.items()):
            asked = row.info.asked
            if asked is None or key in self._told or not asked.cancelled():
                continue
            message = {"kind": "cancelled", "call": key[0], "row": key[1]}
            try:
                with self._sending:
                    self.worker.channel.send(message, deadline=time.monotonic() + _LOOK_S)
            except TimeoutError:
                return  # it takes nothing now; the next look is soon
            self._told.add(key)
