"""``ts.torch_handler.request_envelope.kservev2``."""

from legato.runtimes.torchserve.envelopes import KServev2Envelope

__all__ = ["KServev2Envelope"]
