"""Metrics that models make for themselves, in worker processes: summed up for the metrics page.

Models choose names and labels, so both are bounded: what is beyond is left out, and that is
said once. Values come from the threads of worker processes' calls.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = get_logger()

MOST_SERIES: Final = 1000
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN: Final = ("legato_", "nv_", "process_", "python_")


@dataclass(slots=True)
class Series:
    """One metric with its labels.

    Attributes:
        name: Of its family.
        kind: ``counter``, ``gauge`` or ``histogram``.
        description: What it tells.
        labels: As the model gave them.
        value: What it is; of a histogram, the sum of all values.
        buckets: Upper bounds, of a histogram.
        counts: Values in each bucket and above the last.
    """

    name: str
    kind: str
    description: str
    labels: dict[str, str]
    value: float = 0.0
    buckets: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    def samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield what Prometheus wants of it: suffix, labels and value."""
        if self.kind != "histogram":
            yield "_total" if self.kind == "counter" else "", self.labels, self.value
            return
        seen = 0
        for edge, count in zip((*map(str, self.buckets), "+Inf"), self.counts, strict=True):
            seen += count
            yield "_bucket", {**self.labels, "le": edge}, seen
        yield "_count", self.labels, seen
        yield "_sum", self.labels, self.value


class OwnMetrics:
    """What one model measures of itself.

    Args:
        model: Its name, for the log.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], Series] = {}
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<OwnMetrics {self._model} series={len(self._series)}>"

    def take(self, samples: list[Any]) -> None:
        """Add what a worker measured; from any thread."""
        with self._lock:
            for sample in samples:
                series = self._find(sample)
                if series is None:
                    continue
                if series.kind == "gauge":
                    series.value = sample["value"]
                    continue
                series.value += sample["value"]
                pairs = zip(series.counts, sample["counts"], strict=True)
                series.counts = [old + new for old, new in pairs]

    def series(self) -> list[Series]:
        """All of them, in the order in which they came."""
        with self._lock:
            return list(self._series.values())

    def _find(self, sample: Mapping[str, Any]) -> Series | None:
        """Find the series of a sample, or begin it; ``None`` where it cannot be shown."""
        labels = {str(name): str(value) for name, value in sample["labels"].items()}
        key = sample["name"], tuple(sorted(labels.items()))
        found = self._series.get(key)
        if found is not None:
            alike = (found.kind, found.buckets) == (sample["kind"], list(sample["buckets"]))
            if alike:
                return found
            problem = "it was something else before"
        else:
            problem = self._problem(key[0], labels)
        if problem:
            self._leave_out(key[0], problem)
            return None
        found = self._series[key] = Series(
            key[0], sample["kind"], sample["description"], labels,
            0.0, list(sample["buckets"]), [0] * len(sample["counts"]),
        )  # fmt: skip
        return found

    def _problem(self, name: str, labels: Mapping[str, str]) -> str:
        if not _NAME.fullmatch(name) or not all(map(_LABEL.fullmatch, labels)):
            return "its name or a label's is none that Prometheus takes"
        if name.startswith(_TAKEN):
            return "its name is the server's own: " + ", ".join(_TAKEN) + " are taken"
        if len(self._series) >= MOST_SERIES:
            return f"a model has {MOST_SERIES} series at most"
        return ""

    def _leave_out(self, name: str, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            log.warning("metric_left_out", model=self._model, metric=name[:200], problem=problem)
