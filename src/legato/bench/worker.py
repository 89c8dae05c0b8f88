"""A process that makes load: one asyncio loop, requests and answers as bytes.

It costs the machine about 20 us of CPU a streamed step (grpc.aio on uvloop, messages
neither serialised nor parsed by grpc); the synchronous client costs several times that.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import time
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
import grpc.aio
import uvloop

from legato.bench.slot import Slot
from legato.bench.wire import INFER, STREAM_INFER, Answer, Template, read_streamed, read_unary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from legato.bench.load import Load
    from legato.bench.wire import Tensor

TICK_S: Final = 0.02
BACK_OFF_S: Final = 0.05
_END_S: Final = 5.0
_KINDS_OF_ERRORS: Final = 100
_NUMBERS: Final = re.compile(r"\d+")

# Places in the row of counters that a worker shares with its generator.
STEPS, FAILED, WRONG, SEQUENCES, PLACES = range(5)
# What the generator says.
HOLD, GO, FINISH = range(3)

OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker does.

    Attributes:
        load: The whole load.
        inputs: What the model takes.
        output: Data type and number of elements of its first output.
        index: Number of this worker.
    """

    load: Load
    inputs: tuple[Tensor, ...]
    output: tuple[str, int]
    index: int


class Shared(NamedTuple):
    """Memory that generator and workers share.

    Attributes:
        orders: What the workers do now, and the number of the window they are in.
        counters: ``PLACES`` numbers a worker.
        cpu_s: CPU seconds of each worker, brought up to date every tick.
    """

    orders: Any
    counters: Any
    cpu_s: Any


class Report(NamedTuple):
    """What a worker tells now and then; counts are in the shared counters.

    Attributes:
        window: Number of the window that the latencies belong to.
        latencies: Seconds as float64.
        errors: Texts and how often they came since the last report.
        ready: It stands by, and has not made any load yet.
    """

    window: int
    latencies: bytes
    errors: Counter[str]
    ready: bool = False


def work(job: Job, shared: Shared, pipe: Connection) -> None:
    """Make the load that the generator asks for; the main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the generator tells when to stop
    gc.freeze()
    uvloop.run(Worker(job, shared, pipe).run())


def without_numbers(text: str) -> str:
    """Return an error's text such that errors of many sequences fall together."""
    return _NUMBERS.sub("#", text.strip())[:300]


