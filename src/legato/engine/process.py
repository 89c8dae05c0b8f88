"""Models in processes of their own: start, call, watch, end.

A worker that dies takes nothing with it but the call in hand: state comes with every call
and goes back with every answer, so any worker may take any sequence. One
:class:`ProcessRuntime` stands for one worker and for those that follow it after its death.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from xxhash import xxh3_128_digest

from legato.core.errors import BusyError, ConfigError, InstanceGoneError
from legato.core.types import OutputHeader
from legato.observe.log import get_logger
from legato.runtimes.base import StepResult
from legato.runtimes.worker import frames
from legato.runtimes.worker.frames import Channel, ChannelClosedError
from legato.runtimes.worker.messages import (
    from_endings,
    from_error,
    from_rows,
    to_error,
    to_signature,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Array, CorrelationId, EndReason, Signature
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import StepBatch

log = get_logger()

_HELD_FROM: Final = 1024
"""Bytes of a state from which it is not sent to the worker that has it already."""
_MOST_HELD: Final = 65_536
_MOST_HEADERS: Final = 1024
_MOST_ENDINGS: Final = 100_000
_POLITE_S: Final = 5.0
_KILLED_S: Final = 10.0


class WorkerGoneError(InstanceGoneError):
    """The worker is dead.

    Attributes:
        ran: It died in this call; else it was dead before, and the call was not begun.
        timed_out: It was killed because it took too long.
        killed: Somebody else killed it (SIGKILL: out of memory, for one).
    """

    def __init__(
        self, message: str, *, ran: bool, timed_out: bool = False, killed: bool = False
    ) -> None:
        super().__init__(message)
        self.ran = ran
        self.timed_out = timed_out
        self.killed = killed


class Worker:
    """One process that has loaded the model.

    Args:
        config: What to load.
        abandoned: Set to give up starting.

    Attributes:
        mark: Memory shared with the process: its first byte is set when it begins a call.

    Raises:
        ConfigError: The model cannot be loaded, took too long, or the process died.
    """

    def __init__(self, config: ModelConfig, abandoned: threading.Event) -> None:
        self.started_at = time.time()
        self._config = config
        self._killed = False
        ours, theirs = socket.socketpair()
        try:
            with theirs, tempfile.TemporaryFile() as marked:
                marked.truncate(mmap.PAGESIZE)
                self.mark = mmap.mmap(marked.fileno(), mmap.PAGESIZE)
                self._marked = marked.fileno()
                self._process = _spawn(config, theirs.fileno(), self._marked)
        except OSError as error:
            ours.close()
            raise ConfigError(
                f"no worker process can be started: {error}", key="worker.python"
            ) from error
        self.pid = self._process.pid
        self.channel = Channel(ours, shared_from=config.worker.shared_memory_from)
        try:
            self.signature = self._handshake(ours, abandoned)
        except BaseException:
            self.kill()
            raise

    def _handshake(self, sock: socket.socket, abandoned: threading.Event) -> Signature:
        config = self._config
        orders = {
            "path": [*config.worker.path, *(entry for entry in sys.path if entry), _source()],
            "environment": config.worker.environment,
            "hide": config.worker.hide_variables,
            "mark": self._marked,
        }
        raw = json.dumps(orders).encode()
        deadline = time.monotonic() + config.worker.startup_timeout_s
        try:
            sock.sendall(struct.pack("<I", len(raw)) + raw)
            greeting = {
                "config": config.model_dump_json(),
                "shared_from": config.worker.shared_memory_from,
            }
            self.channel.send(greeting, deadline=deadline)
            answer = self._first_words(deadline, abandoned)
        except TimeoutError:
            raise self._unable(
                f"the worker was not ready within {config.worker.startup_timeout_s:g} s",
                fix="raise 'worker.startup_timeout_s' (TorchServe: startupTimeout)",
            ) from None
        except (ChannelClosedError, OSError) as error:
            self.end()
            raise self._unable(f"the worker died while it loaded ({self.epitaph()})") from error
        if answer["kind"] == "failed":
            problem = to_error(answer["error"])
            raise problem if isinstance(problem, ConfigError) else self._unable(str(problem))
        try:
            return to_signature(answer["signature"])
        except msgspec.ValidationError as error:
            raise self._unable(f"the worker's signature cannot be read: {error}") from error

    def _first_words(self, deadline: float, abandoned: threading.Event) -> dict[str, Any]:
        """Wait for the model to be loaded, in slices so that it can be given up."""
        while True:
            slice_end = min(deadline, time.monotonic() + 0.25)
            try:
                return self.channel.receive(slice_end)[0]
            except TimeoutError:
                if abandoned.is_set():
                    raise self._unable("the model is being unloaded") from None
                if time.monotonic() >= deadline:
                    raise

    def _unable(self, problem: str, fix: str = "") -> ConfigError:
        return ConfigError(problem, file=str(self._config.folder), fix=fix)

    @property
    def alive(self) -> bool:
        """The process runs."""
        return self._process.poll() is None

    def epitaph(self) -> str:
        """How it ended, for people."""
        code = self._process.poll()
        if code is None:
            return "still running"
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"

    @property
    def killed(self) -> bool:
        """It ended by SIGKILL."""
        return self._process.poll() == -signal.SIGKILL

    def memory_bytes(self) -> int:
        """Resident memory, 0 where it cannot be read."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError, ValueError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> None:
        """Clear away what is left of it, once it has closed its side."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # how it ended is told by its own exit, if it gets there
        self.kill()

    def stop(self) -> None:
        """Let it close its model, then end it and whatever it started."""
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            deadline = time.monotonic() + _POLITE_S
            self.channel.send({"kind": "close"}, deadline=deadline)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_POLITE_S)
        self.kill()

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        if self._killed:  # its id may be another's by now
            return
        self._killed = True
        # It leads a session of its own, so whatever it started is in its group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_S)
        self.channel.close()


def _spawn(config: ModelConfig, sock: int, marked: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter, or the one the config names
        [
            config.worker.python or _interpreter(),
            "-u",
            # Envoy runs with a PYTHONHOME that would hide another interpreter's packages.
            "-E",
            str(Path(frames.__file__).with_name("boot.py")),
            str(sock),
            str(os.getpid()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=2,  # the server's log; its standard output is for what the server says
        pass_fds=[sock, marked],
        start_new_session=True,
    )


def _interpreter() -> str:
    """Return the interpreter of this environment; inside Envoy ``sys.executable`` is Envoy."""
    names = (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python")
    for name in names:
        candidate = Path(sys.prefix) / "bin" / name
        if candidate.exists():
            return str(candidate)
    return sys.executable


def _source() -> str:
    """Return the folder that this package is imported from."""
    return str(Path(__file__).parents[2])


class ProcessRuntime:
    """A runtime whose model lives in a worker process.

    Attributes:
        on_ask: Asks another model for this one, see :mod:`legato.engine.asking`.
        on_measured: Takes what the model measured of itself, if it does; in the thread of the call.

    Raises:
        ConfigError: The model cannot be loaded.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._abandoned = threading.Event()
        self._worker: Worker | None = None
        self._endings: deque[tuple[CorrelationId, EndReason]] = deque(maxlen=_MOST_ENDINGS)
        self._held: OrderedDict[CorrelationId, bytes] = OrderedDict()
        self.on_measured: Callable[[list[Any]], None] | None = None
        self.on_ask: Callable[..., Future[dict[str, Any]]] | None = None
        self._known_headers: dict[tuple[OutputHeader, ...], tuple[OutputHeader, ...]] = {}
        self.restarts = -1
        self.restart()
        self.signature: Signature = self._living().signature
        self._ragged = tuple(spec.name for spec in self.signature.states if spec.ragged)

    def __repr__(self) -> str:
        return f"<ProcessRuntime {self._config.name} pid={self.pid} restarts={self.restarts}>"

    @property
    def pid(self) -> int:
        """Process id of the worker, 0 for none."""
        return self._worker.pid if self._worker is not None else 0

    @property
    def alive(self) -> bool:
        """A worker is there to be called."""
        return self._worker is not None and self._worker.alive

    @property
    def started_at(self) -> float:
        """Wall-clock seconds at which the worker was started."""
        return self._worker.started_at if self._worker is not None else 0.0

    def memory_bytes(self) -> int:
        """Resident memory of the worker."""
        return self._worker.memory_bytes() if self._worker is not None else 0

    def restart(self) -> None:
        """Start a worker where none lives.

        Raises:
            ConfigError: The model cannot be loaded, or the runtime was closed meanwhile.
        """
        self._bury()
        if self._abandoned.is_set():
            raise ConfigError("the model is being unloaded", file=str(self._config.folder))
        worker = Worker(self._config, self._abandoned)
        if self.restarts >= 0 and worker.signature != self.signature:
            worker.kill()
            raise ConfigError(
                "the model has other tensors than before",
                file=str(self._config.folder),
                fix="load it anew",
            )
        self._worker = worker
        self.restarts += 1

    def abandon(self) -> None:
        """Give up a start that is under way; from any thread."""
        self._abandoned.set()

    def _living(self) -> Worker:
        if self._worker is None:
            raise WorkerGoneError("the worker process is being restarted", ran=False)
        return self._worker

    def _bury(self) -> None:
        """Clear away a worker that is dead or must be."""
        worker, self._worker = self._worker, None
        self._held.clear()
        if worker is not None:
            worker.kill()

    # -- calls --------------------------------------------------------------------------

    def step(self, batch: StepBatch) -> StepResult:
        """Run the model once in the worker; see :class:`legato.runtimes.base.Runtime`.

        Raises:
            WorkerGoneError: The worker is dead; no row is valid.
            Exception: What the model raised.
        """
        worker = self._living()
        if not worker.alive:  # it died while it was idle: no step is at fault
            self._bury()
            raise WorkerGoneError(f"the worker process died ({worker.epitaph()})", ran=False)
        deadline = time.monotonic() + self._config.worker.response_timeout_s
        worker.mark[0] = 0
        try:
            answer, data = self._ask(worker, batch, deadline, hold=True)
            if answer["kind"] == "wanted":
                self._forget(batch)
                answer, data = self._ask(worker, batch, deadline, hold=False)
        except TimeoutError:
            self._bury()
            raise WorkerGoneError(
                f"the worker did not answer within {self._config.worker.response_timeout_s:g} s "
                "and was killed",
                ran=True,
                timed_out=True,
            ) from None
        except ChannelClosedError:
            worker.end()
            how = worker.epitaph()
            log.warning("worker_died", model=self._config.name, pid=worker.pid, how=how)
            self._bury()
            # One that was killed before it came to the call is no fault of the call.
            raise WorkerGoneError(
                f"the worker process died ({how})", ran=bool(worker.mark[0]), killed=worker.killed
            ) from None
        measured = answer.get("measured")
        if measured and self.on_measured is not None:
            self.on_measured(measured)
        if answer["kind"] == "error":
            self._forget(batch)
            raise to_error(answer["error"])
        return self._result(worker, batch, answer, data)

    def _ask(
        self, worker: Worker, batch: StepBatch, deadline: float, *, hold: bool
    ) -> tuple[dict[str, Any], memoryview]:
        states = dict(batch.state)
        held = self._put_held(states, batch) if hold else {}
        message = {
            "kind": "step",
            "rows": from_rows(batch.rows),
            "held": held,
            "ended": from_endings(self._endings.popleft() for _ in range(len(self._endings))),
        }
        worker.channel.send(message, {"inputs": batch.inputs, "states": states}, deadline)
        while True:
            answer, data = worker.channel.receive(deadline)
            kind = answer["kind"]
            if kind == "ask":
                deadline = self._asked(worker, answer, data, deadline)
                continue
            if kind not in ("partial", "cancelled"):
                return answer, data
            row = batch.rows[answer["row"]]
            if kind == "cancelled":
                gone = row.asked is not None and row.asked.cancelled()
                worker.channel.send({"kind": "cancelled", "cancelled": gone}, deadline=deadline)
                continue
            # Whoever answers in parts is alive.
            deadline = time.monotonic() + self._config.worker.response_timeout_s
            partial = row.partial
            if partial is not None:
                partial(answer["body"], answer["meta"])

    def wish(
        self, worker: Worker, message: dict[str, Any], data: memoryview
    ) -> Future[dict[str, Any]]:
        """Ask another model what the worker's model wants to know of it."""
        if self.on_ask is None:
            return nobody()
        given = worker.channel.arrays(message["inputs"], data)
        # Copies: the memory is used again before the other model has run.
        return self.on_ask(message["wish"], {name: np.array(v) for name, v in given.items()})

    def _asked(
        self, worker: Worker, message: dict[str, Any], data: memoryview, deadline: float
    ) -> float:
        """Wait for another model's answer; the worker's time stands still meanwhile."""
        begun = time.monotonic()
        told = self.wish(worker, message, data).result(self._config.worker.response_timeout_s)
        deadline += time.monotonic() - begun
        worker.channel.send({"kind": "told", "id": message["id"], **told}, deadline=deadline)
        return deadline

    def _put_held(self, states: dict[str, Array], batch: StepBatch) -> dict[str, dict[int, bytes]]:
        """Leave out large states that the worker itself gave last."""
        found: dict[str, dict[int, bytes]] = {}
        for name in self._ragged:
            value = states[name]
            rows = {}
            for at, element in enumerate(value.tolist()):
                digest = self._held.get(batch.rows[at].correlation_id)
                if digest and len(element) >= _HELD_FROM and xxh3_128_digest(element) == digest:
                    rows[at] = digest
            if rows:
                states[name] = value.copy()
                states[name][list(rows)] = b""
                found[name] = rows
        return found

    def _forget(self, batch: StepBatch) -> None:
        for row in batch.rows:
            self._held.pop(row.correlation_id, None)

    def _result(
        self, worker: Worker, batch: StepBatch, answer: dict[str, Any], data: memoryview
    ) -> StepResult:
        outputs = worker.channel.arrays(answer["outputs"], data)
        states = worker.channel.arrays(answer["states"], data)
        failed = {row: to_error(error) for row, error in answer["failed"].items()}
        for name, rows in answer["kept"].items():
            before = batch.state[name]
            for row in rows:
                states[name][row] = before[row]
        for name in self._ragged:
            self._note_held(batch, states[name])
        for row in failed:
            self._held.pop(batch.rows[row].correlation_id, None)
        again = {row: (body, meta) for row, (body, meta) in answer["again"].items()}
        answers = answer.get("answers")
        if answers is not None:
            answers = [(self._headers(headers), tuple(data)) for headers, data in answers]
        return StepResult(
            outputs,
            states,
            failed,
            again,
            answer["over"],
            answer["bound"],
            answers,
            answer.get("unfinished", {}),
        )

    def _headers(self, plain: list[Any]) -> tuple[OutputHeader, ...]:
        """Make headers of plain data: equal ones are one object, which protocols make use of."""
        headers = tuple(OutputHeader(name, dtype, tuple(shape)) for name, dtype, shape in plain)
        if len(self._known_headers) > _MOST_HEADERS:
            self._known_headers.clear()
        return self._known_headers.setdefault(headers, headers)

    def _note_held(self, batch: StepBatch, states: Array) -> None:
        held = self._held
        for row, state in zip(batch.rows, states.tolist(), strict=True):
            if len(state) >= _HELD_FROM:
                held[row.correlation_id] = xxh3_128_digest(state)
                held.move_to_end(row.correlation_id)
            else:
                held.pop(row.correlation_id, None)
        while len(held) > _MOST_HELD:
            held.popitem(last=False)

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Remember it for the next call; from any thread."""
        self._endings.append((correlation_id, reason))

    @property
    def untold(self) -> bool:
        """Sequences ended that the worker was not told of."""
        return bool(self._endings)

    def tell(self) -> None:
        """Tell an idle worker of sequences that ended."""
        if not self._endings or self._worker is None:
            return
        endings = from_endings(self._endings.popleft() for _ in range(len(self._endings)))
        deadline = time.monotonic() + self._config.worker.response_timeout_s
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            self._worker.channel.send({"kind": "tell", "ended": endings}, deadline=deadline)

    def close(self) -> None:
        """Let the worker close its model, and end it."""
        self._abandoned.set()
        self.tell()
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()


def nobody() -> Future[dict[str, Any]]:
    """What a model is told that asks others before it is served: in a warm-up, for one."""
    told: Future[dict[str, Any]] = Future()
    error = from_error(BusyError("other models can be asked once the model is loaded"))
    told.set_result({"parts": [], "answer": None, "error": error})
    return told


def build(config: ModelConfig) -> ProcessRuntime:
    """Start one worker of a model. Blocks.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    if config.late:
        from legato.engine.late import LateRuntime

        return LateRuntime(config)
    return ProcessRuntime(config)
