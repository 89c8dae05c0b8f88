"""What this protocol needs of the engine, so that tests can put something else in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from legato.core.errors import ServerError
    from legato.core.types import Signature, Step
    from legato.engine.statistics import ModelStatistics
    from legato.repository.config import ModelConfig


class ServedModel(Protocol):
    """One version of a model, loaded."""

    @property
    def name(self) -> str:
        """Model name."""

    @property
    def version(self) -> str:
        """Model version."""

    @property
    def config(self) -> ModelConfig:
        """What was configured."""

    @property
    def signature(self) -> Signature:
        """What it takes, gives and carries."""

    @property
    def statistics(self) -> ModelStatistics:
        """Running totals."""

    @property
    def ready(self) -> bool:
        """It takes steps."""


class EnginePort(Protocol):
    """The one door to the engine."""

    @property
    def decoupled(self) -> AbstractSet[str]:
        """Names of models that may answer a step any number of times."""

    @property
    def unloaded(self) -> AbstractSet[str]:
        """Names of models that were served once and are not now."""

    def submit(self, step: Step) -> None:
        """Take a step; ``step.done`` is called exactly once, perhaps before this returns."""

    def cancel(self, step: Step) -> None:
        """Drop a step that has not begun."""

    def refused(self, name: str, error: ServerError) -> None:
        """Count a request for a model that was refused before it was a step."""

    def model(self, name: str, version: str = "") -> ServedModel:
        """Find a served model.

        Raises:
            UnknownModelError: It is not served.
        """

    def models(self) -> Sequence[ServedModel]:
        """Return all served models."""
