"""``ts.torch_handler.text_handler``."""

from legato.runtimes.torchserve.text import TextHandler

__all__ = ["TextHandler"]
