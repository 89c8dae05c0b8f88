"""``ts.protocol.otf_message_handler``."""

from legato.runtimes.torchserve.answers import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
