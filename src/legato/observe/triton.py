"""The metrics page's part under Triton's names, so that dashboards made for it go on working.

Read from the same counts as our own metrics. What is not measured apart (gathering inputs,
handing out outputs) is 0; what there is none of (GPUs, a pinned memory pool) is left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from legato.engine.statistics import ModelStatistics
    from legato.observe.metrics import Observed, ObservedModel

REASONS = {
    "queue_full": "REJECTED",
    "step_queue_full": "REJECTED",
    "sequence_limit": "REJECTED",
    "queue_timeout": "REJECTED",
    "draining": "REJECTED",
    "cancelled": "CANCELED",
    "deadline_exceeded": "CANCELED",
    "model_failed": "BACKEND",
    "bad_model_output": "BACKEND",
    "non_finite_state": "BACKEND",
    "instance_gone": "BACKEND",
    "state_lost": "BACKEND",
}
"""Code of an error to Triton's reason for it; OTHER for those not listed."""

_ALL_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_LABELS = ("model", "version")
_TOTAL = re.compile(rb"^((?:# (?:HELP|TYPE) )?nv_\w+?)_total\b", re.MULTILINE)
_STAT = Path("/proc/stat")
_MEMORY = Path("/proc/meminfo")


class Processor:
    """How busy this machine's processors were since the last look, and its memory."""

    def __init__(self, stat: Path = _STAT, memory: Path = _MEMORY) -> None:
        self._stat = stat
        self._memory = memory
        self._last = (0, 0)

    def utilization(self) -> float | None:
        """Return the share of busy time since the last call, 0 to 1; ``None`` = not known."""
        try:
            times = [int(text) for text in self._stat.read_text().partition("\n")[0].split()[1:9]]
        except (OSError, ValueError):
            return None
        if len(times) < 5:
            return None
        total, idle = sum(times), times[3] + times[4]
        passed, idled = total - self._last[0], idle - self._last[1]
        self._last = (total, idle)
        return min(1.0, max(0.0, 1 - idled / passed)) if passed > 0 else 0.0

    def memory(self) -> tuple[int, int] | None:
        """Return total and used bytes; ``None`` = not known."""
        try:
            lines = self._memory.read_text().splitlines()
            sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
            return sizes["MemTotal"], sizes["MemTotal"] - sizes["MemAvailable"]
        except (OSError, ValueError, IndexError, KeyError):
            return None


def render(engine: Observed, processor: Processor) -> bytes:
    """Return the part of the metrics page that has Triton's names.

    Args:
        engine: Whose models are told. Call on the event loop that owns it.
        processor: This machine's.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TritonCollector(engine, processor))
    # Its counters do not end in "_total", which the library adds to all.
    return _TOTAL.sub(rb"\1", generate_latest(registry))


class TritonCollector:
    """A prometheus_client collector of Triton's metrics."""

    def __init__(self, engine: Observed, processor: Processor) -> None:
        self._engine = engine
        self._processor = processor

    def collect(self) -> Iterator[Metric]:
        """Yield every family once."""
        models = self._engine.models()
        yield from _counters(models)
        yield _failures(models)
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count",
            "Requests that wait for a model call.",
            labels=_LABELS,
        )
        for model in models:
            pending.add_metric((model.name, model.version), model.statistics.queued)
        yield pending
        yield from self._machine()

    def _machine(self) -> Iterator[Metric]:
        utilization, memory = self._processor.utilization(), self._processor.memory()
        readings: list[tuple[str, str, float]] = []
        if utilization is not None:
            readings.append(
                (
                    "nv_cpu_utilization",
                    "Busy share of the processors since the last look, 0 to 1.",
                    utilization,
                )
            )
        if memory is not None:
            readings += [
                ("nv_cpu_memory_total_bytes", "Bytes of memory.", memory[0]),
                ("nv_cpu_memory_used_bytes", "Bytes of memory in use.", memory[1]),
            ]
        for name, text, value in readings:
            yield GaugeMetricFamily(name, text, value=value)


def _compute_us(counts: ModelStatistics) -> float:
    """Model call time of requests: that of their batch, for each of them."""
    return 1e6 * sum(size * pair[1] for size, pair in counts.batch_seconds.items())


def _counters(models: Sequence[ObservedModel]) -> Iterator[Metric]:
    readings: list[tuple[str, str, Callable[[ModelStatistics], float]]] = [
        (
            "nv_inference_request_success",
            "Inference requests that went well.",
            lambda s: s.applied + s.replayed,
        ),
        (
            "nv_inference_count",
            "Rows that a model has computed.",
            lambda s: s.applied,
        ),
        (
            "nv_inference_exec_count",
            "Model calls.",
            lambda s: s.batches,
        ),
        (
            "nv_inference_request_duration_us",
            "Microseconds of requests, from arrival to the end of the model call.",
            lambda s: s.queue_s.total * 1e6 + _compute_us(s),
        ),
        (
            "nv_inference_queue_duration_us",
            "Microseconds of requests before the model call.",
            lambda s: s.queue_s.total * 1e6,
        ),
        (
            "nv_inference_compute_input_duration_us",
            "Always 0: not measured apart.",
            lambda _s: 0,
        ),
        (
            "nv_inference_compute_infer_duration_us",
            "Microseconds of model calls, for each request of a batch.",
            _compute_us,
        ),
        (
            "nv_inference_compute_output_duration_us",
            "Always 0: not measured apart.",
            lambda _s: 0,
        ),
    ]
    for name, text, read in readings:
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for model in models:
            family.add_metric((model.name, model.version), read(model.statistics))
        yield family


def _failures(models: Sequence[ObservedModel]) -> Metric:
    family = CounterMetricFamily(
        "nv_inference_request_failure",
        "Inference requests that failed, by reason.",
        labels=(*_LABELS, "reason"),
    )
    for model in models:
        counts = dict.fromkeys(_ALL_REASONS, 0)
        for code, count in model.statistics.failed.items():
            counts[REASONS.get(code, "OTHER")] += count
        for reason, count in counts.items():
            family.add_metric((model.name, model.version, reason), count)
    return family
