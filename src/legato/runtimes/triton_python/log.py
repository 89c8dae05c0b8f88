"""``pb_utils.Logger``: lines of a model in the server's log."""

from __future__ import annotations

import sys

__all__ = ["Logger"]


class Logger:
    """Writes lines; nobody makes one, its functions are called on the class."""

    @staticmethod
    def log(message: str, level: int | None = None) -> None:
        """Write a line; the level is one of the numbers below, INFO where it is left out."""
        _write("INFO" if level is None else _NAMES.get(level, "INFO"), message)

    @staticmethod
    def log_info(message: str) -> None:
        """Write a line that informs."""
        _write("INFO", message)

    @staticmethod
    def log_warn(message: str) -> None:
        """Write a line that warns."""
        _write("WARNING", message)

    @staticmethod
    def log_error(message: str) -> None:
        """Write a line that tells of an error."""
        _write("ERROR", message)

    @staticmethod
    def log_verbose(message: str) -> None:
        """Write a line that helps to find a fault."""
        _write("VERBOSE", message)

    INFO, WARNING, ERROR, VERBOSE = range(4)


_NAMES = {0: "INFO", 1: "WARNING", 2: "ERROR", 3: "VERBOSE"}


def _write(level: str, message: str) -> None:
    # The worker's standard error is the server's log.
    sys.stderr.write(f"{level} {message}\n")
