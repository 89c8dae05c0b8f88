"""What the wire knows of a model's keys."""

from __future__ import annotations

from legato.protocols.torchserve.limits import Limits
from legato.repository.config import ModelConfig, SequenceConfig


def test_an_archives_keys_are_read_once() -> None:
    """Those that describe shows, and those that the wire obeys."""
    keys = {
        "sequenceBatching": True, "useJobTicket": True, "clientTimeoutInMills": 50,
        "batchSize": 4, "maxBatchDelay": 7, "responseTimeout": 9, "jobQueueSize": 3,
    }  # fmt: skip
    config = ModelConfig(
        name="m", runtime="torchserve", instance="process", options={"keys": keys},
        sequences=SequenceConfig(idle_timeout_s=0.25, max_age_s=2),
    )  # fmt: skip

    found = Limits.of(config)

    assert (found.stateful, found.use_job_ticket, found.client_timeout_ms) == (True, True, 50)
    assert (found.batch_size, found.max_batch_delay_ms, found.response_timeout_s) == (4, 7, 9)
    assert (found.idle_ms, found.life_ms, found.job_queue_size) == (250, 2000, 3)


def test_what_is_not_given_is_shown_as_torchserve_does() -> None:
    """100 ms, 120 s, a queue of 100."""
    config = ModelConfig(name="m", runtime="torchserve", instance="process")

    found = Limits.of(config)

    assert not found.stateful
    assert (found.max_batch_delay_ms, found.startup_timeout_s, found.job_queue_size) == (
        100,
        120,
        100,
    )
