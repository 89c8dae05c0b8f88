"""``ts.torch_handler.image_classifier``."""

from legato.runtimes.torchserve.vision import ImageClassifier

__all__ = ["ImageClassifier"]
