"""``ts.context``."""

from legato.runtimes.torchserve.context import Context, RequestProcessor

__all__ = ["Context", "RequestProcessor"]
