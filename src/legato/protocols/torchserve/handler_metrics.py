"""What handlers measure: summed up for the metrics page, and written to TorchServe's log.

Handlers choose names and labels, so both are bounded: what is beyond is left out, and that is
said once. Values come from the threads of worker processes' calls.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from bisect import bisect_left
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING, Any, Final

from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

log = get_logger()

FILE_NAME: Final = "model_metrics.log"
MOST_SERIES: Final = 2000
BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
"""Of histograms: those of the Prometheus client that TorchServe uses."""

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_OURS: Final = ("legato_", "process_", "python_")
_HOST_LABEL: Final = "Hostname"
_FILE_BYTES: Final = 100 * 1024 * 1024
_FILES: Final = 5

Labels = tuple[tuple[str, str], ...]


class _Histogram:
    """Values of one series, by size."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value

    def samples(self, name: str, labels: Labels) -> Iterator[tuple[str, Labels, float]]:
        """Yield what Prometheus wants of it."""
        seen = 0
        for edge, count in zip((*map(str, BUCKETS), "+Inf"), self.counts, strict=True):
            seen += count
            yield f"{name}_bucket", (*labels, ("le", edge)), seen
        yield f"{name}_sum", labels, self.total
        yield f"{name}_count", labels, seen


class _Family:
    """All series of one name: of one kind, with one set of labels."""

    def __init__(self, kind: str, labels: tuple[str, ...], unit: str) -> None:
        self.kind = kind
        self.labels = labels
        self.unit = unit
        self.values: dict[Labels, float] = {}
        self.histograms: dict[Labels, _Histogram] = {}

    def knows(self, labels: Labels) -> bool:
        """The series is there already."""
        return labels in (self.histograms if self.kind == "histogram" else self.values)

    def add(self, labels: Labels, value: float) -> None:
        """Take a value."""
        if self.kind == "histogram":
            self.histograms.setdefault(labels, _Histogram()).add(value)
        elif self.kind == "counter":
            self.values[labels] = self.values.get(labels, 0.0) + value
        else:
            self.values[labels] = value

    def samples(self, name: str) -> Iterator[tuple[str, Labels, float]]:
        """Yield name, labels and value of all that is known."""
        for labels, value in sorted(self.values.items()):
            yield name, labels, value
        for labels, histogram in sorted(self.histograms.items(), key=lambda item: item[0]):
            yield from histogram.samples(name, labels)


class HandlerMetrics:
    """Takes what handlers measure.

    Args:
        declared: Kind and name of metrics to the unit that they are declared with.
        everything: What is not declared is shown, too.
        taken: Names that are not a handler's to use.
        file: Where each value is written, too; ``None`` = nowhere.
    """

    def __init__(
        self,
        declared: Mapping[tuple[str, str], str] | None = None,
        taken: Iterable[str] = (),
        file: Path | None = None,
        *,
        everything: bool = True,
    ) -> None:
        self._declared = declared or {}
        self._everything = everything
        self._taken = frozenset(taken)
        self._host = socket.gethostname()
        self._families: dict[str, _Family] = {}
        self._series = 0
        self._refused: set[str] = set()
        self._lock = threading.Lock()
        self._file = _logger(file) if file is not None else None

    def __repr__(self) -> str:
        return f"<HandlerMetrics families={len(self._families)} series={self._series}>"

    def take(self, measured: Iterable[Any]) -> None:
        """Take values as :meth:`legato.runtimes.torchserve.metrics.Metrics.take` gives them."""
        with self._lock:
            for kind, name, sent, value, labels, request in measured:
                unit = self._declared.get((kind, name), sent)
                if self._file is not None:
                    self._write(name, unit, value, labels, request)
                if self._everything or (kind, name) in self._declared:
                    self._add(kind, name, unit, value, labels)

    def _add(self, kind: str, name: str, unit: str, value: float, labels: Any) -> None:
        found = {key: text for key, text in labels if key != _HOST_LABEL}
        key = (*((label, found[label]) for label in sorted(found)), (_HOST_LABEL, self._host))
        family = self._families.get(name)
        if family is None:
            problem = self._unusable(name, found)
        elif (family.kind, family.labels) != (kind, tuple(sorted(found))):
            problem = f"it is a {family.kind} with the labels {', '.join(family.labels)} already"
        else:
            problem = ""
        if not problem and (family is None or not family.knows(key)):
            if self._series >= MOST_SERIES:
                problem = f"{MOST_SERIES} series of handlers are shown, and no more"
            else:
                self._series += 1
        if problem:
            self._refuse(name, problem)
            return
        if family is None:
            family = self._families[name] = _Family(kind, tuple(sorted(found)), unit)
        family.add(key, value)

    def _unusable(self, name: str, labels: Iterable[str]) -> str:
        if name in self._taken or name.startswith(_OURS):
            return "the server has a metric of that name"
        if not _NAME.fullmatch(name):
            return "its name is none that Prometheus takes"
        wrong = next((label for label in labels if not _LABEL.fullmatch(label)), None)
        return "" if wrong is None else f"'{wrong}' is no name of a label that Prometheus takes"

    def _refuse(self, name: str, problem: str) -> None:
        if name not in self._refused and len(self._refused) < MOST_SERIES:
            self._refused.add(name)
            log.warning("handler_metric_left_out", metric=name[:200], problem=problem)

    def _write(self, name: str, unit: str, value: Any, labels: Any, asked: str) -> None:
        """Write a value as TorchServe does."""
        shown = ",".join(f"{key}:{text}" for key, text in labels)
        request = f"requestID:{asked}," if asked else ""
        seen = f"#hostname:{self._host},{request}timestamp:{int(time.time())}"
        line = f"{name}.{unit}:{value}|#{shown}|{seen}".replace("\n", " ")
        if self._file is not None:
            self._file.handle(logging.makeLogRecord({"msg": line}))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def families(self) -> list[tuple[str, str, str, list[tuple[str, Labels, float]]]]:
        """Return name, kind, unit and samples of everything, by name."""
        with self._lock:
            return [
                (name, family.kind, family.unit, list(family.samples(name)))
                for name, family in sorted(self._families.items())
            ]


def _logger(file: Path) -> logging.Handler:
    file.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        file, maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8", delay=True
    )
    form = "%(asctime)s,%(msecs)03d - %(message)s"
    handler.setFormatter(logging.Formatter(form, "%Y-%m-%dT%H:%M:%S"))
    return handler
