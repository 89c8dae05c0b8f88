"""``ts.torch_handler.object_detector``."""

from legato.runtimes.torchserve.vision import ObjectDetector

__all__ = ["ObjectDetector"]
