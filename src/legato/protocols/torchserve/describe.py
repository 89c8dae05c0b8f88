"""What a registered model looks like to the management APIs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from legato.repository.ts_limits import integer

if TYPE_CHECKING:
    from legato.engine.instance import Instance
    from legato.engine.workers import WorkerStatus
    from legato.protocols.torchserve.registry import Registered


def describe(one: Registered, metadata: object = None) -> dict[str, Any]:
    """Return everything about a version, in TorchServe's order."""
    keys = one.limits
    handle = one.handle
    waiting = 0 if handle is None else len(handle.scheduler)
    shown = keys.stateful
    made: dict[str, Any] = {
        "modelName": one.name,
        "modelVersion": one.version,
        "modelUrl": one.url,
        "runtime": "python",
        "minWorkers": one.least,
        "maxWorkers": one.most,
        "batchSize": keys.batch_size,
        "maxBatchDelay": keys.max_batch_delay_ms,
        "responseTimeout": keys.response_timeout_s,
        "startupTimeout": keys.startup_timeout_s,
        "maxRetryTimeoutInSec": integer(keys.keys, "maxRetryTimeoutInSec", 300),
        "clientTimeoutInMills": keys.client_timeout_ms,
        "parallelType": str(keys.keys.get("parallelType", "")),
        "parallelLevel": max(0, integer(keys.keys, "parallelLevel")),
        "deviceType": str(keys.keys.get("deviceType", "cpu")),
        "continuousBatching": keys.keys.get("continuousBatching") is True,
        "useJobTicket": keys.use_job_ticket,
        "useVenv": keys.keys.get("useVenv") is True,
        "stateful": shown,
        "sequenceMaxIdleMSec": keys.idle_ms if shown else 0,
        "sequenceTimeoutMSec": keys.life_ms if shown else 0,
        "maxNumSequence": one.config.sequences.max_live if shown else 0,
        "maxSequenceJobQueueSize": one.config.sequences.max_queued_steps if shown else 0,
        "loadedAtStartup": one.startup,
        "workers": workers(one),
        "jobQueueStatus": {
            "remainingCapacity": max(0, keys.job_queue_size - waiting),
            "pendingRequests": waiting,
        },
    }
    if metadata is not None:
        made["customizedMetadata"] = metadata
    return made


def workers(one: Registered) -> list[dict[str, Any]]:
    """Return the workers of a version, each with ``status`` READY or UNLOADING."""
    if one.handle is None:
        return []
    return [
        {"id": str(one.first_id + at), **_worker(instance, one)}
        for at, instance in enumerate(one.handle.instances)
    ]


def _worker(instance: Instance, one: Registered) -> dict[str, Any]:
    """Tell of one instance; one that is no process of its own lives in ours."""
    tell = getattr(instance, "status", None)
    found: WorkerStatus | None = tell() if tell is not None else None
    alive = one.handle is not None and one.handle.ready if found is None else found.alive
    return {
        "startTime": _moment(one.began if found is None else found.started_at),
        "status": "READY" if alive else "UNLOADING",
        "memoryUsage": 0 if found is None else found.memory_bytes,
        "pid": os.getpid() if found is None else found.pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }


def _moment(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
