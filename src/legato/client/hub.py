"""What the sequences of one client share: connections, knowledge of models. On a loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from legato.client.errors import (
    Failure,
    Hope,
    SequenceError,
    SequenceGoneError,
    StepConflictError,
    UnavailableError,
    hope,
    refusal,
)
from legato.client.pilot import Pilot
from legato.client.window import LONGEST_WAIT_S, SHORTEST_WAIT_S, Patience, Window
from legato.client.wire import SERVICE, StepWriter, failure_of, model_info, start_parameters
from legato.core.ids import id_to_text
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.sequences.gen import sequences_pb2 as seq_pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from legato.client.tensors import ModelInfo

log = logging.getLogger("legato.client")

_SEQUENCES = "/legato.v1.Sequences/"
_CHECK_S = 0.25
_INFO_AGE_S = 30.0
_CHANNEL_OPTIONS: dict[str, int] = {
    # A restarted server is to be found again at once, not after minutes.
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 5000,  # in spite of its name: the limit of one attempt
    # Each channel is to be a connection of its own.
    "grpc.use_local_subchannel_pool": 1,
    # A server that vanished without a word is noticed while steps wait for it.
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5000,
    "grpc.max_send_message_length": -1,
    "grpc.max_receive_message_length": -1,
}


@dataclass(frozen=True, slots=True)
class Options:
    """How a client reaches its server.

    Attributes:
        address: ``host:port``.
        credentials: For TLS; ``None`` = plain text.
        metadata: Sent with every call, for example an authorization.
        patience: How long to keep trying.
        streams_per_connection: Sequences that share a connection. Proxies limit it.
        channel_options: Options of gRPC channels, over our own.
    """

    address: str
    credentials: grpc.ChannelCredentials | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    patience: Patience = Patience()  # noqa: RUF009 - frozen
    streams_per_connection: int = 500
    channel_options: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """What a sequence is opened or resumed with.

    Attributes:
        model, version, id: What to step.
        prefix: Begins the request ids.
        step: Number of the last step known; 0 = begin the sequence, ``None`` = ask for it.
        incarnation: Which sequence of this id is meant; "" = any.
        outputs: Outputs asked for.
        window: Steps that may be under way at once.
        starting: Parameters that go with the first step.
        keep: Leaving the ``with`` block does not end it.
    """

    model: str
    version: str
    id: int | str
    prefix: str
    step: int | None = 0
    incarnation: str = ""
    outputs: Sequence[str] = ()
    window: int = 1
    starting: Mapping[str, bool | float | str] = field(default_factory=start_parameters)
    keep: bool = False

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"sequence {self.id!r} of model '{self.model}'"


class _Connection:
    """A channel, and how many sequences use it."""

    def __init__(self, options: Options) -> None:
        settings = list({**_CHANNEL_OPTIONS, **options.channel_options}.items())
        if options.credentials is None:
            self.channel = grpc.aio.insecure_channel(options.address, options=settings)
        else:
            self.channel = grpc.aio.secure_channel(
                options.address, options.credentials, options=settings
            )
        self.users = 0
        self.stream: Any = self.channel.stream_stream(
            SERVICE + "ModelStreamInfer",
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )


class Hub:
    """The part of a client that lives on a loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._connections: list[_Connection] = []
        self._pilots: dict[Pilot, _Connection] = {}
        self._models: dict[tuple[str, str], tuple[float, ModelInfo]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._told = False
        self._checking = self._loop.create_task(self._check(), name="legato client")

    def __repr__(self) -> str:
        return (
            f"<Hub {self._options.address} sequences={len(self._pilots)} "
            f"connections={len(self._connections)}>"
        )

    @property
    def connections(self) -> int:
        """Number of connections."""
        return len(self._connections)

    # -- sequences ------------------------------------------------------------------------

    async def find(self, target: Target) -> Target:
        """Return the target with the step and the incarnation that the server has of it.

        Raises:
            SequenceGoneError: It is not live.
            SequenceError: The server cannot tell.
        """
        try:
            return await self._look(target)
        except _NotOfferedError as error:
            raise SequenceError(
                f"{target.where}: this server does not tell its step; give it: resume(..., step)",
                code=error.code,
            ) from None

    async def _look(self, target: Target) -> Target:
        answer = await self._ask(
            _SEQUENCES + "Describe",
            seq_pb.DescribeRequest(model=target.model, id=id_to_text(target.id)),
            seq_pb.DescribeResponse,
            target.where,
        )
        told = answer.sequence
        if target.incarnation not in ("", told.incarnation):
            raise _gone(target, "the id is that of a later sequence", "sequence_recreated")
        if told.status != "live":
            raise _gone(target, f"{told.status} after step {told.step}", told.status)
        return replace(target, step=told.step, incarnation=told.incarnation)

    def open(self, target: Target, model: ModelInfo) -> Pilot:
        """Make ready for the steps of a sequence; nothing is sent yet."""
        connection = self._connection()
        step = target.step or 0
        metadata = (*self._options.metadata, _routing(target))
        if model.receipts is None:
            # Not one of ours: it tells the status of a refusal only by ending the stream.
            metadata += (("triton_grpc_error", "true"),)
        pilot = Pilot(
            target.where,
            Window(
                target.prefix,
                size=target.window,
                acknowledged=step,
                patience=self._options.patience,
            ),
            StepWriter(
                target.model, target.version, target.id, target.outputs, starting=target.starting
            ),
            incarnation=target.incarnation,
            connect=lambda: connection.stream(metadata=metadata, wait_for_ready=True),
            state=lambda: self._state(connection),
        )
        connection.users += 1
        self._pilots[pilot] = connection
        return pilot

    async def release(self, pilot: Pilot) -> None:
        """Close the stream of a sequence; the sequence itself lives on."""
        connection = self._pilots.pop(pilot, None)
        if connection is not None:
            connection.users -= 1
        await pilot.close()

    async def end(self, pilot: Pilot, target: Target) -> None:
        """Close the stream of a sequence and end it, if its last step has not; repeatable.

        What is ended is the incarnation that this client has stepped, never a later
        sequence that has the id by now. A server without the sequence API keeps it.

        Raises:
            SequenceError: It is not known which sequence that is, or no answer came.
        """
        await self.release(pilot)
        reached = pilot.window.acknowledged
        if pilot.over or not reached + pilot.unanswered:
            return
        try:
            if not pilot.incarnation:
                pilot.incarnation = await self._incarnation(target, reached, pilot.unanswered)
            await self._ask(
                _SEQUENCES + "End",
                seq_pb.EndRequest(
                    model=target.model, id=id_to_text(target.id), incarnation=pilot.incarnation
                ),
                seq_pb.EndResponse,
                target.where,
            )
        except SequenceGoneError:
            pass  # it has ended already, which is all that is wanted
        except _NotOfferedError:
            if not self._told:
                log.warning(
                    "%s cannot end a sequence without a step: sequences left by this client "
                    "live on until their idle limit", self._options.address,
                )  # fmt: skip
            self._told = True

    async def _incarnation(self, target: Target, reached: int, unanswered: int) -> str:
        """Find out which incarnation this client has stepped."""
        if not reached:
            raise SequenceError(
                f"{target.where} cannot be ended: its first step has no answer, so it is not "
                "known whether what has the id is this sequence",
                reason="unanswered",
                step=1,
            )
        found = await self._look(target)
        step = found.step or 0
        if not reached <= step <= reached + unanswered:
            raise StepConflictError(
                f"{target.where} is not ended: it is at step {step}, and this client at {reached}",
                reason="step_taken",
                expected_step=step + 1,
            )
        return found.incarnation

    def forget(self, pilot: Pilot) -> None:
        """Close the stream of a sequence that nobody holds any more; from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all streams with it
            self._loop.call_soon_threadsafe(self._let_go, pilot)

    def _let_go(self, pilot: Pilot) -> None:
        if pilot in self._pilots:
            task = self._loop.create_task(self.release(pilot))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close all streams and connections."""
        releasing = [self.release(pilot) for pilot in list(self._pilots)]
        await asyncio.gather(*releasing, *self._leaving)
        self._checking.cancel()
        for connection in self._connections:
            await connection.channel.close()
        self._connections.clear()

    def _connection(self) -> _Connection:
        """Return the connection with the most room, a new one if there is no room."""
        best = min(self._connections, key=lambda c: c.users, default=None)
        if best is None or best.users >= self._options.streams_per_connection:
            best = _Connection(self._options)
            self._connections.append(best)
        return best

    def _state(self, connection: _Connection) -> str:
        state = connection.channel.get_state()
        if state is grpc.ChannelConnectivity.READY:
            return "the server does not answer"
        return f"no connection to {self._options.address} ({state.name.lower()})"

    async def _check(self) -> None:
        """Look for connections that have fallen silent."""
        while True:
            await asyncio.sleep(_CHECK_S)
            now = self._loop.time()
            for pilot in self._pilots:
                pilot.check(now)

    # -- models ---------------------------------------------------------------------------

    async def model(self, name: str, version: str = "") -> ModelInfo:
        """Return what the server tells of a model.

        Raises:
            SequenceError: It is not served, or the server does not answer.
        """
        known = self._models.get((name, version))
        if known is not None and self._loop.time() - known[0] < _INFO_AGE_S:
            return known[1]
        where = f"model '{name}'"
        metadata = await self._ask(
            SERVICE + "ModelMetadata",
            pb.ModelMetadataRequest(name=name, version=version),
            pb.ModelMetadataResponse,
            where,
        )
        try:
            config = await self._ask(
                SERVICE + "ModelConfig",
                pb.ModelConfigRequest(name=name, version=version),
                pb.ModelConfigResponse,
                where,
            )
        except _NotOfferedError:
            info = model_info(metadata, None)  # a server of the protocol's core only
        else:
            info = model_info(metadata, config.config)
        self._models[name, version] = (self._loop.time(), info)
        return info

    async def _ask(self, path: str, request: Message, answer: Any, where: str) -> Any:
        """Make a unary call, again and again if need be."""
        connection = self._connection()
        call = connection.channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        patience = self._options.patience
        until = self._loop.time() + patience.retry_for_s
        while True:
            left = max(0.001, min(until - self._loop.time(), patience.attempt_timeout_s))
            try:
                return await call(
                    request, timeout=left, metadata=self._options.metadata, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                failure = failure_of(
                    error.code().name, error.details() or "", error.trailing_metadata()
                )
            if failure.code == "UNIMPLEMENTED":
                raise _NotOfferedError(f"{where}: {path} is not offered", code=failure.code)
            if hope(failure) is Hope.NONE:
                raise refusal(failure, where)
            if self._loop.time() >= until:
                raise self._no_answer(failure, where, connection)
            await asyncio.sleep(random.uniform(SHORTEST_WAIT_S, LONGEST_WAIT_S))  # noqa: S311

    def _no_answer(self, failure: Failure, where: str, connection: _Connection) -> UnavailableError:
        seconds = self._options.patience.retry_for_s
        return UnavailableError(
            f"{where}: no answer for {seconds:g} s: {self._state(connection)}", code=failure.code
        )


def _routing(target: Target) -> tuple[str, str]:
    """Return the metadata by which a proxy may send all of a sequence to one server."""
    return ("x-sequence-id", str(target.id).encode("ascii", "backslashreplace").decode())


def _gone(target: Target, text: str, reason: str) -> SequenceGoneError:
    return SequenceGoneError(f"{target.where}: {text}", code="NOT_FOUND", reason=reason)


class _NotOfferedError(SequenceError):
    """The server does not have this method."""
