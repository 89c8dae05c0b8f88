"""Streaming clients that number their steps and never give up, and what they saw.

Written against the bare wire, not with Legato's own client: what is tested here is the
server, and a mistake in the client must not hide one there.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
from tests.models.chain import STATE_BYTES, advance, input_of, replay

from legato.core.types import SequenceKey
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.stores.base import Damaged, Missing
from legato.stores.registry import open_store

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "chain"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
ANSWER_S = 30.0
LEAVE_S = 2.0
CLIENTS_A_CHANNEL = 8
RETRIED = frozenset(
    "storage_full store_unavailable draining unavailable queue_full internal model_failed".split()
)
"""Reasons after which the same step may be sent again."""
RETRIED_CODES = frozenset(
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,  # what grpc makes of a connection cut inside a frame
        grpc.StatusCode.DEADLINE_EXCEEDED,
    ]
)
SERVERS_FAULT = "internal error; the server's log tells more"
"""What the server says where it should never come to."""

OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
]

STREAM_ENDED = (asyncio.InvalidStateError, grpc.aio.InternalError)
"""What grpc raises for an operation on a stream that ended between two messages."""


class BrokenPromiseError(AssertionError):
    """The server broke a promise: a step lost, applied twice, or out of order."""


@dataclass
class Seen:
    """What all clients saw together."""

    acknowledged: int = 0
    replayed: int = 0
    breaks: int = 0
    codes: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    levels: Counter = field(default_factory=Counter)
    pauses: list[float] = field(default_factory=list)

    def pause(self, share: float) -> float:
        """Return the pause that this share of the interrupted streams stayed below."""
        ordered = sorted(self.pauses)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} steps acknowledged, {self.replayed} of them from a receipt; "
            f"{self.breaks} broken streams, pauses p50 {self.pause(0.5):.2f} s, "
            f"p99 {self.pause(0.99):.2f} s; {dict(self.codes)} {dict(self.reasons)}"
        )


class ChainClient:
    """One stream of one sequence, with up to ``window`` steps sent ahead."""

    def __init__(self, channel, sequence: int | str, seen: Seen, window: int, **parameters):
        self.sequence = sequence
        self.step = 0
        self.state = bytes(STATE_BYTES)
        self.unanswered: deque[int] = deque()
        self.seen = seen
        self.window = window
        self.parameters = parameters
        self._sent = 0
        self._stub = channel.stream_stream(
            STREAM,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        self._broken = False
        self._last = time.monotonic()

    def request(self, number: int) -> pb.ModelInferRequest:
        made = pb.ModelInferRequest(model_name=MODEL, id=f"{self.sequence}-{number}")
        name = "string_param" if isinstance(self.sequence, str) else "int64_param"
        setattr(made.parameters["sequence_id"], name, self.sequence)
        made.parameters["sequence_step"].int64_param = number
        made.parameters["sequence_acknowledged"].int64_param = self.step
        if number == 1:
            made.parameters["sequence_start"].bool_param = True
            for key, value in self.parameters.items():
                kind = "string_param" if isinstance(value, str) else "int64_param"
                setattr(made.parameters[key], kind, value)
        made.inputs.add(name="data", datatype="UINT8", shape=[1, 8])
        made.raw_input_contents.append(input_of(self.sequence, number))
        return made

    async def run(self, stop: asyncio.Event) -> None:
        """Stream until told to stop and everything sent is answered."""
        while not stop.is_set() or self.unanswered:
            call = self._stub()
            try:
                if not await self._stream(call, stop):
                    self._interrupted()
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED_CODES or SERVERS_FAULT in (error.details() or ""):
                    raise
                self.seen.codes[error.code().name] += 1
                self._interrupted()
            except STREAM_ENDED:
                self._interrupted()
            finally:
                await self._leave(call)
            await asyncio.sleep(random.uniform(0.02, 0.1))

    async def _leave(self, call) -> None:
        """End a stream politely: Envoy closes connections whose streams are reset too often."""
        try:
            async with asyncio.timeout(LEAVE_S):
                await call.done_writing()
                while await call.read() is not grpc.aio.EOF:
                    pass
        except (grpc.aio.AioRpcError, *STREAM_ENDED, TimeoutError):
            pass
        finally:
            call.cancel()

    def _interrupted(self) -> None:
        if not self._broken:
            self._broken = True
            self.seen.breaks += 1

    async def _stream(self, call, stop: asyncio.Event) -> bool:
        """Talk over one stream; false if it has to be opened again."""
        for number in self.unanswered:
            await call.write(self.request(number))
        while True:
            while len(self.unanswered) < self.window and not stop.is_set():
                self._sent += 1
                self.unanswered.append(self._sent)
                await call.write(self.request(self._sent))
            if not self.unanswered:
                await call.done_writing()
                return True
            reply = await asyncio.wait_for(call.read(), ANSWER_S)
            if reply is grpc.aio.EOF:
                code = await call.code()
                self.seen.codes[code.name] += 1
                if code not in RETRIED_CODES or SERVERS_FAULT in await call.details():
                    raise BrokenPromiseError(f"{self.sequence}: the stream ended with {code}")
                return False
            if not self._take(reply):
                return False

    def _take(self, reply: pb.ModelStreamInferResponse) -> bool:
        found = reply.infer_response.parameters
        number = self.unanswered[0]
        if reply.error_message:
            reason = found["legato-reason"].string_param
            self.seen.reasons[reason] += 1
            if reason not in RETRIED:
                raise BrokenPromiseError(f"{self.sequence} step {number}: {reply.error_message}")
            return False
        if found["sequence_step"].int64_param != number:
            raise BrokenPromiseError(
                f"{self.sequence}: step {number} was answered as {found['sequence_step']}"
            )
        expected = advance(self.state, input_of(self.sequence, number))
        if reply.infer_response.raw_output_contents[0] != expected:
            raise BrokenPromiseError(f"{self.sequence}: the answer to step {number} is not its own")
        self.unanswered.popleft()
        self.step, self.state = number, expected
        now = time.monotonic()
        seen = self.seen
        seen.acknowledged += 1
        seen.replayed += "sequence_replayed" in found
        seen.levels[found["sequence_durability"].string_param] += 1
        if self._broken:
            seen.pauses.append(now - self._last)
            self._broken = False
        self._last = now
        return True


class Fleet:
    """Many clients of one server.

    Args:
        address: ``host:port``.
        sequences: Their ids.
        window: Steps that each sends ahead.
        parameters: Parameters of the first request of each.
    """

    def __init__(self, address: str, sequences, *, window: int = 4, **parameters) -> None:
        self.seen = Seen()
        self.stop = asyncio.Event()
        self._channels = [
            grpc.aio.insecure_channel(address, options=OPTIONS)
            for _ in range(0, len(sequences), CLIENTS_A_CHANNEL)
        ]
        self.clients = [
            ChainClient(
                self._channels[at // CLIENTS_A_CHANNEL], name, self.seen, window, **parameters
            )
            for at, name in enumerate(sequences)
        ]
        self._task: asyncio.Future | None = None
        self._before: set[asyncio.Task] = set()

    async def __aenter__(self) -> Self:
        self._before = asyncio.all_tasks()
        self._task = asyncio.gather(*(client.run(self.stop) for client in self.clients))
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        # grpc leaves a task behind for each call whose write has failed.
        for _attempt in range(20):
            left = asyncio.all_tasks() - self._before - {asyncio.current_task()}
            if not left:
                break
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=0.2)

    def check(self) -> None:
        """Raise what a client found wrong, if any did."""
        if self._task.done():
            self._task.result()

    async def until(self, condition, timeout_s: float = 60.0) -> None:
        """Let the clients go on until something holds."""
        until = time.monotonic() + timeout_s
        while not condition():
            self.check()
            assert time.monotonic() < until, f"it did not happen in time; {self.seen}"
            await asyncio.sleep(0.02)

    async def more(self, steps: int, timeout_s: float = 60.0) -> None:
        """Wait for so many further acknowledged steps."""
        goal = self.seen.acknowledged + steps
        await self.until(lambda: self.seen.acknowledged >= goal, timeout_s)

    async def finish(self, timeout_s: float = 60.0) -> None:
        """Let each client finish what it has sent."""
        self.stop.set()
        await asyncio.wait_for(asyncio.shield(self._task), timeout_s)

    def compare(self, folder: Path, kind: str = "log") -> None:
        """Compare every client's last step with the store of a stopped server, bit for bit.

        And with a clean replay, which neither the server nor the client has a part in.
        """
        store = open_store(kind, folder, level="process", clock=time.time)
        try:
            for client in self.clients:
                found = store.read(SequenceKey(MODEL, client.sequence))
                assert not isinstance(found, Damaged | Missing), (client.sequence, found)
                head, state = found
                assert head.step == client.step, client.sequence
                assert state.data == (client.state,), client.sequence
                assert client.state == replay(client.sequence, client.step), client.sequence
        finally:
            store.close()


def ask(address: str, client: ChainClient) -> str:
    """Send a client's next step by a call of its own; return ``ok``, or the reason and status.

    Raises:
        BrokenPromiseError: The answer is wrong.
    """
    number = client.step + 1
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        try:
            reply = call(client.request(number), timeout=ANSWER_S)
        except grpc.RpcError as error:
            return f"{dict(error.trailing_metadata())['legato-reason']} {error.code().name}"
    expected = advance(client.state, input_of(client.sequence, number))
    if reply.raw_output_contents[0] != expected:
        raise BrokenPromiseError(f"{client.sequence}: the answer to step {number} is not its own")
    client.step, client.state = number, expected
    return "ok"
