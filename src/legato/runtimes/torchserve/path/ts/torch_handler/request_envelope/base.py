"""``ts.torch_handler.request_envelope.base``."""

from legato.runtimes.torchserve.envelopes import BaseEnvelope

__all__ = ["BaseEnvelope"]
