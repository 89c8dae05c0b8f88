"""Model repositories of Triton Inference Server: folders with a ``config.pbtxt``."""
