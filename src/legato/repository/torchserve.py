"""A TorchServe archive as a :class:`ModelConfig`.

Everything that only TorchServe knows goes into ``options``:

- ``handler``: ``file``, ``file:function`` or the name of a built-in handler;
- ``manifest``: the manifest or ``None``; ``yaml``: the model's YAML file, whole;
- ``keys``: the keys that the server reads, after all defaults and overrides, in YAML spelling;
- ``notes``: sentences about keys that were passed over;
- ``workers``: least and most worker processes;
- ``header_keys``: names of the three sequence headers;
- ``path``, ``python``, ``environment``: what the worker process is started with;
- ``metrics``: kind, name, unit and dimensions of the metrics that the server declares;
- ``decode``, ``envelope``, ``gpus``, ``limit_max_image_pixels``: as in config.properties.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig, WorkerConfig
from legato.repository.ts_archive import Installed, install_requirements, open_archive
from legato.repository.ts_limits import flag, integer, limits

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

SEQUENCE_ID: Final = "ts_request_sequence_id"
SEQUENCE_START: Final = "ts_request_sequence_start"
SEQUENCE_END: Final = "ts_request_sequence_end"

_SECONDS: Final = 120
_MOST_WORKERS: Final = 64
_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(
        """
        minWorkers maxWorkers batchSize maxBatchDelay responseTimeout startupTimeout
        maxRetryTimeoutInSec clientTimeoutInMills jobQueueSize sequenceMaxIdleMSec
        sequenceTimeoutMSec maxNumSequence maxSequenceJobQueueSize parallelLevel
        """.split(),
        int,
    ),
    **dict.fromkeys(
        "useJobTicket sequenceBatching continuousBatching asyncCommunication useVenv".split(), bool
    ),
    "deviceType": str,
    "parallelType": str,
    "deviceIds": list,
    "torchrun": dict,
}
_NAMES: Final = {int: "a whole number", bool: "true or false", str: "text", list: "a list",
                 dict: "a mapping"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """What the server, the command line and the register call say about a model.

    Attributes:
        handler, batch_size, max_batch_delay, initial_workers, response_timeout, startup_timeout:
            Parameters of the register call; ``None`` = not given.
        version: Overrides the manifest's.
        model: This model's entry of the property ``models``, in its own spelling.
        default_workers_per_model, default_response_timeout, default_startup_timeout,
        default_service_handler, service_envelope, job_queue_size, install_py_dep_per_model,
        decode_input_request, limit_max_image_pixels, number_of_gpu, blacklist_env_vars,
        ts_header_key_sequence_id, ts_header_key_sequence_start, ts_header_key_sequence_end:
            Properties of the same names.
        metrics: Declared metrics: kind, name, unit, dimensions of each.
        workspace: Where archives are unpacked; ``None`` = a temporary folder.
    """

    handler: str | None = None
    batch_size: int | None = None
    max_batch_delay: int | None = None
    initial_workers: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    version: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    default_workers_per_model: int = 1
    default_response_timeout: int = _SECONDS
    default_startup_timeout: int = _SECONDS
    default_service_handler: str | None = None
    service_envelope: str | None = None
    job_queue_size: int = 100
    install_py_dep_per_model: bool = False
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    number_of_gpu: int = 0
    blacklist_env_vars: str = ""
    ts_header_key_sequence_id: str = SEQUENCE_ID
    ts_header_key_sequence_start: str = SEQUENCE_START
    ts_header_key_sequence_end: str = SEQUENCE_END
    metrics: Sequence[Sequence[Any]] = ()
    workspace: Path | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ArchiveSettings:
        """Take from a mapping what belongs here; other keys are passed over."""
        known = {entry.name for entry in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def load_archive(
    path: Path,
    *,
    name: str = "",
    settings: ArchiveSettings | Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Make the config of an archive, unpacked and with its requirements installed. Blocks.

    Args:
        path: ``.mar``, ``.tar.gz``, ``.tgz`` or a folder.
        name: Name to serve it under; ``""`` = the manifest's, else the file's.
        settings: What is said about it outside the archive.

    Raises:
        ConfigError: There is no such archive, it is broken, or names no handler.
    """
    given = settings
    if not isinstance(given, ArchiveSettings):
        given = ArchiveSettings.of(given or {})
    archive = open_archive(path, given.workspace)
    name = name or str(archive.model.get("modelName") or _name_of(path))
    keys, notes = _merged(archive.keys, given)
    handler = given.handler or archive.model.get("handler") or given.default_service_handler
    if not handler:
        raise ConfigError(
            "names no handler", file=str(path), key="handler", fix="pack it with --handler"
        )
    least, most = _workers(archive.keys, keys, given)
    installed = Installed()
    if given.install_py_dep_per_model:
        place = (given.workspace or archive.folder.parent) / f"{archive.folder.name}-environment"
        venv = flag(keys, "useVenv")
        installed = install_requirements(archive, place, name, venv=venv)
    wanted = limits(keys, job_queue_size=given.job_queue_size)
    if flag(keys, "continuousBatching"):
        wanted["max_batch_size"] *= 2
    return ModelConfig(
        name=name,
        version=given.version or str(archive.model.get("modelVersion") or "1.0"),
        runtime="torchserve",
        folder=archive.folder,
        files=list(archive.files),
        instance="process",
        instances=least,
        worker=_worker(keys, given, installed),
        options={
            "handler": str(handler),
            "manifest": archive.manifest,
            "yaml": dict(archive.keys),
            "keys": keys,
            "notes": notes,
            "workers": [least, most],
            "header_keys": {
                "id": given.ts_header_key_sequence_id,
                "start": given.ts_header_key_sequence_start,
                "end": given.ts_header_key_sequence_end,
            },
            "metrics": [list(one) for one in given.metrics],
            "decode": given.decode_input_request,
            "envelope": (archive.manifest or {}).get("model", {}).get("envelope")
            or given.service_envelope,
            "gpus": given.number_of_gpu,
            "limit_max_image_pixels": given.limit_max_image_pixels,
            "url": str(path),
        },
        **wanted,
    )  # fmt: skip


