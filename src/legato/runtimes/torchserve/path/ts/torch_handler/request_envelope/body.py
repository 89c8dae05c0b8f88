"""``ts.torch_handler.request_envelope.body``."""

from legato.runtimes.torchserve.envelopes import BodyEnvelope

__all__ = ["BodyEnvelope"]
