"""``ts.metrics``: what handlers count. Each value goes to the server with the answer in hand."""

from __future__ import annotations

import enum
import logging
import numbers
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["CachedMetric", "Dimension", "Metric", "MetricTypes", "Metrics"]

_log = logging.getLogger("ts.metrics")
_MOST_KEPT: Final = 1000
_LONGEST: Final = 200
UNITS: Final = {
    "ms": "Milliseconds",
    "s": "Seconds",
    "percent": "Percent",
    "count": "Count",
    "MB": "Megabytes",
    "GB": "Gigabytes",
    "kB": "Kilobytes",
    "B": "Bytes",
    "": "unit",
    None: "unit",
}
"""Units as handlers write them, and as metrics show them."""

_SIZES: Final = ("MB", "kB", "GB", "B")
_TIMES: Final = ("ms", "s")


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
        unit: str | None,
        dimensions: Sequence[Dimension] = (),
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = UNITS.get(unit, unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method

    def __str__(self) -> str:
        labels = ",".join(map(str, self.dimensions))
        seen = f"#hostname:{socket.gethostname()},{int(time.time())}"
        asked = f",{self.request_id}" if self.request_id else ""
        return f"{self.name}.{self.unit}:{self.value}|#{labels}|{seen}{asked}"

    def update(self, value: Any) -> None:
        """Take another value."""
        self.value = value

    def reset(self) -> None:
        """Go back to 0."""
        self.value = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as a mapping."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }


class CachedMetric:
    """A metric that is declared once and updated many times."""

    def __init__(
        self,
        owner: Metrics,
        name: str,
        unit: str | None,
        dimension_names: Sequence[str],
        kind: MetricTypes,
    ) -> None:
        self.metric_name = name
        self.unit = UNITS.get(unit, unit)
        self.dimension_names = list(dimension_names)
        self.metric_type = kind
        self._owner = owner

    def add_or_update(
        self, value: Any, dimension_values: Sequence[str] = (), request_id: str = ""
    ) -> None:
        """Measure a value, with the values of its labels; a wrong one is logged and dropped."""
        if len(dimension_values) != len(self.dimension_names):
            problem = f"it has the dimensions {self.dimension_names}, not {dimension_values}"
        elif not isinstance(value, numbers.Real):  # numpy's are such, too
            problem = f"{value!r} is no number"
        elif self.metric_type is MetricTypes.COUNTER and value < 0:
            problem = "a counter cannot go down"
        else:
            pairs = zip(self.dimension_names, dimension_values, strict=True)
            labels = [Dimension(name, text) for name, text in pairs]
            plain: Any = value
            plain = int(plain) if isinstance(plain, numbers.Integral) else float(plain)
            metric = Metric(self.metric_name, plain, self.unit, labels, request_id)
            self._owner.emit(metric, self.metric_type)
            return
        _log.error("the metric %s is not updated: %s", self.metric_name, problem)

    def update(
        self, value: Any, request_id: str = "", dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Measure a value with other labels than the declared ones."""
        self.dimension_names = [one.name for one in dimensions]
        self.add_or_update(value, [one.value for one in dimensions], request_id)


class Metrics:
    """What ``context.metrics`` is.

    Attributes:
        request_ids: Of the requests in hand, by index, or as one text.
        model_name: Label of what is measured without further ado.
        store: The last values that were measured, oldest first.
        cache: Declared metrics by kind and name.
    """

    def __init__(
        self, request_ids: Mapping[int, str] | str | None = None, model_name: str = ""
    ) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.store: deque[Metric] = deque(maxlen=_MOST_KEPT)
        self.cache: dict[MetricTypes, dict[str, CachedMetric]] = {kind: {} for kind in MetricTypes}
        self._new: deque[tuple[MetricTypes, Metric]] = deque(maxlen=_MOST_KEPT)

    def declare(self, declared: Iterable[Sequence[Any]]) -> None:
        """Declare what the server's ``metrics_config`` does: kind, name, unit, dimensions."""
        for kind, name, unit, dimensions in declared:
            self.add_metric_to_cache(name, unit, dimensions, MetricTypes(kind))

    def set_request_ids(self, request_ids: Mapping[int, str] | str) -> None:
        """Say which requests the next values belong to."""
        self.request_ids = request_ids

    def emit(self, metric: Metric, kind: MetricTypes) -> None:
        """Keep a value for the server; from any thread."""
        self.store.append(metric)
        self._new.append((kind, metric))

    def take(self) -> list[tuple[Any, ...]]:
        """Take what is new, as plain data: kind, name, unit, value, labels, request."""
        taken = []
        while self._new:
            kind, one = self._new.popleft()
            labels = [(str(label.name), str(label.value)[:_LONGEST]) for label in one.dimensions]
            request = str(one.request_id or "")
            taken.append((kind.value, str(one.name), str(one.unit), one.value, labels, request))
        return taken

    def _request(self, idx: int | None) -> str:
        ids = self.request_ids
        if ids is None or isinstance(ids, str):
            return ids or ""
        if idx is not None:
            return str(ids.get(idx, ""))
        return ",".join(map(str, ids.values()))

    def _add(
        self,
        name: str,
        value: Any,
        unit: str | None,
        kind: MetricTypes,
        dimensions: Sequence[Dimension] | None,
        request: str,
    ) -> None:
        """Measure a value under the labels that were given and those that all have.

        No labels at all (``None``) are those of an error.
        """
        if dimensions is None:
            labels = [Dimension("Level", "Error")]
        else:
            labels = list(dimensions)
            given = {one.name for one in labels}
            if "ModelName" not in given:
                labels.append(Dimension("ModelName", self.model_name))
            if "Level" not in given:
                labels.append(Dimension("Level", "Model"))
        metric = self.cache[kind].get(name) or self.add_metric_to_cache(name, unit, (), kind)
        metric.update(value, request, labels)

    def add_counter(
        self, name: str, value: Any, idx: int | None = None, dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Count."""
        self._add(name, value, "count", MetricTypes.COUNTER, dimensions, self._request(idx))

    def add_time(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a time.

        Raises:
            ValueError: The unit is none of time.
        """
        if unit not in _TIMES:
            raise ValueError(f"a time has the unit ms or s, not {unit}")
        self._add(name, value, unit, metric_type, dimensions, self._request(idx))

    def add_size(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a size.

        Raises:
            ValueError: The unit is none of size.
        """
        if unit not in _SIZES:
            raise ValueError(f"a size has one of the units {', '.join(_SIZES)}, not {unit}")
        self._add(name, value, unit, metric_type, dimensions, self._request(idx))

    def add_percent(
        self,
        name: str,
        value: Any,
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Note a share."""
        self._add(name, value, "percent", metric_type, dimensions, self._request(idx))

    def add_error(self, name: str, value: Any, dimensions: Sequence[Dimension] = ()) -> None:
        """Count an error; a text counts as one."""
        amount = value if isinstance(value, int | float) else 1
        self._add(name, amount, "", MetricTypes.COUNTER, dimensions or None, self._request(None))

    def add_metric(
        self,
        name: str,
        value: Any,
        unit: str | None = "count",
        idx: int | None = None,
        dimensions: Sequence[Dimension] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Note any value."""
        self._add(name, value, unit, metric_type, dimensions, self._request(idx))

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str | None,
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
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise KeyError(
                f"no {metric_type.value} '{metric_name}' is declared: declare it with "
                "add_metric_to_cache, or under model_metrics in the file metrics_config"
            ) from None
