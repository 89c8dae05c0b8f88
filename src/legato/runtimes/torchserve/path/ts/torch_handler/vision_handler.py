"""``ts.torch_handler.vision_handler``."""

from legato.runtimes.torchserve.vision import VisionHandler

__all__ = ["VisionHandler"]
