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
        stamps: Bytes that change when the files of a version do; where there are none, a
            version is loaded again only if its config changes.
    """

    name: str
    stateful: bool
    versions: Mapping[str, ModelConfig]
    others: Mapping[str, ModelConfig] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    stamps: Mapping[str, bytes] = field(default_factory=dict)


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


class ControlledRepository(Repository, Protocol):
    """One whose models clients may ask for."""

    explicit: bool

    def names(self) -> list[str]:
        """All models that are there, wanted or not. Blocking."""

    def ask(
        self, name: str, config: str | None = None, files: Mapping[str, bytes] = ...
    ) -> WantedModel:
        """Want a model from now on, as it is or as a client says. Blocking.

        Raises:
            KeyError: There is no such model.
            RepositoryError, ConfigError: It cannot be served so.
        """

    def forget(self, name: str) -> None:
        """Want a model no more."""

    def close(self) -> None:
        """Tidy up."""
