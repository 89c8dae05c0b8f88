"""``ts.metrics.metric_type_enum``."""

from legato.runtimes.torchserve.metrics import MetricTypes

__all__ = ["MetricTypes"]
