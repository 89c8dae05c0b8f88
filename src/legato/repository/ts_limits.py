"""TorchServe's ``model-config.yaml`` keys as the fields of a :class:`ModelConfig`. Pure.

Numbers that are missing or of another type count as not given, as in TorchServe.
Where its default is a trap (an idle limit of 0 breaks it, every step waits 100 ms for
company), the default here is one that works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from legato.repository.config import SequenceConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_IDLE_S: Final = 3600.0
DEFAULT_QUEUE: Final = 100
_SEQUENCE_QUEUE: Final = 100_000
_MOST: Final = 2**31 - 1


def integer(keys: Mapping[str, Any], name: str, default: int = 0) -> int:
    """Return a key that is a plain YAML integer, else the default."""
    value = keys.get(name)
    if isinstance(value, int) and not isinstance(value, bool) and value <= _MOST:
        return value
    return default


def flag(keys: Mapping[str, Any], name: str) -> bool:
    """Return a key that is a YAML boolean, else false."""
    return keys.get(name) is True


def limits(keys: Mapping[str, Any], *, job_queue_size: int = DEFAULT_QUEUE) -> dict[str, Any]:
    """Return the fields of a model's config that its YAML keys decide.

    Args:
        keys: Merged keys in their YAML spelling.
        job_queue_size: Length of the queue of a stateless model without ``jobQueueSize``.
    """
    stateful = flag(keys, "sequenceBatching")
    queue = max(0, integer(keys, "jobQueueSize")) or max(1, job_queue_size)
    fields: dict[str, Any] = {
        "max_batch_size": max(1, integer(keys, "batchSize", 1)),
        # TorchServe's 100 ms are no wish of the user's: only a delay that is asked for is kept.
        "max_queue_delay_ms": float(max(0, integer(keys, "maxBatchDelay"))),
        "wait_for": "live",
        "max_queued": _SEQUENCE_QUEUE if stateful else queue,
    }
    if stateful:
        fields["sequences"] = _sequences(keys)
    return fields


def _sequences(keys: Mapping[str, Any]) -> SequenceConfig:
    idle_s = max(0, integer(keys, "sequenceMaxIdleMSec")) / 1000 or DEFAULT_IDLE_S
    life_s = max(0, integer(keys, "sequenceTimeoutMSec")) / 1000
    return SequenceConfig(
        idle_timeout_s=min(idle_s, life_s) if life_s else idle_s,
        max_age_s=life_s,
        max_live=max(1, integer(keys, "maxNumSequence", 1)),
        max_backlog=0,
        max_queued_steps=max(1, integer(keys, "maxSequenceJobQueueSize", 1)),
    )
