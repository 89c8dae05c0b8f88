"""Counts that the engine keeps as it goes; cheap to write, read by metrics and people."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
SECONDS_BUCKETS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Histogram:
    """Counts of values by upper bound (inclusive); the last count is above all bounds."""

    __slots__ = ("bounds", "count", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.count = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times
        self.count += times

    def __repr__(self) -> str:
        mean = self.total / self.count if self.count else 0.0
        return f"<Histogram count={self.count} mean={mean:.6g}>"


@dataclass(slots=True)
class ModelStatistics:
    """Running totals of one model version since it was loaded.

    Attributes:
        applied: Steps committed.
        replayed: Duplicates answered from a receipt.
        failed: Steps that ended in an error, by the error's code.
        failed_s: Seconds from their arrival to the error, all together.
        opened: Sequences begun.
        ended: Sequences over, by ``EndReason.name.lower()``.
        batches: Model calls that gave at least one applied row.
        retried_rows: Rows run again alone because their batch failed.
        batch_size: Rows a model call.
        batch_seconds: Batch size to [calls, compute seconds] (KServe statistics).
        queue_s: Arrival to the start of the model call, a step.
        compute_s: Seconds of a model call.
        commit_s: Seconds of a commit.
        last_step_at: Wall-clock seconds of the last applied step, 0 = never.
        live, resident, running: Gauges of sequences.
        waiting: Sequences with a step that waits for its turn.
        queued: Steps that wait.
        committing: Steps whose commit is under way.
        backlog: New sequences that wait for room.
        state_bytes: Bytes of resident state.
    """

    applied: int = 0
    replayed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    failed_s: float = 0.0
    opened: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    retried_rows: int = 0
    batch_size: Histogram = field(default_factory=lambda: Histogram(BATCH_BUCKETS))
    batch_seconds: dict[int, list[float]] = field(default_factory=dict)
    queue_s: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    compute_s: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    commit_s: Histogram = field(default_factory=lambda: Histogram(SECONDS_BUCKETS))
    last_step_at: float = 0.0
    live: int = 0
    resident: int = 0
    waiting: int = 0
    queued: int = 0
    committing: int = 0
    backlog: int = 0
    running: int = 0
    state_bytes: int = 0
