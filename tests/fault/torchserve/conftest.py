"""The same servers and clients as in the functional tests."""

from tests.functional.torchserve.conftest import torchserve

__all__ = ["torchserve"]
