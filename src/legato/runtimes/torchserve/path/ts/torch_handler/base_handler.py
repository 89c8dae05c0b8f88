"""``ts.torch_handler.base_handler``."""

from legato.runtimes.torchserve.base_handler import BaseHandler

__all__ = ["BaseHandler"]
