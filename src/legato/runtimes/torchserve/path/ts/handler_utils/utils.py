"""``ts.handler_utils.utils``."""

from legato.runtimes.torchserve.answers import send_intermediate_predict_response
from legato.runtimes.torchserve.helpers import import_class

__all__ = ["import_class", "send_intermediate_predict_response"]
