"""What is put on the path of worker processes that run Triton's Python models."""
