"""``ts.metrics.metrics_store``."""

from legato.runtimes.torchserve.metrics import Metrics as MetricsStore

__all__ = ["MetricsStore"]
