"""``ts.torch_handler.image_segmenter``."""

from legato.runtimes.torchserve.vision import ImageSegmenter

__all__ = ["ImageSegmenter"]
