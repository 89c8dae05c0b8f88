"""``ts.handler_utils.timer``."""

from legato.runtimes.torchserve.helpers import timed

__all__ = ["timed"]
