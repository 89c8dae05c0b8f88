"""Repositories of OpenVINO Model Server: a ``config.json``, or one model from the command line.

A mistake in one model costs that model; others are served. A file that is no JSON, or
breaks the schema, is refused as a whole.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig, SequenceConfig
from legato.repository.ovms_folders import (
    base_folder,
    find_files,
    find_versions,
    read_mapping,
    served_versions,
    version_folder,
)
from legato.repository.ovms_schema import DEFAULT_METRICS, METRICS, ConfigFile, ModelEntry
from legato.repository.wanted import RepositoryError, Wanted, WantedModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_SEQUENCES: Final = 2**32 - 1
TOO_MANY: Final = "Sequence max number parameter too high"
NOT_STATEFUL: Final = "Stateful model config parameter used for non stateful model"
NO_AUTO: Final = "Dynamic shape and dynamic batch size not supported for stateful models"
BAD_METRIC: Final = "Invalid name in metrics_list"
_SUB_OPTIONS = ("idle_sequence_cleanup", "low_latency_transformation", "max_sequence_number")
_TRIES = 3
_BETWEEN_TRIES_S = 0.01


class Options(BaseModel):
    """What ``legato ovms`` hands to the serving process.

    Attributes:
        config_path: The config file; ``None`` = one model.
        model: The one model, as an entry of a config file would have it.
        cleaner_minutes: Interval of the sequence cleaner; 0 = off.
        poll_s: Seconds between looks at files; 0 = never.
        cache_dir: Where OpenVINO keeps compiled models.
        cpu_extension: Library with further operations.
        metrics: Names of Model Server's metrics to offer; ``None`` = as the config file says.
        rest: There is a port for REST, which metrics need.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config_path: Path | None = None
    model: dict[str, Any] | None = None
    cleaner_minutes: int = Field(default=5, ge=0)
    poll_s: float = Field(default=1.0, ge=0)
    cache_dir: str = ""
    cpu_extension: str = ""
    metrics: tuple[str, ...] | None = None
    rest: bool = True


