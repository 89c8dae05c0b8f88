"""TorchServe's package as handlers import it; only on the path of worker processes."""

from legato.runtimes.torchserve.runtime import SERVER_VERSION

__version__ = SERVER_VERSION

__all__ = ["__version__"]
