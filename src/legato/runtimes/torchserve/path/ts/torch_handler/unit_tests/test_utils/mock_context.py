"""``ts.torch_handler.unit_tests.test_utils.mock_context``."""

from legato.runtimes.torchserve.mock_context import MockContext

__all__ = ["MockContext"]
