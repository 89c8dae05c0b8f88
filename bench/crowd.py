"""A client of very many sequences: begins them in bulk, then steps some of them at a rate.

Every model answer is held against the sum of all that its sequence was sent, also across
deaths of the server. Steps leave when they are due, whether or not earlier ones were
answered, and latency counts from that moment: a server that stalls cannot hide it.
"""

from __future__ import annotations

import asyncio
import struct
import time
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np

from legato.bench.load import Check, Load
from legato.bench.wire import STREAM_INFER, VARIANTS, Template, Tensor, read_streamed
from legato.bench.worker import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

STREAMS = 8
WINDOW = 64
"""Unanswered steps a stream, while sequences are begun."""
TICK_S = 0.001
_ANSWER_S = 30.0


@dataclass
class Lane:
    """One kind of steps that go on at a rate.

    Attributes:
        rate: Steps a second.
        choose: Gives the number of the sequence to step next.
        due, took: Seconds (since the window began) when each step should leave, and how
            long its answer took from then.
    """

    rate: float
    choose: Callable[[], int]
    due: array[float] = field(default_factory=lambda: array("d"))
    took: array[float] = field(default_factory=lambda: array("d"))


class Crowd:
    """Sequences ``1..count`` of one model, and what each was sent so far.

    Args:
        model: Its name.
        inputs: What it takes.
        count: Number of sequences.

    Attributes:
        steps: Steps sent to each.
        sums: What each adds up to.
        wrong: Answers that were not the sum.
        errors: Texts of refusals, some of them.
    """

    def __init__(self, model: str, inputs: tuple[Tensor, ...], count: int) -> None:
        load = Load("", model, check=Check.SUM)
        self._template = Template(load, inputs)
        self.count = count
        self.steps = np.zeros(count, np.int32)
        self.sums = np.zeros(count, np.int64)
        self.wrong = 0
        self.failed = 0
        self.errors: list[str] = []
        self._serial = 0

    def __repr__(self) -> str:
        return f"<Crowd of {self.count}, {int(self.steps.sum())} steps>"

    def prepare(self, index: int) -> tuple[bytes, str, int]:
        """Return the next request of a sequence, its name, and the sum that it must give."""
        self._serial += 1
        name = str(self._serial)
        number = int(self.steps[index]) + 1
        variant = (index * 5 + number) % VARIANTS
        self.steps[index] = number
        self.sums[index] += self._template.amounts[variant]
        begin = self._template.sequence(index + 1)
        request = self._template.step(begin, name.encode(), number, variant, end=False)
        return request, name, int(self.sums[index])

    def take(self, data: bytes, expected: dict[str, int]) -> str:
        """Judge an answer; return the name of its request."""
        answer = read_streamed(data)
        total = expected.pop(answer.request, None)
        if answer.error or total is None:
            self.failed += 1
            if len(self.errors) < 20:
                self.errors.append(answer.error or f"nobody asked for '{answer.request}'")
        elif answer.raw != struct.pack("<f", total):
            self.wrong += 1
        return answer.request

    # -- as fast as it goes ------------------------------------------------------------------

    async def rush(self, address: str, indices: Iterable[int], streams: int = STREAMS) -> None:
        """Step each of these sequences once, in order, with a window of unanswered steps."""
        source = iter(indices)
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            await asyncio.gather(*[self._rush(channel, source) for _ in range(streams)])

    async def _rush(self, channel: grpc.aio.Channel, source: Iterator[int]) -> None:
        call: Any = channel.stream_stream(STREAM_INFER)()
        expected: dict[str, int] = {}
        room = asyncio.Semaphore(WINDOW)

        async def write() -> None:
            for index in source:
                await room.acquire()
                request, name, expected[name] = self.prepare(index)
                await call.write(request)
            await call.done_writing()

        writing = asyncio.create_task(write())
        while (data := await call.read()) is not grpc.aio.EOF:
            self.take(data, expected)
            room.release()
        await writing
        self.failed += len(expected)

    # -- at a rate ---------------------------------------------------------------------------

    async def keep(self, address: str, lanes: list[Lane], seconds: float) -> array[float]:
        """Step at the rates of these lanes for a while, then wait for the answers.

        Returns:
            Seconds by which this process was late itself, at each tick: what the machine
            adds to every latency, whatever the server does.
        """
        late = array("d")
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            await channel.channel_ready()  # what it takes to connect is not what is measured
            streams = [_Stream(self, channel) for _ in range(STREAMS)]
            began = time.perf_counter()
            sent = [0] * len(lanes)
            while (now := time.perf_counter() - began) < seconds:
                for at, lane in enumerate(lanes):
                    while sent[at] < now * lane.rate:
                        due = sent[at] / lane.rate
                        sent[at] += 1
                        index = lane.choose()  # its steps share a stream: they stay in order
                        streams[index % STREAMS].send(index, lane, began, due)
                tick = time.perf_counter()
                await asyncio.sleep(TICK_S)
                late.append(time.perf_counter() - tick - TICK_S)
            await asyncio.gather(*[stream.finish() for stream in streams])
        return late


class _Stream:
    """A stream that steps are written to as they come, in order."""

    def __init__(self, crowd: Crowd, channel: grpc.aio.Channel) -> None:
        self._crowd = crowd
        self._call: Any = channel.stream_stream(STREAM_INFER)()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._expected: dict[str, int] = {}
        self._began: dict[str, tuple[Lane, float, float]] = {}
        self._tasks = [asyncio.create_task(self._write()), asyncio.create_task(self._read())]

    def send(self, index: int, lane: Lane, began: float, due: float) -> None:
        request, name, total = self._crowd.prepare(index)
        self._expected[name] = total
        self._began[name] = lane, began, due
        self._queue.put_nowait(request)

    async def _write(self) -> None:
        while (request := await self._queue.get()) is not None:
            await self._call.write(request)
        await self._call.done_writing()

    async def _read(self) -> None:
        while (data := await self._call.read()) is not grpc.aio.EOF:
            now = time.perf_counter()
            lane, began, due = self._began.pop(self._crowd.take(data, self._expected))
            lane.due.append(due)
            lane.took.append(now - began - due)

    async def finish(self) -> None:
        self._queue.put_nowait(None)
        await asyncio.wait_for(asyncio.gather(*self._tasks), _ANSWER_S)
        self._crowd.failed += len(self._expected)
