"""Figures of a stretch of load. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.bench.generator import Mark


@dataclass(frozen=True, slots=True)
class Result:
    """What a stretch of load gave; ``None`` for what could not be known.

    Attributes:
        seconds: Its length.
        steps: Good answers.
        failed: Steps that ended in an error.
        wrong: Good answers with a wrong content.
        sequences: Sequences completed.
        latency_ms: ``p50``, ``p95``, ``p99`` and ``max``.
        mean_batch: Steps a model call, by the server's statistics.
        queue_ms: Mean wait for a model call, by the server's statistics.
        server_us: Server CPU microseconds a step.
        client_us: CPU microseconds a step of the load generator itself.
        threads_us: Server CPU microseconds a step of each thread that matters.
        errors: Texts, numbers left out, and how often they came.
    """

    seconds: float
    steps: int
    failed: int
    wrong: int
    sequences: int
    latency_ms: Mapping[str, float]
    mean_batch: float | None
    queue_ms: float | None
    server_us: float | None
    client_us: float | None
    threads_us: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def steps_per_s(self) -> float:
        """Good answers a second."""
        return self.steps / self.seconds if self.seconds > 0 else 0.0

    @classmethod
    def of(
        cls,
        first: Mark,
        last: Mark,
        latencies: Sequence[float],
        errors: Mapping[str, int],
        *,
        measured_cpu: bool,
    ) -> Result:
        """Return the difference of two marks."""
        steps = last.steps - first.steps
        counts = last.counts.since(first.counts) if last.counts and first.counts else None
        spent = last.server_cpu_s - first.server_cpu_s
        return cls(
            seconds=last.at - first.at,
            steps=steps,
            failed=last.failed - first.failed,
            wrong=last.wrong - first.wrong,
            sequences=last.sequences - first.sequences,
            latency_ms=percentiles_ms(latencies),
            mean_batch=counts.steps / counts.calls if counts and counts.calls > 0 else None,
            queue_ms=counts.wait_s / counts.waits * 1e3 if counts and counts.waits > 0 else None,
            server_us=_each(spent, steps) if measured_cpu else None,
            client_us=_each(last.client_cpu_s - first.client_cpu_s, steps),
            threads_us=_threads(first.threads, last.threads, steps),
            errors=dict(Counter(errors).most_common()),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**asdict(self), "steps_per_s": round(self.steps_per_s, 1)}


def _each(seconds: float, steps: int) -> float | None:
    return seconds / steps * 1e6 if steps else None


def _threads(first: Mapping[str, float], last: Mapping[str, float], steps: int) -> dict[str, float]:
    """Return the threads that took at least a fiftieth of the CPU time."""
    spent = {name: now - first.get(name, 0.0) for name, now in last.items()}
    least = sum(spent.values()) / 50
    found = sorted(spent.items(), key=lambda item: -item[1])
    return {name: value / steps * 1e6 for name, value in found if value > least and steps}


def percentiles_ms(latencies: Sequence[float]) -> dict[str, float]:
    """Return the latencies' percentiles in milliseconds; empty for none."""
    if not len(latencies):
        return {}
    p50, p95, p99, highest = np.percentile(np.asarray(latencies), (50, 95, 99, 100)) * 1e3
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(highest)}
