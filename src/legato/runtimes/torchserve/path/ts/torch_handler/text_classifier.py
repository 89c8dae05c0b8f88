"""``ts.torch_handler.text_classifier``."""

from legato.runtimes.torchserve.text import TextClassifier

__all__ = ["TextClassifier"]
