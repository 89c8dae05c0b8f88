"""TorchServe's metrics in Prometheus text, those of handlers, and Legato's own behind them."""

from __future__ import annotations

import os
import shutil
import socket
from collections import Counter
from typing import TYPE_CHECKING, Final

from legato.observe import metrics as own
from legato.protocols.torchserve.handler_metrics import HandlerMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from legato.engine.engine import Engine
    from legato.protocols.torchserve.handler_metrics import Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
NAMES: Final = frozenset(
    """
    Requests2XX Requests4XX Requests5XX ts_inference_requests_total
    ts_inference_latency_microseconds ts_queue_latency_microseconds CPUUtilization MemoryUsed
    MemoryAvailable MemoryUtilization DiskUsage DiskAvailable DiskUtilization
    """.split()
)
"""What the server itself measures; no handler may take such a name."""

_MIB: Final = 1024 * 1024
_GIB: Final = 1024**3


class Metrics:
    """Counts what the wire sees. Bounded: only registered models are counted.

    Args:
        engine: Serves the models.
        handlers: What handlers measure.
    """

    def __init__(self, engine: Engine, handlers: HandlerMetrics | None = None) -> None:
        self._engine = engine
        self._handlers = handlers or HandlerMetrics(taken=NAMES)
        self._host = socket.gethostname()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds: Counter[tuple[str, str]] = Counter()
        self._statuses: Counter[str] = Counter({"2XX": 0, "4XX": 0, "5XX": 0})

    def __repr__(self) -> str:
        return f"<Metrics requests={self._requests.total()}>"

    def count(self, model: str, version: str, seconds: float) -> None:
        """Count an inference of a registered model that was answered."""
        key = (model, version or "default")
        self._requests[key] += 1
        self._seconds[key] += seconds  # type: ignore[assignment]

    def answered(self, status: int) -> None:
        """Count an HTTP answer."""
        self._statuses[f"{status // 100}XX"] += 1

    def render(self, names: Sequence[str] = ()) -> bytes:
        """Return the page; ``names`` picks metrics."""
        parts = list(self._families())
        theirs = "".join(text for name, text in parts if not names or name in names)
        page, _content_type = own.render(self._engine)
        return theirs.encode() + (b"" if names else page)

    def _families(self) -> Iterator[tuple[str, str]]:
        host = f'Level="Host",Hostname="{self._host}"'
        for status in ("2XX", "4XX", "5XX"):
            name = f"Requests{status}"
            yield name, _family(name, "counter", [(host, self._statuses[status])])
        labelled = [(self._labels(*key), key) for key in sorted(self._requests)]
        for name, values in (
            ("ts_inference_requests_total", self._requests),
            ("ts_inference_latency_microseconds", self._seconds),
        ):
            factor = 1.0 if values is self._requests else 1e6
            yield (
                name,
                _family(
                    name, "counter", [(labels, values[key] * factor) for labels, key in labelled]
                ),
            )
        yield self._queued()
        yield from _gauges(host)
        for name, kind, unit, samples in self._handlers.families():
            yield name, _measured(name, kind, unit, samples)

    def _labels(self, model: str, version: str) -> str:
        names = f'model_name="{_escape(model)}",model_version="{_escape(version)}"'
        return f'{names},hostname="{self._host}"'

    def _queued(self) -> tuple[str, str]:
        name = "ts_queue_latency_microseconds"
        rows = [
            (self._labels(handle.name, handle.version), handle.statistics.queue_s.total * 1e6)
            for handle in self._engine.models()
        ]
        return name, _family(name, "counter", rows)


def _gauges(host: str) -> Iterator[tuple[str, str]]:
    disk = shutil.disk_usage("/")
    pages = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * pages
    free = os.sysconf("SC_AVPHYS_PAGES") * pages
    cores = os.cpu_count() or 1
    for name, value in (
        ("CPUUtilization", min(100.0, 100 * os.getloadavg()[0] / cores)),
        ("MemoryUsed", (total - free) / _MIB),
        ("MemoryAvailable", free / _MIB),
        ("MemoryUtilization", 100 * (total - free) / total),
        ("DiskUsage", disk.used / _GIB),
        ("DiskAvailable", disk.free / _GIB),
        ("DiskUtilization", 100 * disk.used / disk.total),
    ):
        yield name, _family(name, "gauge", [(host, value)])


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _measured(name: str, kind: str, unit: str, samples: Sequence[tuple[str, Labels, float]]) -> str:
    about = f"Torchserve prometheus {kind} metric with unit: {' '.join(unit.split())}"
    lines = [f"# HELP {name} {about}\n# TYPE {name} {kind}\n"]
    for sample, labels, value in samples:
        shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels)
        lines.append(f"{sample}{{{shown}}} {float(value)}\n")
    return "".join(lines)


def _family(name: str, kind: str, rows: Sequence[tuple[str, float]]) -> str:
    lines = [f"# HELP {name} Torchserve metric.\n# TYPE {name} {kind}\n"]
    lines += [f"{name}{{{labels}}} {float(value)}\n" for labels, value in rows]
    return "".join(lines)