class OvmsRepository:
    """What is to be served by the rules of OpenVINO Model Server."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.poll_s = options.poll_s

    @property
    def single(self) -> bool:
        """One model from the command line: without it there is nothing to serve."""
        return self._options.config_path is None

    def metrics(self) -> tuple[str, ...]:
        """Return which of Model Server's metrics are wanted, once for the life of a server.

        Raises:
            ConfigError: The config file asks for them wrongly, or the command line does, too.
        """
        path, given = self._options.config_path, self._options.metrics
        if path is None:
            return given or ()
        try:
            monitoring = read_config_file(path).monitoring
        except RepositoryError as error:
            raise ConfigError(error.message) from None
        if monitoring is None:
            return given or ()
        where = {"file": str(path), "key": "monitoring.metrics"}
        if given is not None:
            raise ConfigError("metrics are asked for on the command line already", **where)
        wanted = monitoring.metrics
        if not wanted.enable:
            return ()
        if not self._options.rest:
            raise ConfigError("Missing rest_port parameter in server CLI", **where)
        return metric_names(wanted.metrics_list)

    def read(self) -> Wanted:
        """Say what is wanted now.

        Raises:
            RepositoryError: The config file is missing, no JSON, or breaks the schema.
        """
        models: dict[str, WantedModel] = {}
        problems: dict[str, str] = {}
        for entry, beside in self._entries(problems):
            if entry.name in models or entry.name in problems:
                problems[entry.name] = "Model name is used twice"
                continue
            try:
                models[entry.name] = self._model(entry, beside)
            except ConfigError as error:
                problems[entry.name] = str(error)
        return Wanted(models, problems)

    def fingerprint(self) -> bytes:
        """Digest the config file and the versions of its models."""
        state = hashlib.md5(usedforsecurity=False)
        path = self._options.config_path
        try:
            if path is not None:
                state.update(path.read_bytes())
            for entry, beside in self._entries({}):
                folder = base_folder(entry.base_path, beside)
                for version in find_versions(folder):
                    state.update(f"{entry.name}/{version}".encode())
                    state.update(_stamp(version_folder(folder, version)))
        except (OSError, RepositoryError, ConfigError):
            state.update(b"unreadable")
        return state.digest()

    def _entries(self, problems: dict[str, str]) -> Iterator[tuple[ModelEntry, Path]]:
        """Yield the models that are configured, and the folder that their paths start from."""
        path = self._options.config_path
        if path is None:
            yield _single(self._options.model or {}), Path.cwd()
            return
        whole = read_config_file(path)
        for key in ("pipeline_config_list", "mediapipe_config_list"):
            if getattr(whole, key):
                problems[key] = "pipelines and graphs are not served here"
        for listed in whole.model_config_list:
            yield listed.config, path.absolute().parent

    # -- one model ------------------------------------------------------------------------

    def _model(self, entry: ModelEntry, beside: Path) -> WantedModel:
        check_entry(entry)
        folder = base_folder(entry.base_path, beside)
        found = find_versions(folder)
        if not found:
            raise ConfigError("has no version: no subfolder is a positive number", file=str(folder))
        served = served_versions(found, entry.model_version_policy)
        configs: dict[str, ModelConfig] = {}
        problems: dict[str, str] = {}
        for version in found:
            try:
                configs[str(version)] = self._version(entry, folder, version)
            except ConfigError as error:
                if version in served:
                    problems[str(version)] = str(error)
        wanted = {str(version) for version in served}
        return WantedModel(
            entry.name,
            entry.stateful,
            {name: config for name, config in configs.items() if name in wanted},
            {name: config for name, config in configs.items() if name not in wanted},
            problems,
        )

    def _version(self, entry: ModelEntry, base: Path, version: int) -> ModelConfig:
        folder = version_folder(base, version)
        files = find_files(folder)
        try:
            return ModelConfig(
                name=entry.name,
                version=str(version),
                runtime="openvino",
                file=files.file,
                files=list(files.others),
                folder=folder,
                threads=0,  # as the plugin likes best, which is what Model Server has
                options=self._runtime_options(entry, folder),
                sequences=SequenceConfig(
                    max_live=entry.max_sequence_number,
                    idle_timeout_s=idle_timeout_s(entry, self._options.cleaner_minutes),
                ),
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(first["msg"], key=str(first["loc"][0])) from None

    def _runtime_options(self, entry: ModelEntry, folder: Path) -> dict[str, Any]:
        plugin = dict(entry.plugin_config)
        if self._options.cache_dir and entry.allow_cache | self.single:
            plugin.setdefault("CACHE_DIR", self._options.cache_dir)
        made: dict[str, Any] = {
            "stateful": entry.stateful,
            "low_latency_transformation": entry.low_latency_transformation,
            "target_device": entry.target_device,
            "nireq": entry.nireq,
            "plugin_config": plugin,
            "shape": entry.shape,
            "batch_size": entry.batch_size,
            "layout": entry.layout,
            "cpu_extension": self._options.cpu_extension,
            "mapping": read_mapping(folder),
        }
        return {key: value for key, value in made.items() if value}


def metric_names(listed: Iterable[str]) -> tuple[str, ...]:
    """Check the names of a ``metrics_list``; an empty one means the usual metrics.

    Raises:
        ConfigError: One is unknown.
    """
    names = tuple(listed)
    unknown = next((name for name in names if name not in METRICS), None)
    if unknown is not None:
        raise ConfigError(f"{BAD_METRIC}: {unknown}", fix=f"known are {', '.join(METRICS)}")
    return names or DEFAULT_METRICS


# -- checks ---------------------------------------------------------------------------------------


def check_entry(entry: ModelEntry) -> None:
    """Check what the schema cannot say.

    Raises:
        ConfigError: The entry is wrong; the text is that of OpenVINO Model Server.
    """
    if entry.custom_loader_options is not None:
        raise ConfigError("custom loaders are not offered here", key="custom_loader_options")
    if entry.graph_path is not None or entry.subconfig is not None:
        raise ConfigError("graphs are not served here", key="graph_path")
    if not entry.stateful and any(key in entry.model_fields_set for key in _SUB_OPTIONS):
        raise ConfigError(NOT_STATEFUL)
    if entry.max_sequence_number > MOST_SEQUENCES:
        raise ConfigError(TOO_MANY, key="max_sequence_number")
    shapes = entry.shape.values() if isinstance(entry.shape, dict) else (entry.shape,)
    if entry.stateful and any(_is_auto(value) for value in (entry.batch_size, *shapes)):
        raise ConfigError(NO_AUTO)


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value.strip().lower() == "auto"


def idle_timeout_s(entry: ModelEntry, cleaner_minutes: int) -> float:
    """Return after how many idle seconds sequences of a model expire; 0 = never.

    The cleaner of OpenVINO Model Server marks at one scan and deletes at the next: an
    abandoned sequence dies between one and two intervals after its last good request.
    Here it dies after two, so that none dies earlier than it could have there.
    """
    if entry.sequence_timeout_seconds is not None:
        return float(entry.sequence_timeout_seconds)
    return 120.0 * cleaner_minutes if entry.idle_sequence_cleanup else 0.0


# -- the file -----------------------------------------------------------------------------------


def read_config_file(path: Path) -> ConfigFile:
    """Read a config file; one that is being written is read again.

    Raises:
        RepositoryError: It is missing, no JSON, or breaks the schema.
    """
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_BETWEEN_TRIES_S)
        try:
            parsed = orjson.loads(path.read_bytes())
        except OSError as error:
            raise RepositoryError(f"{path}: {error.strerror}", kind="missing") from None
        except orjson.JSONDecodeError as error:
            problem = f"{path}: is no JSON: {error}"
            continue
        try:
            return ConfigFile.model_validate(parsed)
        except ValidationError as error:
            raise RepositoryError(f"{path}: {_told(error)}", kind="config") from None
    raise RepositoryError(problem, kind="config")


def _single(values: dict[str, Any]) -> ModelEntry:
    try:
        return ModelEntry.model_validate(values)
    except ValidationError as error:
        raise RepositoryError(_told(error), kind="config") from None


def _told(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"


def _stamp(folder: Path) -> bytes:
    """Digest names, sizes and times of a version's files."""
    found = []
    for path in sorted(folder.iterdir()):
        stat = path.stat()
        found.append(f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}")
    return "|".join(found).encode()
