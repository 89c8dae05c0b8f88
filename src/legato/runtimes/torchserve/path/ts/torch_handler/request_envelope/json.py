"""``ts.torch_handler.request_envelope.json``."""

from legato.runtimes.torchserve.envelopes import JSONEnvelope

__all__ = ["JSONEnvelope"]
