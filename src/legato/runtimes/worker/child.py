"""The loop of a worker process: load the model, answer one call at a time, end with the parent."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import sys
import threading
import time
import traceback
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NoReturn

from legato.repository.config import ModelConfig
from legato.runtimes import registry
from legato.runtimes.base import Asked, Partial, RowInfo, StepBatch
from legato.runtimes.worker.frames import Channel, ChannelClosedError
from legato.runtimes.worker.messages import (
    Held,
    StatesWantedError,
    from_error,
    from_signature,
    to_endings,
)

if TYPE_CHECKING:
    import socket

    from legato.core.types import Array
    from legato.runtimes.base import Answer, Runtime


_LOOK_S: Final = 0.0002
_LONGEST_PAUSE_S: Final = 0.005


def serve(sock: socket.socket, marked: int) -> NoReturn:
    """Serve until the parent says that it is enough, or is gone.

    Args:
        sock: The way to the parent.
        marked: Inherited file of one page, where the parent sees whether a call was begun.
    """
    channel = Channel(sock, shared_from=1 << 16)
    code = 0
    try:
        with mmap.mmap(marked, mmap.PAGESIZE) as mark:
            os.close(marked)
            _serve(channel, mark)
    except ChannelClosedError:
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads that a model left behind must not keep the process.
        os._exit(code)


def _serve(channel: Channel, mark: mmap.mmap) -> None:
    orders, _data = channel.receive()
    channel.set_threshold(orders["shared_from"])
    try:
        config = ModelConfig.model_validate_json(orders["config"])
        runtime = registry.build(config)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - told to the parent
        traceback.print_exc()
        channel.send({"kind": "failed", "error": from_error(error)})
        return
    channel.send({"kind": "ready", "signature": from_signature(runtime.signature)})
    worker = LateWorker(channel, runtime) if config.late else Worker(channel, runtime)
    worker.mark = mark
    while True:
        message, data = worker.next()
        if message["kind"] == "close":
            runtime.close()
            return
        worker.answer(message, data)


class Worker:
    """Answers the parent's calls of a runtime, one at a time.

    Attributes:
        mark: Memory shared with the parent: its first byte is set while a call was begun.
    """

    def __init__(self, channel: Channel, runtime: Runtime) -> None:
        self._channel = channel
        self._runtime = runtime
        self._sending = threading.Lock()
        self._call: object = None  # which call is under way; threads of an earlier one are late
        self._measured = getattr(runtime, "measured", None)
        self._asks = itertools.count(1)
        connect = getattr(runtime, "connect", None)
        if connect is not None:
            connect(self.ask)
        self.mark: mmap.mmap | None = None

    def next(self) -> tuple[dict[str, Any], memoryview]:
        """Wait for a message."""
        return self._channel.receive()

    def answer(self, message: dict[str, Any], data: memoryview) -> None:
        """Do what a message asks for."""
        for correlation_id, reason in to_endings(message["ended"]):
            try:
                self._runtime.sequence_ended(correlation_id, reason)
            except Exception:  # noqa: BLE001 - the model's own code; the sequence is over
                traceback.print_exc()
        if message["kind"] == "step":
            self._step(message, data)

    def _step(self, message: dict[str, Any], data: memoryview) -> None:
        if self.mark is not None:
            self.mark[0] = 1  # from here on, the death of this process may be the call's fault
        self._call = self._begin(message)
        inputs = self._channel.arrays(message["inputs"], data)
        states = self._channel.arrays(message["states"], data)
        _put_held(states, message["held"])
        rows = tuple(
            RowInfo(
                cid,
                step,
                start,
                end,
                told,
                Partial(self._sender(at)) if listens else None,
                None if asked is None else self._asked(at, asked),
            )
            for at, (cid, step, start, end, told, listens, asked) in enumerate(message["rows"])
        )
        try:
            try:
                result = self._runtime.step(StepBatch(inputs, states, rows))
            finally:
                self._over()
            reply = {
                "kind": "done",
                "failed": {row: from_error(error) for row, error in result.failed.items()},
                "again": dict(result.again),
                "over": list(result.over),
                "bound": list(result.bound),
            }
            if result.answers is not None:
                reply["answers"] = list(result.answers)
            if result.later:
                reply["later"] = list(result.later)
            outputs, following = dict(result.outputs), dict(result.state)
            kept = _take_kept(following)
        except StatesWantedError as wanted:
            self._send({"kind": "wanted", "rows": wanted.rows})
            return
        except (Exception, SystemExit) as error:  # noqa: BLE001 - told to the parent
            traceback.print_exc()
            self._send({"kind": "error", "error": from_error(error)})
            return
        try:
            groups = {"outputs": outputs, "states": following}
            self._send({**reply, "kept": kept}, groups)
        except (TypeError, ValueError, AttributeError) as error:
            # The model gave something that is no array; nothing was sent yet.
            self._send({"kind": "error", "error": from_error(error)})

    def ask(self, wish: dict[str, Any], inputs: dict[str, Array]) -> dict[str, Any]:
        """Ask another model of the server, from any thread of a call.

        Raises:
            RuntimeError: No call is under way.
        """
        with self._sending:
            if self._call is None:
                raise RuntimeError("other models can be asked during a call of 'execute' only")
            message = {"kind": "ask", "id": next(self._asks), "wish": wish}
            self._channel.send(message, {"inputs": inputs})
            return self._channel.receive()[0]

    def _begin(self, message: dict[str, Any]) -> object:
        """Give a call a name."""
        del message
        return object()

    def _over(self) -> None:
        """A call is over: its threads may say nothing more."""
        with self._sending:
            self._call = None

    def _send(
        self, reply: dict[str, Any], groups: dict[str, dict[str, Array]] | None = None
    ) -> None:
        """Send an answer, and with it what the model measured of itself, if it did."""
        measured = self._measured() if self._measured is not None else None
        if measured:
            reply["measured"] = measured
        self._channel.send(reply, groups)

    def _asked(self, row: int, told: list[Any]) -> Asked:
        request_id, outputs, priority, timeout_us = told

        def cancelled() -> bool:
            with self._sending:
                if call is not self._call:
                    return False  # it was answered
                self._channel.send({"kind": "cancelled", "row": row})
                answer, _data = self._channel.receive()
                return bool(answer["cancelled"])

        call = self._call
        return Asked(request_id, tuple(outputs), priority, timeout_us, cancelled)

    def _sender(self, row: int) -> Any:
        def send(body: bytes, meta: dict[str, Any]) -> None:
            with self._sending:  # handlers stream from threads of their own
                self._channel.send({"kind": "partial", "row": row, "body": body, "meta": meta})

        return send


class LateWorker(Worker):
    """Answers rows of a call when it is over, too; see :mod:`legato.engine.late`."""

    def __init__(self, channel: Channel, runtime: Runtime) -> None:
        super().__init__(channel, runtime)
        self._reading = threading.Lock()
        self._cancelled: set[tuple[int, int]] = set()
        self._early: deque[tuple[dict[str, Any], memoryview]] = deque()
        self._told: dict[int, dict[str, Any]] = {}

    def next(self) -> tuple[dict[str, Any], memoryview]:
        """Wait for a message that is for the main thread."""
        while True:
            with self._reading:  # another thread may have found one while this one waited
                if self._early:
                    return self._early.popleft()
                self._sort(*self._channel.receive())

    def _sort(self, message: dict[str, Any], data: memoryview) -> None:
        if message["kind"] == "told":
            self._told[message["id"]] = message
        elif message["kind"] == "cancelled":
            self._cancelled.add((message["call"], message["row"]))
        else:
            self._early.append((message, data))

    def _look(self) -> None:
        """Take what the parent said while the model had the main thread."""
        if not self._reading.acquire(blocking=False):
            return  # the main thread takes it
        try:
            with self._sending, contextlib.suppress(TimeoutError):
                while True:
                    self._sort(*self._channel.receive(time.monotonic() + _LOOK_S))
        finally:
            self._reading.release()

    def ask(self, wish: dict[str, Any], inputs: dict[str, Array]) -> dict[str, Any]:
        """Ask another model of the server, from any thread, whenever."""
        number = next(self._asks)
        with self._sending:
            self._channel.send({"kind": "ask", "id": number, "wish": wish}, {"inputs": inputs})
        pause_s = _LOOK_S
        while number not in self._told:
            self._look()
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)
        return self._told.pop(number)

    def _begin(self, message: dict[str, Any]) -> object:
        call: int = message["call"]
        return call

    def _over(self) -> None:
        """Nothing is over before it was answered."""

    def _send(
        self, reply: dict[str, Any], groups: dict[str, dict[str, Array]] | None = None
    ) -> None:
        with self._sending:
            super()._send(reply, groups)

    def _asked(self, row: int, told: list[Any]) -> Asked:
        call: Any = self._call
        key = (call, row)

        def cancelled() -> bool:
            if key not in self._cancelled:
                self._look()
            return key in self._cancelled

        def finish(outcome: Answer | Exception) -> None:
            failed = isinstance(outcome, Exception)
            message = {
                "kind": "later",
                "call": call,
                "row": row,
                "answer": None if failed else outcome,
                "error": from_error(outcome) if isinstance(outcome, Exception) else None,
            }
            with self._sending:
                self._channel.send(message)
            self._cancelled.discard(key)

        request_id, outputs, priority, timeout_us = told
        return Asked(request_id, tuple(outputs), priority, timeout_us, cancelled, finish)

    def _sender(self, row: int) -> Any:
        call = self._call

        def send(body: bytes, meta: dict[str, Any]) -> None:
            part = {"kind": "partial", "call": call, "row": row, "body": body, "meta": meta}
            with self._sending:
                self._channel.send(part)

        return send


def _put_held(states: dict[str, Array], held: dict[str, dict[int, bytes]]) -> None:
    """Put stand-ins where the parent sent no state because this worker has it."""
    for name, rows in held.items():
        for row, digest in rows.items():
            states[name][row] = Held(digest)


def _take_kept(states: dict[str, Array]) -> dict[str, list[int]]:
    """Find the rows whose next state is the one that came in (``None``)."""
    kept: dict[str, list[int]] = {}
    for name, value in states.items():
        if value.dtype.hasobject:
            rows = [at for at, element in enumerate(value.tolist()) if element is None]
            if rows:
                states[name] = value.copy()
                states[name][rows] = b""
                kept[name] = rows
    return kept
