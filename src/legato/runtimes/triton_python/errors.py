"""``TritonError`` and ``TritonModelException``, as ``model.py`` files know them."""

from __future__ import annotations

from typing import ClassVar, Final

CATEGORIES: Final = (
    "unknown", "internal", "not_found", "invalid_argument", "unavailable", "unsupported",
    "already_exists", "cancelled",
)  # fmt: skip
"""What each code of a ``TritonError`` is called elsewhere, by its number."""


class TritonError:
    """An error that a model answers a request with.

    Args:
        message: Text for the client.
        code: One of the codes below; INTERNAL where it is left out.
    """

    UNKNOWN: ClassVar[int] = 0
    INTERNAL: ClassVar[int] = 1
    NOT_FOUND: ClassVar[int] = 2
    INVALID_ARG: ClassVar[int] = 3
    UNAVAILABLE: ClassVar[int] = 4
    UNSUPPORTED: ClassVar[int] = 5
    ALREADY_EXISTS: ClassVar[int] = 6
    CANCELLED: ClassVar[int] = 7

    def __init__(self, message: str = "", code: int = INTERNAL) -> None:
        if not 0 <= int(code) < len(CATEGORIES):
            raise TritonModelException(f"a TritonError has no code {code}")
        self._message = str(message)
        self._code = int(code)

    def __repr__(self) -> str:
        return f"<TritonError {CATEGORIES[self._code]}: {self._message}>"

    def __str__(self) -> str:
        return self._message

    def message(self) -> str:
        """Return its text."""
        return self._message

    def code(self) -> int:
        """Return its code."""
        return self._code


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    """What the functions of ``triton_python_backend_utils`` raise."""
