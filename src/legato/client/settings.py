"""What both clients let their users choose, checked once."""

from __future__ import annotations

import secrets
import uuid
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

from legato.client.errors import InvalidInputError
from legato.client.hub import Options, Target
from legato.client.window import Patience
from legato.client.wire import start_parameters

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import grpc
    import numpy.typing as npt

MOST_AHEAD = 1024
LONGEST_IDLE_S = 1e10


class ClientSettings(TypedDict, total=False):
    """Keywords of :class:`~legato.Client` and :class:`~legato.AsyncClient`.

    Attributes:
        retry_for_s: Seconds without an answer after which a step is given up.  [60]
        attempt_timeout_s: Seconds without an answer after which a connection is given up
            for another one.  [10]
        credentials: For TLS, from :func:`grpc.ssl_channel_credentials`.  [plain text]
        metadata: Pairs sent with every call, for example an authorization.
        streams_per_connection: Sequences that share a connection; proxies limit it.  [500]
        channel_options: Options of gRPC channels.
    """

    retry_for_s: float
    attempt_timeout_s: float
    credentials: grpc.ChannelCredentials | None
    metadata: Iterable[tuple[str, str]]
    streams_per_connection: int
    channel_options: Mapping[str, int | str]


class SequenceSettings(TypedDict, total=False):
    """Keywords of ``sequence()`` and ``resume()``.

    Attributes:
        version: Model version; "" = the server's choice.
        inputs: Inputs that are the same in every step, by name; sent with each.
        outputs: Outputs wanted; empty = all.
        window: Steps that may be under way at once. The model must keep as many
            receipts (``sequences.receipts``): of those that a broken connection leaves
            unanswered, the server can repeat only the answers that it kept.  [1]
        prefix: Begins the request ids. Given again with :meth:`resume`, it lets the step
            that was under way be sent again by a process that has been started anew.
        keep: Leaving the ``with`` block closes the stream and does not end the
            sequence.  [False]
    """

    version: str
    inputs: Mapping[str, npt.ArrayLike]
    outputs: Sequence[str]
    window: int
    prefix: str
    keep: bool


class StartSettings(SequenceSettings, total=False):
    """Keywords of ``sequence()`` alone: what is decided when a sequence begins.

    Attributes:
        restart: Replace a live sequence of this id, which is an error otherwise.  [False]
        idle_timeout_s: Seconds without a step after which the sequence expires; 0 = never.
            [as the model says]
        durability: What an acknowledged step survives: ``process`` (a crash of the server)
            or ``disk`` (of the machine, too).  [as the server says]
    """

    restart: bool
    idle_timeout_s: float | None
    durability: Literal["", "process", "disk"]


def options(address: str, settings: ClientSettings) -> Options:
    """Return the options of a client."""
    return Options(
        address.removeprefix("http://").removeprefix("grpc://"),
        settings.get("credentials"),
        tuple((key.lower(), value) for key, value in settings.get("metadata", ())),
        Patience(settings.get("retry_for_s", 60.0), settings.get("attempt_timeout_s", 10.0)),
        max(1, settings.get("streams_per_connection", 500)),
        settings.get("channel_options", {}),
    )


def target(
    model: str,
    name: int | str | None,
    step: int | None = 0,
    incarnation: str = "",
    **settings: Unpack[StartSettings],
) -> Target:
    """Return what to open.

    Raises:
        InvalidInputError: The id, step or a setting is none.
    """
    if name in (0, ""):
        raise InvalidInputError("the id of a sequence is a number above 0 or a text, not empty")
    if isinstance(name, int) and not 0 < name < 2**64:
        raise InvalidInputError(f"the id of a sequence has 64 bits, got {name}")
    if step is not None and step < 0:
        raise InvalidInputError(f"steps are counted from 1, got {step}")
    window = settings.get("window", 1)
    if not 1 <= window <= MOST_AHEAD:
        raise InvalidInputError(f"window must be between 1 and {MOST_AHEAD}, got {window}")
    return Target(
        model,
        settings.get("version", ""),
        str(uuid.uuid4()) if name is None else name,
        settings.get("prefix") or secrets.token_hex(6),
        step,
        incarnation,
        tuple(settings.get("outputs", ())),
        window,
        _starting(settings),
        settings.get("keep", False),
    )


def _starting(settings: StartSettings) -> dict[str, bool | float | str]:
    idle_s, level = settings.get("idle_timeout_s"), settings.get("durability", "")
    if idle_s is not None and not 0 <= idle_s < LONGEST_IDLE_S:
        raise InvalidInputError(f"idle_timeout_s must be 0 (= never) or more, got {idle_s}")
    if level not in ("", "process", "disk"):
        raise InvalidInputError(f"durability must be 'process' or 'disk', got '{level}'")
    return start_parameters(
        restart=settings.get("restart", False), idle_timeout_s=idle_s, durability=level
    )
