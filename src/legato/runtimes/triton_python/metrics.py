"""``pb_utils.MetricFamily`` and ``Metric``: counted as a model says, told to the server.

What changed leaves with the answer of a call; see :func:`take_changed`. Counters and histograms
tell what was added, so that the sum over workers, also over those that died, is right.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Any, ClassVar, Final

from legato.runtimes.triton_python.errors import TritonModelException

_lock: Final = threading.Lock()
_changed: dict[int, Metric] = {}


class MetricFamily:
    """A metric with a name, for any number of label sets.

    Args:
        name: Its name, unique in the model.
        description: What it tells.
        kind: COUNTER, GAUGE or HISTOGRAM.

    Raises:
        TritonModelException: There is no such kind.
    """

    COUNTER: ClassVar[int] = 0
    GAUGE: ClassVar[int] = 1
    HISTOGRAM: ClassVar[int] = 2

    def __init__(self, name: str, description: str, kind: int) -> None:
        if kind not in (self.COUNTER, self.GAUGE, self.HISTOGRAM):
            raise TritonModelException(f"metric '{name}': there is no kind {kind}")
        self.name = name
        self.description = description
        self.kind = kind
        self._metrics: dict[tuple[tuple[str, str], ...], Metric] = {}

    def __repr__(self) -> str:
        return f"<MetricFamily {self.name} metrics={len(self._metrics)}>"

    def Metric(  # noqa: N802 - Triton's name
        self, labels: dict[str, str] | None = None, buckets: list[float] | None = None
    ) -> Metric:
        """Make the metric of a set of labels, or find it.

        Raises:
            TritonModelException: A histogram has no buckets, or another kind has some.
        """
        if (self.kind == self.HISTOGRAM) != bool(buckets):
            raise TritonModelException(f"metric '{self.name}': buckets go with histograms only")
        key = tuple(sorted((str(name), str(value)) for name, value in (labels or {}).items()))
        return self._metrics.setdefault(key, Metric(self, key, buckets))


class Metric:
    """One series of a family; made by :meth:`MetricFamily.Metric`."""

    def __init__(
        self,
        family: MetricFamily,
        labels: tuple[tuple[str, str], ...],
        buckets: list[float] | None,
    ) -> None:
        self._family = family
        self._labels = labels
        self._buckets = sorted(buckets or ())
        self._counts = [0] * (len(self._buckets) + 1)
        self._value = 0.0
        self._told = 0.0

    def __repr__(self) -> str:
        return f"<Metric {self._family.name} {dict(self._labels)} {self._value}>"

    def increment(self, value: float) -> None:
        """Add to it.

        Raises:
            TritonModelException: It is a histogram, or a counter that would go down.
        """
        self._refuse(MetricFamily.HISTOGRAM, "increment")
        if value < 0 and self._family.kind == MetricFamily.COUNTER:
            raise TritonModelException(f"counter '{self._family.name}' cannot go down")
        with _lock:
            self._value += value
            _changed[id(self)] = self

    def set(self, value: float) -> None:
        """Set a gauge.

        Raises:
            TritonModelException: It is none.
        """
        self._refuse(MetricFamily.HISTOGRAM, "set")
        self._refuse(MetricFamily.COUNTER, "set")
        with _lock:
            self._value = float(value)
            _changed[id(self)] = self

    def observe(self, value: float) -> None:
        """Count a value in a histogram.

        Raises:
            TritonModelException: It is none.
        """
        if self._family.kind != MetricFamily.HISTOGRAM:
            raise TritonModelException(f"'{self._family.name}' is no histogram")
        with _lock:
            self._counts[bisect_left(self._buckets, value)] += 1
            self._value += value
            _changed[id(self)] = self

    def value(self) -> float:
        """Return the value; of a histogram the sum.

        Raises:
            TritonModelException: It is a histogram.
        """
        self._refuse(MetricFamily.HISTOGRAM, "value")
        return self._value

    def _refuse(self, kind: int, what: str) -> None:
        if self._family.kind == kind:
            raise TritonModelException(f"'{self._family.name}' does not have '{what}'")

    def take(self) -> dict[str, Any]:
        """Tell what was added since the last time; of a gauge, what it is."""
        gauge = self._family.kind == MetricFamily.GAUGE
        sample = {
            "name": self._family.name,
            "kind": ("counter", "gauge", "histogram")[self._family.kind],
            "description": self._family.description,
            "labels": dict(self._labels),
            "value": self._value if gauge else self._value - self._told,
            "buckets": list(self._buckets),
            "counts": self._counts,
        }
        self._told = self._value
        self._counts = [0] * len(self._counts)
        return sample


def take_changed() -> list[dict[str, Any]]:
    """Tell of the metrics that changed since the last time."""
    with _lock:
        samples = [metric.take() for metric in _changed.values()]
        _changed.clear()
    return samples
