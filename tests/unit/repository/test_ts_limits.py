"""model-config.yaml keys as fields of a config."""

from __future__ import annotations

import pytest

from legato.repository.config import ModelConfig
from legato.repository.ts_limits import flag, integer, limits


def test_the_readmes_config_becomes_limits() -> None:
    """Every number finds its place."""
    keys = {
        "sequenceBatching": True, "batchSize": 4, "maxBatchDelay": 50,
        "sequenceMaxIdleMSec": 60000, "sequenceTimeoutMSec": 120000, "maxNumSequence": 4,
        "maxSequenceJobQueueSize": 10,
    }  # fmt: skip

    config = ModelConfig(name="m", **limits(keys))

    assert (config.max_batch_size, config.max_queue_delay_ms, config.wait_for) == (4, 50.0, "live")
    found = config.sequences
    assert (found.idle_timeout_s, found.max_age_s) == (60.0, 120.0)
    assert (found.max_live, found.max_queued_steps, found.max_backlog) == (4, 10, 0)


def test_defaults_are_torchserves_but_for_its_traps() -> None:
    """One sequence, one waiting request; but an hour of idleness, and no wait for company."""
    config = ModelConfig(name="m", **limits({"sequenceBatching": True}))

    assert (config.sequences.max_live, config.sequences.max_queued_steps) == (1, 1)
    assert config.sequences.idle_timeout_s == 3600.0
    assert (config.max_batch_size, config.max_queue_delay_ms) == (1, 0.0)


def test_a_short_life_bounds_idleness() -> None:
    """A sequence whose time is over does not take a place for longer."""
    keys = {"sequenceBatching": True, "sequenceMaxIdleMSec": 60000, "sequenceTimeoutMSec": 5000}

    assert limits(keys)["sequences"].idle_timeout_s == 5.0


@pytest.mark.parametrize(("keys", "queued"), [({}, 7), ({"jobQueueSize": 3}, 3)])
def test_a_model_without_sequences_has_one_queue(keys, queued: int) -> None:
    """Its own size, or the server's."""
    found = limits(keys, job_queue_size=7)

    assert found["max_queued"] == queued
    assert "sequences" not in found


@pytest.mark.parametrize("value", ["4", 4.0, True, None, [4], 2**31])
def test_what_is_no_plain_integer_counts_as_not_given(value) -> None:
    """As in TorchServe: a warning is for whoever reads the file."""
    assert integer({"batchSize": value}, "batchSize", 1) == 1
    assert not flag({"batchSize": 1}, "batchSize")


def test_numbers_are_clamped() -> None:
    """Nothing below what makes sense."""
    keys = {
        "sequenceBatching": True, "batchSize": -3, "maxBatchDelay": -1, "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0, "sequenceMaxIdleMSec": -5,
    }  # fmt: skip

    found = limits(keys)

    assert (found["max_batch_size"], found["max_queue_delay_ms"]) == (1, 0.0)
    assert found["sequences"].max_live == found["sequences"].max_queued_steps == 1
    assert found["sequences"].idle_timeout_s == 3600.0
