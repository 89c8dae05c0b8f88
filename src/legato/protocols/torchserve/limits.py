"""What the wire itself must know of a model's keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from legato.repository.ts_limits import DEFAULT_QUEUE, flag, integer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.repository.config import ModelConfig

_SHOWN_DELAY_MS: Final = 100
_SHOWN_TIMEOUT_S: Final = 120


@dataclass(frozen=True, slots=True)
class Limits:
    """Keys of one model, read once.

    Attributes:
        keys: All of them, YAML spelling.
        stateful: Its requests belong to sequences.
        continuous: Requests are answered in any number of parts, several of a sequence at once.
        use_job_ticket: Requests are taken only while a worker is idle.
        client_timeout_ms: Longest time from request to answer, 0 = no limit.
        batch_size, max_batch_delay_ms, response_timeout_s, startup_timeout_s, idle_ms, life_ms,
        job_queue_size: As describe shows them.
    """

    keys: Mapping[str, Any]
    stateful: bool
    continuous: bool
    use_job_ticket: bool
    client_timeout_ms: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    startup_timeout_s: int
    idle_ms: int
    life_ms: int
    job_queue_size: int

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Read a model's config; one of our own has its limits in fields, not keys."""
        found = config.options.get("keys")
        keys: Mapping[str, Any] = found if isinstance(found, dict) else {}
        limits = config.sequences
        return cls(
            keys,
            stateful=config.runtime != "torchserve" or flag(keys, "sequenceBatching"),
            continuous=flag(keys, "continuousBatching"),
            use_job_ticket=flag(keys, "useJobTicket"),
            client_timeout_ms=max(0, integer(keys, "clientTimeoutInMills")),
            batch_size=max(1, integer(keys, "batchSize", 1)),
            max_batch_delay_ms=integer(keys, "maxBatchDelay") or _SHOWN_DELAY_MS,
            response_timeout_s=integer(keys, "responseTimeout", _SHOWN_TIMEOUT_S),
            startup_timeout_s=integer(keys, "startupTimeout", _SHOWN_TIMEOUT_S),
            idle_ms=int(limits.idle_timeout_s * 1000),
            life_ms=int(limits.max_age_s * 1000),
            job_queue_size=integer(keys, "jobQueueSize") or DEFAULT_QUEUE,
        )
