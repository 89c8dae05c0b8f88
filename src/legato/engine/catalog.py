"""What is served under which name, and what became of versions that are not.

The engine knows the versions that take steps. Some protocols also tell of versions that
failed to load or were taken away; a catalog keeps that. This one has nothing but the
engine's own knowledge; :class:`legato.engine.follower.Follower` follows a repository.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import UnknownModelError

if TYPE_CHECKING:
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle


class VersionState(enum.Enum):
    """Where a version is between its folder and its end."""

    LOADING = "loading"
    AVAILABLE = "available"
    FAILED = "failed"
    RETIRED = "retired"


class Known(NamedTuple):
    """A version that was heard of.

    Attributes:
        version: Its name.
        state: Where it is.
        problem: Why it failed.
    """

    version: str
    state: VersionState
    problem: str = ""


class VersionStateError(UnknownModelError):
    """The version is known, and takes no steps: it was taken away, or is not loaded."""

    def __init__(self, model: str, version: str, state: VersionState) -> None:
        super().__init__(model, version)
        self.state = state


class ReloadError(Exception):
    """The repository could not be followed in everything; what was served goes on.

    Attributes:
        kind: ``config`` (the file as a whole), ``models`` (some of it), ``off`` (there is
            nothing to follow).
        status: HTTP status that tells it best.
    """

    def __init__(self, message: str, *, kind: str, status: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.status = status


class Catalog:
    """The engine's own knowledge: whatever it serves is available, nothing else is known."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        return f"<{type(self).__name__} models={len(self.names())}>"

    def find(self, name: str, version: str = "", *, lingering: bool = False) -> ModelHandle:
        """Find a version that takes steps.

        Args:
            name: Model name.
            version: Which version; "" = the default one.
            lingering: One that takes only steps of sequences that live on it will do.

        Raises:
            VersionStateError: The version is known, and takes no steps.
            UnknownModelError: There is no such version, or no such model.
        """
        try:
            return self.engine.model(name, version)
        except UnknownModelError:
            if lingering:
                kept = self._lingering(name, version)
                if kept is not None:
                    return kept
            known = {entry.version: entry for entry in self.known(name)}
            if not known:
                raise UnknownModelError(name) from None
            if not version:  # the newest one tells why there is none
                version = next(reversed(known))
            if version in known and known[version].state is not VersionState.AVAILABLE:
                raise VersionStateError(name, version, known[version].state) from None
            raise UnknownModelError(name, version) from None

    def others(self, name: str) -> list[ModelHandle]:
        """All versions of a model that sequences live on, but for the default one."""
        model = self.engine.tables.get(name)
        if model is None:
            return []
        handles = (*model.versions.values(), *model.lingering)
        return [handle for handle in handles if handle is not model.default]

    def _lingering(self, name: str, version: str) -> ModelHandle | None:
        """Find a version that only takes steps of the sequences that live on it."""
        model = self.engine.tables.get(name)
        kept = model.lingering if model is not None else []
        return next((handle for handle in reversed(kept) if version in ("", handle.version)), None)

    def known(self, name: str) -> list[Known]:
        """All versions of a model that were heard of, oldest first; empty = no such model."""
        served = [handle.version for handle in self.engine.models() if handle.name == name]
        return [Known(version, VersionState.AVAILABLE) for version in sorted(served, key=order)]

    def names(self) -> list[str]:
        """All models that were heard of, in the order of the alphabet."""
        return sorted({handle.name for handle in self.engine.models()})

    async def load(self) -> dict[str, str]:
        """Serve what is wanted, before the engine starts; return what is wrong, by name."""
        return {}

    async def watch(self) -> None:
        """Follow changes from now on."""

    async def close(self) -> None:
        """Follow no more."""

    async def reload(self) -> bool:
        """Serve what the repository says now; true if anything was changed.

        Raises:
            ReloadError: It could not be followed in everything.
        """
        raise ReloadError("there is no config file that this server follows", kind="off")


def order(version: str) -> tuple[int, str]:
    """Sort versions by number, other names first."""
    return (int(version), "") if version.isdecimal() else (-1, version)