class Worker:
    """The slots of one process and their connections."""

    def __init__(self, job: Job, shared: Shared, pipe: Connection) -> None:
        load = job.load
        template = Template(load, job.inputs)
        mine = range(job.index, load.sequences, load.processes)
        self.load = load
        self.slots = [Slot(load, template, index, job.output) for index in mine]
        self.going = asyncio.Event()
        self.finishing = False
        self.left = -(-load.steps // load.processes) if load.steps else -1
        self._told = asyncio.Event()
        self._orders = shared.orders
        self._counters = shared.counters
        self._cpu_s = shared.cpu_s
        self._index = job.index
        self._base = job.index * PLACES
        self._pipe = pipe
        self._window = 0
        self._latencies = array("d")
        self._errors: Counter[str] = Counter()
        self._begun = 0.0

    def __repr__(self) -> str:
        return f"<Worker slots={len(self.slots)} finishing={self.finishing}>"

    async def run(self) -> None:
        """Stand by, make load, end the sequences, leave."""
        channels = [self._channel() for _ in range(self.load.channels)]
        self._pipe.send(Report(0, b"", Counter(), ready=True))
        ticking = asyncio.create_task(self._tick())
        await self.going.wait()
        self._begun = time.perf_counter()
        tasks = [
            asyncio.create_task(self._keep_at_it(group, channels[at % len(channels)]))
            for at, group in enumerate(self._groups())
        ]
        await self._until_finishing(tasks)
        ticking.cancel()
        for channel in channels:
            await channel.close(None)
        self._report()
        self._pipe.close()

    def _channel(self) -> grpc.aio.Channel:
        if self.load.secure:
            roots = grpc.ssl_channel_credentials()
            return grpc.aio.secure_channel(self.load.address, roots, options=OPTIONS)
        return grpc.aio.insecure_channel(self.load.address, options=OPTIONS)

    def _groups(self) -> list[list[Slot]]:
        """Put together the slots that share a stream."""
        size = self.load.per_stream if self.load.streaming else 1
        return [self.slots[at : at + size] for at in range(0, len(self.slots), size)]

    async def _until_finishing(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait for the slots; once told to finish, not for long."""
        all_done = asyncio.gather(*tasks)
        told = asyncio.create_task(self._told.wait())
        both: set[asyncio.Future[Any]] = {all_done, told}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(all_done, _END_S)
        told.cancel()

    async def _keep_at_it(self, group: list[Slot], channel: grpc.aio.Channel) -> None:
        """Make the load of a few slots, whatever happens to their connection."""
        while not self.over:
            try:
                if not self.load.streaming:
                    await self._call_by_call(group[0], channel)
                elif len(group) == 1:
                    await self._alone_on_a_stream(group[0], channel)
                else:
                    await SharedStream(self, group, channel).run()
            except grpc.aio.AioRpcError as error:
                self.refused(f"{error.code().name}: {error.details()}")
                for slot in group:
                    slot.failed()
                await asyncio.sleep(BACK_OFF_S)

    # -- transports -----------------------------------------------------------------------

    async def _call_by_call(self, slot: Slot, channel: grpc.aio.Channel) -> None:
        call: Any = channel.unary_unary(INFER)
        due = self.first_due(slot)
        while not self.over or slot.number:
            sent = await self.turn(due)
            data = await call(slot.request(last=self.over))
            self.took(slot, read_unary(data), sent)
            due = self.next_due(due)

    async def _alone_on_a_stream(self, slot: Slot, channel: grpc.aio.Channel) -> None:
        call: Any = channel.stream_stream(STREAM_INFER)()
        due = self.first_due(slot)
        while not self.over or slot.number:
            sent = await self.turn(due)
            await write(call, slot.request(last=self.over))
            data = await call.read()
            if data is grpc.aio.EOF:
                raise await ended(call)
            if not self.took(slot, read_streamed(data), sent):
                await asyncio.sleep(BACK_OFF_S)
            due = self.next_due(due)
        await call.done_writing()
        await call.read()

    # -- what all transports do -------------------------------------------------------------

    @property
    def over(self) -> bool:
        """No further sequences are begun, and those that are get their end."""
        return self.finishing or self.left == 0

    def first_due(self, slot: Slot) -> float:
        """When a slot's first step should leave; 0 = at once."""
        load = self.load
        return self._begun + (int(slot.name) + 1) / load.rate if load.rate else 0.0

    def next_due(self, due: float) -> float:
        """When the step after the one that was due then should leave."""
        return due + self.load.sequences / self.load.rate if due else 0.0

    async def turn(self, due: float) -> float:
        """Wait for a step's turn; return when it was due: that is where latency begins."""
        if not self.going.is_set():
            await self.going.wait()
        now = time.perf_counter()
        if not due:
            return now
        while due > now and not self.over:
            await asyncio.sleep(min(due - now, 0.5))
            now = time.perf_counter()
        return due

    def took(self, slot: Slot, answer: Answer, sent: float) -> bool:
        """Count an answer; false for an error."""
        if answer.error:
            slot.failed()
            self.refused(answer.error)
            return False
        self._latencies.append(time.perf_counter() - sent)
        counters, base = self._counters, self._base
        counters[base + STEPS] += 1
        if self.left > 0:
            self.left -= 1
        if not slot.answered(answer.raw):
            counters[base + WRONG] += 1
        if not slot.number:
            counters[base + SEQUENCES] += 1
        return True

    def refused(self, text: str) -> None:
        """Count a step without an answer."""
        self._counters[self._base + FAILED] += 1
        kind = without_numbers(text)
        if kind not in self._errors and len(self._errors) >= _KINDS_OF_ERRORS:
            kind = "(other errors)"
        self._errors[kind] += 1

    # -- generator ------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Look what the generator wants, and report."""
        parent = os.getppid()
        while True:
            if os.getppid() != parent:
                os._exit(1)  # the generator was killed: nobody would ever stop this load
            order, window = self._orders
            self._cpu_s[self._index] = time.process_time()
            if window != self._window:
                self._report()
                self._window = window
            elif len(self._latencies) > 2000 or self._errors:
                self._report()
            if order == HOLD:
                self.going.clear()
            else:
                self.going.set()
            if order == FINISH:
                self.finishing = True
                self._told.set()
            await asyncio.sleep(TICK_S)

    def _report(self) -> None:
        self._cpu_s[self._index] = time.process_time()
        self._pipe.send(Report(self._window, self._latencies.tobytes(), self._errors))
        self._latencies = array("d")
        self._errors = Counter()


class SharedStream:
    """Several slots on one stream: answers find their slot by the request's id.

    grpc takes one message of a stream at a time, so one task writes for all.
    """

    def __init__(self, worker: Worker, slots: list[Slot], channel: grpc.aio.Channel) -> None:
        self._worker = worker
        self._slots = {slot.name: slot for slot in slots}
        self._call: Any = channel.stream_stream(STREAM_INFER)()
        self._ready: asyncio.Queue[Slot | None] = asyncio.Queue()
        self._due = {slot.name: worker.first_due(slot) for slot in slots}
        self._sent: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<SharedStream slots={len(self._slots)} unanswered={len(self._sent)}>"

    async def run(self) -> None:
        """Take turns until the worker is told to finish."""
        writing = asyncio.create_task(self._write())
        try:
            for slot in self._slots.values():
                self._prepare(slot)
            live = len(self._slots)
            while live:
                data = await self._call.read()
                if data is grpc.aio.EOF:
                    raise await ended(self._call)
                live -= not self._take(read_streamed(data))
            self._ready.put_nowait(None)
            await writing
            await self._call.done_writing()
            await self._call.read()
        finally:
            writing.cancel()

    async def _write(self) -> None:
        worker = self._worker
        while (slot := await self._ready.get()) is not None:
            self._sent[slot.name] = await worker.turn(self._due[slot.name] and time.perf_counter())
            with contextlib.suppress(grpc.aio.AioRpcError):  # the reader hears of it too
                await write(self._call, slot.request(last=worker.over))

    def _take(self, answer: Answer) -> bool:
        """Give an answer to its slot; whether the slot goes on."""
        worker = self._worker
        slot = self._slots.get(answer.request.partition("-")[0])
        if slot is None:
            worker.refused(
                f"an answer to '{answer.request}', which nobody has asked: {answer.error}"
            )
            return True
        due = self._due[slot.name]
        good = worker.took(slot, answer, due or self._sent[slot.name])
        self._due[slot.name] = worker.next_due(due)
        if worker.over and not slot.number:
            return False
        self._prepare(slot, 0.0 if good else BACK_OFF_S)
        return True

    def _prepare(self, slot: Slot, wait_s: float = 0.0) -> None:
        wait_s = max(wait_s, self._due[slot.name] - time.perf_counter())
        if wait_s > 0 and not self._worker.over:
            asyncio.get_running_loop().call_later(wait_s, self._ready.put_nowait, slot)
        else:
            self._ready.put_nowait(slot)


async def write(call: Any, data: bytes) -> None:
    """Write to a stream; if it has ended, raise the error that says how."""
    try:
        await call.write(data)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        raise await ended(call) from None


async def ended(call: Any) -> grpc.aio.AioRpcError:
    """Return the error that says how a stream ended before its time."""
    empty = grpc.aio.Metadata()
    code, details = await call.code(), await call.details() or ""
    # grpc.aio forgets the status when a write comes too late; it says "Internal error from Core".
    if code is grpc.StatusCode.OK or "error from Core" in details:
        code, details = grpc.StatusCode.CANCELLED, "the stream was ended by the server"
    return grpc.aio.AioRpcError(code, empty, empty, details)
