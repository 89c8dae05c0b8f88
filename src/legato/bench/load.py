"""What a load is: plain data, handed to the processes that make it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class LoadError(Exception):
    """The load cannot be made; the message says what to change."""


class Data(enum.Enum):
    """What the tensors hold."""

    ZERO = "zero"
    RANDOM = "random"  # floats in [-1, 1), integers from 0 to 9
    RAMP = "ramp"  # counts up from step to step


class Check(enum.Enum):
    """What an answer is held against."""

    AUTO = "auto"  # SUM for a model whose name says accumulator, else NONE
    SUM = "sum"  # the sum of all that the sequence has sent
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Load:
    """One load.

    Attributes:
        address: ``host:port`` of a server that speaks KServe v2 over gRPC.
        secure: Use TLS, with the roots that grpc knows.
        model, version: What to step; version "" = the server's default.
        sequences: Sequences in flight, one unanswered step each.
        length: Steps of a sequence; lengths vary by ``spread`` around it, so that
            sequences do not all begin and end together.
        spread: Share of ``length``.
        streaming: ModelStreamInfer, else ModelInfer.
        per_stream: Sequences that share a stream.
        rate: Steps a second, all sequences together; 0 = the next step leaves when
            the answer to the last one is there.
        steps: Stop after so many; 0 = when told to.
        first_id, ids: Correlation ids are taken from this range, over and over.
        text_ids: Send them as strings.
        numbered: Send step numbers (``sequence_step``, which Triton does not know).
        data: Contents of the tensors.
        check: What answers are held against; not ``AUTO`` any more.
        shapes: Input name to shape, for inputs with open dimensions.
        values: Input name to the one value that fills it.
        left_out: Inputs that are not sent.
        processes: Processes that make the load.
        channels: Connections a process.
    """

    address: str
    model: str
    secure: bool = False
    version: str = ""
    sequences: int = 32
    length: int = 20
    spread: float = 0.2
    streaming: bool = True
    per_stream: int = 1
    rate: float = 0.0
    steps: int = 0
    first_id: int = 1
    ids: int = 2**40
    text_ids: bool = False
    numbered: bool = False
    data: Data = Data.RANDOM
    check: Check = Check.NONE
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    processes: int = 1
    channels: int = 1

    def length_of(self, ordinal: int) -> int:
        """Return the length of the load's ``ordinal``-th sequence."""
        reach = int(self.length * self.spread)
        if not reach:
            return self.length
        # A fixed walk through all lengths: two runs of one load are the same load.
        return max(1, self.length - reach + (ordinal * 7919) % (2 * reach + 1))

    def id_of(self, ordinal: int) -> int:
        """Return the correlation id of the load's ``ordinal``-th sequence."""
        # Each place in the load has ids of its own: no id is in flight twice.
        turn, place = divmod(ordinal, self.sequences)
        return self.first_id + place + self.sequences * (turn % (self.ids // self.sequences))


def parse_address(url: str) -> tuple[str, bool]:
    """Return ``host:port`` and whether TLS is wanted.

    Raises:
        LoadError: It is no such address.
    """
    scheme, found, rest = url.rpartition("://")
    if found and scheme not in ("grpc", "grpcs", "http", "https"):
        raise LoadError(f"'{url}' is no address; write host:port, grpc://host:port or grpcs://...")
    address = rest.rstrip("/")
    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdigit()):
        raise LoadError(f"'{url}' has no port; write host:port, as in 127.0.0.1:8000")
    return address, scheme in ("grpcs", "https")


def parse_range(text: str) -> tuple[int, int]:
    """Return first id and number of ids of ``first:last``.

    Raises:
        LoadError: It is no range of positive 63-bit numbers.
    """
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit()):
        raise LoadError(f"'{text}' is no range of ids; write first:last, as in 1:1000")
    low, high = int(first), int(last)
    if not 1 <= low <= high < 2**63:
        raise LoadError(f"'{text}': ids go from 1 to 2^63 - 1, the first one not after the last")
    return low, high - low + 1


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return name and shape of ``NAME:1,257,1``.

    Raises:
        LoadError: It is none.
    """
    name, colon, sizes = text.rpartition(":")
    parts = [part.strip() for part in sizes.split(",")]
    if not (colon and name and all(part.isdigit() for part in parts)):
        raise LoadError(f"'{text}' is no shape; write NAME:SIZE,SIZE as in input:1,257,1")
    return name, tuple(int(part) for part in parts)


def parse_value(text: str) -> tuple[str, float]:
    """Return name and number of ``NAME=16000``.

    Raises:
        LoadError: It is none.
    """
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = None
    if not (equals and name) or number is None:
        raise LoadError(f"'{text}' is no value; write NAME=NUMBER, as in sr=16000")
    return name, number
