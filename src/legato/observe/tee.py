"""A log that goes to standard error and to a file."""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Both(io.TextIOBase):
    """A stream of lines that go to standard error and to the end of a file.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, text: str) -> int:
        """Write to both; a file that cannot grow costs its lines only."""
        with suppress(OSError):
            self._file.write(text)
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Flush both."""
        with suppress(OSError):
            self._file.flush()
        sys.stderr.flush()

    def close(self) -> None:
        """Close the file."""
        super().close()
        with suppress(OSError):
            self._file.close()

    def isatty(self) -> bool:
        """Tell that this is no terminal: what is in the file has no colours."""
        return False
