"""``ts.metrics.metric``."""

from legato.runtimes.torchserve.metrics import Metric

__all__ = ["Metric"]
