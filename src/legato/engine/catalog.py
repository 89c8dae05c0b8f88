"""What is served under which name, and what became of versions that are not.

The engine knows the versions that take steps. Some protocols also tell of versions that
failed to load or were taken away; a catalog keeps that. This one has nothing but the
engine's own knowledge; :class:`legato.engine.follower.Follower` follows a repository.
"""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle


class VersionState(enum.Enum):
    """Where a version is between its folder and its end."""

    LOADING = "loading"
    AVAILABLE = "available"
    FAILED = "failed"
    RETIRED = "retired"
    UNLOADING = "unloading"


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


class ControlError(Exception):
    """A model could not be loaded or unloaded on a client's wish.

    Attributes:
        kind: ``off`` (this server is not controlled so), ``unknown`` (there is no such
            model), ``invalid`` (the model, its config or the request is wrong), ``failed``
            (the server's own fault).
        message: What to tell the client.
    """

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind


class Indexed(NamedTuple):
    """A line of the repository's index, in Triton's words.

    Attributes:
        name: Model name.
        version: "" = never loaded.
        state: ``LOADING``, ``READY``, ``UNLOADING``, ``UNAVAILABLE``, or "" = never loaded.
        reason: Why it is not ready.
    """

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


CONTROL_IS_OFF = "explicit model load / unload is not allowed if polling is enabled"
"""What Triton says in every mode but ``explicit``."""

_STATES = {
    VersionState.LOADING: "LOADING",
    VersionState.AVAILABLE: "READY",
    VersionState.FAILED: "UNAVAILABLE",
    VersionState.RETIRED: "UNAVAILABLE",
    VersionState.UNLOADING: "UNLOADING",
}


class Catalog:
    """The engine's own knowledge: whatever it serves is available, nothing else is known."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __repr__(self) -> str:
        return f"<{type(self).__name__} models={len(self.names())}>"

    @property
    def complete(self) -> bool:
        """All that should be served is; the server is not ready before."""
        return True

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

    # -- Triton's model control -----------------------------------------------------------------

    async def load_model(
        self,
        name: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """Load a model of the repository, or load it again; live sequences go on.

        Args:
            name: Which model.
            config: A ModelConfig as JSON, in place of the one in the repository.
            files: ``<version>/<name>`` to content, in place of the repository's versions;
                only beside ``config``.

        Raises:
            ControlError: It is not loaded; what was served goes on.
        """
        del name, config, files
        raise ControlError(CONTROL_IS_OFF, kind="off")

    async def unload_model(self, name: str, *, dependents: bool = False) -> None:
        """Take a model away: no new steps at once, those under way are finished.

        Args:
            name: Which model.
            dependents: Models that only it needed, too (there are none: no ensembles here).

        Raises:
            ControlError: It stays.
        """
        del name, dependents
        raise ControlError(CONTROL_IS_OFF, kind="off")

    def index(self) -> list[Indexed]:
        """All that is in the repository, loaded or not."""
        lines = []
        for name in self.names():
            for entry in self.known(name):
                state = _STATES[entry.state]
                if entry.state is VersionState.AVAILABLE and not self._takes(name, entry.version):
                    state = "UNAVAILABLE"
                reason = "unloaded" if entry.state is VersionState.RETIRED else entry.problem
                lines.append(Indexed(name, entry.version, state, reason))
        return lines

    def _takes(self, name: str, version: str) -> bool:
        try:
            return self.engine.model(name, version).ready
        except UnknownModelError:
            return False


def order(version: str) -> tuple[int, str]:
    """Sort versions by number, other names first."""
    return (int(version), "") if version.isdecimal() else (-1, version)
