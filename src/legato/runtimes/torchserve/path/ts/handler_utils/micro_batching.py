"""``ts.handler_utils.micro_batching``."""

from legato.runtimes.torchserve.micro_batching import MicroBatching

__all__ = ["MicroBatching"]
