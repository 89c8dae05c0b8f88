"""``ts.torch_handler.contractions``."""

from legato.runtimes.torchserve.text import CONTRACTION_MAP

__all__ = ["CONTRACTION_MAP"]
