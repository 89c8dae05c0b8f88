"""What the sequences of one client share: connections, knowledge of models. On a loop."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from legato.client.errors import Failure, Hope, SequenceError, UnavailableError, hope, refusal
from legato.client.pilot import Pilot
from legato.client.window import LONGEST_WAIT_S, SHORTEST_WAIT_S, Patience, Window
from legato.client.wire import SERVICE, StepWriter, failure_of, model_info
from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from legato.client.tensors import ModelInfo

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
        step: Number of the last step known; 0 = begin the sequence.
        incarnation: Which sequence of this id is meant; "" = any.
        outputs: Outputs asked for.
        window: Steps that may be under way at once.
        restart: The first step may replace a live sequence.
    """

    model: str
    version: str
    id: int | str
    prefix: str
    step: int = 0
    incarnation: str = ""
    outputs: Sequence[str] = ()
    window: int = 1
    restart: bool = False

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

    def open(self, target: Target) -> Pilot:
        """Make ready for the steps of a sequence; nothing is sent yet."""
        connection = self._connection()
        metadata = (
            *self._options.metadata,
            ("triton_grpc_error", "true"),  # a refusal ends the stream, with its status
            ("x-sequence-id", str(target.id).encode("ascii", "backslashreplace").decode()),
        )
        pilot = Pilot(
            target.where,
            Window(
                target.prefix,
                size=target.window,
                acknowledged=target.step,
                patience=self._options.patience,
            ),
            StepWriter(
                target.model, target.version, target.id, target.outputs, restart=target.restart
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

    async def close(self) -> None:
        """Close all streams and connections."""
        await asyncio.gather(*(self.release(pilot) for pilot in list(self._pilots)))
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
            "ModelMetadata",
            pb.ModelMetadataRequest(name=name, version=version),
            pb.ModelMetadataResponse,
            where,
        )
        try:
            config = await self._ask(
                "ModelConfig",
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

    async def _ask(self, method: str, request: Message, answer: Any, where: str) -> Any:
        """Make a unary call, again and again if need be."""
        connection = self._connection()
        call = connection.channel.unary_unary(
            SERVICE + method,
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
                raise _NotOfferedError(f"{where}: {method} is not offered", code=failure.code)
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


class _NotOfferedError(SequenceError):
    """The server does not have this method."""
