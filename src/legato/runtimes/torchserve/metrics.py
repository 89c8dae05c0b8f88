"""``ts.metrics``: what handlers count. Kept in the worker and written to its log at debug level."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CachedMetric", "Dimension", "Metric", "MetricTypes", "Metrics"]

_log = logging.getLogger("ts.metrics")
_MOST_KEPT = 1000


class MetricTypes(enum.Enum):
    """Kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Dimension:
    """A label of a metric."""

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, str]:
        """Return it as a mapping."""
        return {"Name": self.name, "Value": self.value}


class Metric:
    """One value that was measured."""

    def __init__(
        self,
        name: str,
        value: Any,
        unit: str,
        dimensions: Sequence[Dimension] = (),
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = unit
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def __str__(self) -> str:
        labels = ",".join(map(str, self.dimensions))
        return f"{self.name}.{self.unit}:{self.value}|#{labels}"


class CachedMetric:
    """A metric that is declared once and updated many times."""

    def __init__(
        self,
        owner: Metrics,
        name: str,
        unit: str,
        dimension_names: Sequence[str],
        kind: MetricTypes,
    ) -> None:
        self.metric_name = name
        self.unit = unit
        self.dimension_names = list(dimension_names)
        self.metric_type = kind
        self._owner = owner

    def add_or_update(
        self, value: Any, dimension_values: Sequence[str] = (), request_id: str = ""
    ) -> None:
        """Measure a value, with the values of its labels."""
        dimensions = [
            Dimension(name, value)
            for name, value in zip(self.dimension_names, dimension_values, strict=False)
        ]
        self.update(value, request_id, dimensions)

    def update(
        self, value: Any, request_id: str = "", dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Measure a value."""
        self._owner.emit(Metric(self.metric_name, value, self.unit, dimensions, request_id))


class Metrics:
    """What ``context.metrics`` is.

    Attributes:
        store: The last values that were measured, oldest first.
        cache: Declared metrics by kind and name.
    """

    def __init__(self, request_ids: str = "", model_name: str = "") -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: list[Metric] = []
        self.cache: dict[MetricTypes, dict[str, CachedMetric]] = {kind: {} for kind in MetricTypes}

    def set_request_ids(self, request_ids: str) -> None:
        """Say which requests the next values belong to."""
        self.request_ids = request_ids

    def emit(self, metric: Metric) -> None:
        """Keep a value and write it to the log."""
        self.store.append(metric)
        del self.store[:-_MOST_KEPT]
        _log.debug("[METRICS]%s", metric)

    def _add(self, name: str, value: Any, unit: str, dimensions: Sequence[Dimension]) -> None:
        labels = [*dimensions, Dimension("ModelName", self.model_name)]
        self.emit(Metric(name, value, unit, labels, self.request_ids))

    def add_counter(
        self, name: str, value: Any, idx: int | None = None, dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Count."""
        del idx
        self._add(name, value, "count", dimensions)

    def add_time(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a time."""
        del idx, metric_type
        self._add(name, value, unit, dimensions)

    def add_size(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a size."""
        del idx, metric_type
        self._add(name, value, unit, dimensions)

    def add_percent(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a share."""
        del idx, metric_type
        self._add(name, value, "percent", dimensions)

    def add_error(self, name: str, value: Any, dimensions: Sequence[Dimension] = ()) -> None:
        """Note an error."""
        self._add(name, value, "", dimensions)

    def add_metric(
        self,
        name: str,
        value: Any,
        unit: str = "count",
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Note any value."""
        del idx, metric_type
        self._add(name, value, unit, dimensions)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachedMetric:
        """Declare a metric."""
        metric = CachedMetric(self, metric_name, unit, dimension_names, metric_type)
        self.cache[metric_type][metric_name] = metric
        return metric

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachedMetric:
        """Find a declared metric.

        Raises:
            KeyError: There is none.
        """
        return self.cache[metric_type][metric_name]
