"""What ``make bench`` measures: scenarios as plain data.

A scenario is one load on one server. Those with equal ``server`` share a server process;
a new store, runtime or protocol is a few more entries here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

SEQUENCES = (1, 8, 32, 128)
MODELS = ("accumulator", "streamsad", "silero")


@dataclass(frozen=True)
class ServerOptions:
    """How ``legato serve`` is started: one line of its options."""

    store: str = "memory"
    durability: str = "process"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Return the command line options."""
        return ("--store", self.store, "--durability", self.durability)


@dataclass(frozen=True)
class Scenario:
    """One load.

    Attributes:
        model: Name of a model in models.py.
        sequences: Sequences in flight.
        streaming: A stream for each, or unary calls.
        per_stream: Sequences that share a stream.
        length: Steps of a sequence.
        numbered: Steps carry their numbers.
        server: How the server is started.
    """

    model: str
    sequences: int
    streaming: bool = True
    per_stream: int = 1
    length: int = 20
    numbered: bool = False
    server: ServerOptions = field(default_factory=ServerOptions)

    @property
    def transport(self) -> str:
        """Return how steps travel, for tables."""
        if not self.streaming:
            return "unary"
        return "stream" if self.per_stream == 1 else f"stream of {self.per_stream}"

    @property
    def name(self) -> str:
        """Return a name that no other scenario has; results are compared by it."""
        parts = [self.model, self.transport.replace(" ", "-"), str(self.sequences)]
        if self.numbered:
            parts.append("numbered")
        if self.server != ServerOptions():
            parts.append(f"{self.server.store}-{self.server.durability}")
        return "/".join(parts)


@dataclass(frozen=True)
class Goal:
    """A figure that was promised.

    Attributes:
        what: In words.
        scenario: Where it is read.
        figure: Column of the results.
        limit: What must be reached.
        aim: What is wished for, ``None`` = no more than the limit.
        at_most: The limit is an upper one.
    """

    what: str
    scenario: Scenario
    figure: str
    limit: float
    aim: float | None = None
    at_most: bool = True

    def reached(self, value: float) -> bool:
        """Whether a value keeps the promise."""
        return value <= self.limit if self.at_most else value >= self.limit


QUICK = [
    *(
        Scenario(model, sequences, streaming=streaming)
        for model in MODELS
        for streaming in (True, False)
        for sequences in SEQUENCES
    ),
    Scenario("silero", 64),
    Scenario("silero", 64, per_stream=16),
]

_ACCUMULATOR = Scenario("accumulator", 32)

FULL = [
    *QUICK,
    Scenario("silero", 64, streaming=False),
    replace(_ACCUMULATOR, numbered=True),
    replace(_ACCUMULATOR, per_stream=32),
    replace(_ACCUMULATOR, per_stream=8),
    Scenario("accumulator", 512),
]

GOALS = [
    Goal("accumulator, 32 streams: server CPU a step", _ACCUMULATOR, "server_us", 46, 26),
    Goal(
        "accumulator, 32 unary callers: server CPU a step",
        replace(_ACCUMULATOR, streaming=False),
        "server_us",
        76,
        50,
    ),
    Goal(
        "Silero, 64 streams: share of the bare runtime's steps per CPU second",
        Scenario("silero", 64),
        "share",
        0.7,
        at_most=False,
    ),
]
