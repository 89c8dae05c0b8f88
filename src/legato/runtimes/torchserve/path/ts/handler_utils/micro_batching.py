"""``ts.handler_utils.micro_batching``."""

from legato.runtimes.torchserve.helpers import MicroBatching

__all__ = ["MicroBatching"]
