"""``ts.torch_handler.request_envelope.kserve``."""

from legato.runtimes.torchserve.envelopes import KServeEnvelope

__all__ = ["KServeEnvelope"]
