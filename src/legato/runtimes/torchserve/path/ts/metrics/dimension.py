"""``ts.metrics.dimension``."""

from legato.runtimes.torchserve.metrics import Dimension

__all__ = ["Dimension"]
