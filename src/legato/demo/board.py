"""What the demo knows while it runs; written by the streams, read by the views."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

RECENT_S = 2.0


@dataclass(slots=True)
class Track:
    """One stream's answers so far.

    Attributes:
        name: Correlation id of its sequence.
        frames: Steps it will take.
        answers: Speech probability of each step answered, in order.
        resent: Steps sent again after the connection was lost.
        replayed: Of those, how many the server had committed and answered from its receipt.
        waiting: The connection is lost at the moment.
    """

    name: str
    frames: int
    answers: list[float] = field(default_factory=list)
    resent: int = 0
    replayed: int = 0
    waiting: bool = False


@dataclass(frozen=True, slots=True)
class Server:
    """The server's own numbers at one moment, as its statistics call gives them.

    Attributes:
        steps: Steps applied since it was started.
        calls: Model calls that took.
        queue_s: Seconds that steps waited, in total.
        compute_s: Seconds of model calls, in total.
    """

    steps: int = 0
    calls: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0

    @property
    def fill(self) -> float:
        """Mean number of sequences in a model call."""
        return self.steps / self.calls if self.calls else 0.0

    def since(self, before: Server) -> Server:
        """Difference to an earlier moment of the same server process."""
        return Server(
            self.steps - before.steps,
            self.calls - before.calls,
            self.queue_s - before.queue_s,
            self.compute_s - before.compute_s,
        )


@dataclass(slots=True)
class Board:
    """The whole run.

    Attributes:
        tracks: One a stream.
        latencies: Seconds from sending a step to its answer, one an answered step.
        recent: (time, latency) of the last ``RECENT_S`` seconds.
        servers: Last numbers of each server process.
        fill: Sequences a model call, lately.
        killed_at: When the server was killed, and frames then answered by each stream.
        paused_s: How long the streams stood still after the kill.
        news: Lines for people, with the time since the start.
        halfway: Set once half of the steps are answered.
        total: Steps there will be.
    """

    tracks: list[Track]
    started: float = 0.0
    finished: float = 0.0
    latencies: list[float] = field(default_factory=list)
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    servers: list[Server] = field(default_factory=lambda: [Server()])
    fill: float = 0.0
    killed_at: float = 0.0
    killed_frames: list[int] = field(default_factory=list)
    paused_s: float = 0.0
    news: list[tuple[float, str]] = field(default_factory=list)
    halfway: asyncio.Event = field(default_factory=asyncio.Event)
    total: int = field(init=False)

    @property
    def done(self) -> int:
        """Steps answered."""
        return len(self.latencies)

    def __post_init__(self) -> None:
        self.total = sum(track.frames for track in self.tracks)

    def answered(self, track: Track, probability: float, now: float, latency: float) -> None:
        """Note one answer."""
        if self.killed_at and not self.paused_s:
            self.paused_s = now - self.killed_at
            self.tell(now, f"first answer {self.paused_s:.1f} s after the kill: the streams go on")
        track.answers.append(probability)
        self.latencies.append(latency)
        if self.done * 2 >= self.total:
            self.halfway.set()
        self.recent.append((now, latency))
        while self.recent[0][0] < now - RECENT_S:
            self.recent.popleft()

    def killed(self, now: float) -> None:
        """Note that the server process is dead."""
        self.killed_at = now
        self.killed_frames = [len(track.answers) for track in self.tracks]

    def tell(self, now: float, text: str) -> None:
        """Add a line for people."""
        self.news.append((now - self.started, text))

    def rate(self, now: float) -> float:
        """Steps a second, lately."""
        fresh = sum(1 for when, _latency in self.recent if when > now - RECENT_S)
        return fresh / max(min(RECENT_S, now - self.started), 1e-3)

    def percentiles(self, *, lately: bool = False) -> tuple[float, float]:
        """Median and 99th percentile of the latency in seconds."""
        values = [latency for _when, latency in self.recent] if lately else self.latencies
        if not values:
            return 0.0, 0.0
        ordered = sorted(values)
        return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
