"""What a repository wants to be served now: plain data, compared with what is served."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.repository.config import ModelConfig


class RepositoryError(Exception):
    """The repository as a whole cannot be read; nothing follows from it.

    Attributes:
        kind: ``config`` (it is wrong) or ``missing`` (it is not there).
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


@dataclass(frozen=True, slots=True)
class WantedModel:
    """One model.

    Attributes:
        name: Model name.
        stateful: Whether the repository calls it stateful.
        versions: Those to serve, by version name, oldest first.
        others: Those that are there and not to be served, unless sequences live on them.
        problems: Versions that cannot even be configured, and why.
    """

    name: str
    stateful: bool
    versions: Mapping[str, ModelConfig]
    others: Mapping[str, ModelConfig] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Everything.

    Attributes:
        models: By name.
        problems: Models (or other parts) that are wrong, and why. A model of such a name
            that is served already goes on as it is.
    """

    models: Mapping[str, WantedModel]
    problems: Mapping[str, str] = field(default_factory=dict)


class Repository(Protocol):
    """Where models come from."""

    poll_s: float

    def read(self) -> Wanted:
        """Say what is wanted now. Blocking.

        Raises:
            RepositoryError: It cannot be read.
        """

    def fingerprint(self) -> bytes:
        """Return bytes that change when ``read`` may give something else. Blocking."""
