"""Why a sequence was not changed from outside. No step ever meets these errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.core.errors import ClientError

if TYPE_CHECKING:
    from legato.core.types import CorrelationId


class UnknownSnapshotError(ClientError):
    """The sequence has no snapshot of this name."""

    code = "unknown_snapshot"

    def __init__(self, correlation_id: CorrelationId, name: str) -> None:
        super().__init__(
            f"sequence {correlation_id!r} has no snapshot named '{name}'; list its snapshots"
        )


class SnapshotExistsError(ClientError):
    """The sequence has a snapshot of this name, and snapshots never change."""

    code = "snapshot_exists"

    def __init__(self, correlation_id: CorrelationId, name: str, step: int) -> None:
        super().__init__(
            f"sequence {correlation_id!r} has a snapshot named '{name}' already, of step {step}; "
            "delete it, or choose another name"
        )


class NotAtStepError(ClientError):
    """The sequence is at another step than the one that was asked for."""

    code = "not_at_step"

    def __init__(self, correlation_id: CorrelationId, wanted: int, step: int) -> None:
        super().__init__(
            f"sequence {correlation_id!r} is at step {step}, not at step {wanted}; only its "
            "current step and its snapshots can be had",
            expected_step=step + 1,
        )
