"""What is put on the path of worker processes that run TorchServe handlers."""
