"""What this protocol needs of the engine, so that tests can put something else in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.errors import SequenceLimitError
    from legato.core.types import Signature, Step
    from legato.engine.catalog import Known


class ServedModel(Protocol):
    """One version of a model, loaded."""

    @property
    def name(self) -> str:
        """Model name."""

    @property
    def version(self) -> str:
        """Model version."""

    @property
    def signature(self) -> Signature:
        """What it takes, gives and carries."""

    @property
    def stateful(self) -> bool:
        """Its steps belong to sequences."""


class EnginePort(Protocol):
    """The one door to the engine."""

    def submit(self, step: Step) -> None:
        """Take a step; ``step.done`` is called exactly once, perhaps before this returns."""

    def cancel(self, step: Step) -> None:
        """Drop a step that has not begun."""

    def room(self, name: str) -> SequenceLimitError | None:
        """Why no further sequence of a model may be made; ``None`` = it may."""


class CountsPort(Protocol):
    """Counts requests, on a server that was asked for Model Server's metrics."""

    def count(self, method: str, name: str, version: str, *, ok: bool) -> None:
        """Count a request."""

    def took(self, name: str, version: str, seconds: float) -> None:
        """Note how long a request took that went well."""


class CatalogPort(Protocol):
    """What is served, what was, and what should be."""

    def find(self, name: str, version: str = "", *, lingering: bool = False) -> ServedModel:
        """Find a version that takes steps; see :class:`legato.engine.catalog.Catalog`."""

    def others(self, name: str) -> Sequence[ServedModel]:
        """All versions of a model that sequences live on, but for the default one."""

    def known(self, name: str) -> Sequence[Known]:
        """All versions of a model that were heard of, oldest first; empty = no such model."""

    def names(self) -> Sequence[str]:
        """All models that were heard of, in the order of the alphabet."""

    async def reload(self) -> bool:
        """Serve what the repository says now; true if anything was changed."""