def _name_of(path: Path) -> str:
    stem = path.name if path.is_dir() else re.sub(r"(\.tar\.gz|\.tgz|\.[^.]+)$", "", path.name)
    return re.sub(r"\W", "_", stem)


def _merged(yaml: Mapping[str, Any], given: ArchiveSettings) -> tuple[dict[str, Any], list[str]]:
    """Put the server's keys together: register call over YAML over ``models`` over defaults.

    The two timeouts and the worker counts of the YAML win over the register call.
    """
    notes: list[str] = []
    keys: dict[str, Any] = {
        "responseTimeout": given.default_response_timeout,
        "startupTimeout": given.default_startup_timeout,
    }
    for key in ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout",
                "startupTimeout"):  # fmt: skip
        value = integer(given.model, key)
        if value > 0:
            keys[key] = value
    asked = (given.response_timeout, given.startup_timeout)
    keys.update(_given(responseTimeout=asked[0], startupTimeout=asked[1]))
    for key, kind in _TYPES.items():
        if key not in yaml:
            continue
        value = yaml[key]
        if type(value) is kind:
            keys[key] = value
        else:
            notes.append(f"'{key}' must be {_NAMES[kind]}, not {value!r}: it is passed over")
    keys.update(_given(batchSize=given.batch_size, maxBatchDelay=given.max_batch_delay))
    notes += _unserved(keys)
    for key in ("responseTimeout", "startupTimeout"):
        if integer(keys, key) <= 0:
            notes.append(f"'{key}' must be above 0: {_SECONDS} s are taken")
            keys[key] = _SECONDS
    return keys, notes


def _unserved(keys: Mapping[str, Any]) -> Iterator[str]:
    """Say which keys ask for what there is not."""
    if flag(keys, "asyncCommunication"):
        yield "'asyncCommunication' is passed over: a worker answers one batch after the other"
    if keys.get("parallelType") or integer(keys, "parallelLevel") > 1:
        yield "'parallelType' is passed over: a worker is one process, on one device"
    if integer(keys.get("torchrun") or {}, "nproc-per-node", 1) > 1:
        yield "'torchrun' is passed over: a worker is one process"


def _given(**values: int | None) -> dict[str, int]:
    return {key: value for key, value in values.items() if value is not None and value > 0}


def _workers(
    yaml: Mapping[str, Any], keys: Mapping[str, Any], given: ArchiveSettings
) -> tuple[int, int]:
    """Return the least and most worker processes."""
    least, most = integer(yaml, "minWorkers"), integer(yaml, "maxWorkers")
    if not 0 < least <= most:
        configured = integer(given.model, "minWorkers")
        least = given.initial_workers if given.initial_workers is not None else configured
        if given.initial_workers is None and not configured:
            least = given.default_workers_per_model
        most = max(least, integer(keys, "maxWorkers"))
    return min(max(0, least), _MOST_WORKERS), min(max(0, most), _MOST_WORKERS)


def _worker(keys: Mapping[str, Any], given: ArchiveSettings, installed: Installed) -> WorkerConfig:
    return WorkerConfig(
        startup_timeout_s=float(integer(keys, "startupTimeout", _SECONDS)),
        response_timeout_s=float(integer(keys, "responseTimeout", _SECONDS)),
        python=installed.python or None,
        path=[installed.path] if installed.path else [],
        hide_variables=given.blacklist_env_vars,
        environment={
            "TS_REQUEST_SEQUENCE_ID": given.ts_header_key_sequence_id,
            "TS_REQUEST_SEQUENCE_START": given.ts_header_key_sequence_start,
            "TS_REQUEST_SEQUENCE_END": given.ts_header_key_sequence_end,
            "TS_DECODE_INPUT_REQUEST": str(given.decode_input_request).lower(),
        },
    )
