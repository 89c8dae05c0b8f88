"""``ts.version``."""

from legato.runtimes.torchserve.runtime import SERVER_VERSION

__version__ = SERVER_VERSION

__all__ = ["__version__"]
