"""Which models are registered: register, scale, set a default, describe, unregister.

A version that is registered without workers is known here and not loaded until it gets some.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from legato.core.errors import ConfigError, ServerError
from legato.engine.follower import load_model
from legato.engine.manage import Manager
from legato.observe.log import get_logger
from legato.protocols.torchserve import errors
from legato.protocols.torchserve.describe import workers
from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.limits import Limits
from legato.repository.loader import MANIFEST, load_paths
from legato.repository.torchserve import load_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.protocols.torchserve.store import ModelStore
    from legato.repository.config import ModelConfig
    from legato.repository.ts_properties import Properties

log = get_logger()

_MOST_WORKERS: Final = 64
_JSON_KEYS: Final = (
    "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wish:
    """A register call; ``None`` and "" = not given."""

    url: str
    name: str = ""
    handler: str = ""
    runtime: str = ""
    batch_size: int | None = None
    max_batch_delay: int | None = None
    response_timeout: int | None = None
    startup_timeout: int | None = None
    workers: int | None = None


@dataclass(slots=True, eq=False)
class Registered:
    """One version of a model.

    Attributes:
        url: What it was registered with.
        config: As loaded, or as it would be.
        limits: What the wire needs of its keys.
        least, most: Workers.
        startup: It was there when the server started.
        began: Wall-clock seconds at which its workers were started.
        handle: The loaded model; ``None`` = no workers.
        first_id: Number of its first worker.
    """

    url: str
    config: ModelConfig
    limits: Limits
    least: int
    most: int
    startup: bool
    began: float = 0.0
    handle: ModelHandle | None = None
    first_id: int = 9000

    @property
    def name(self) -> str:
        """Model name."""
        return self.config.name

    @property
    def version(self) -> str:
        """Version name."""
        return self.config.version


@dataclass(slots=True)
class _Versions:
    default: str
    by_name: dict[str, Registered] = field(default_factory=dict)


class Registry:
    """The models of one TorchServe front.

    Args:
        engine: Loads and serves them.
        store: Finds archives.
        properties: The config.
        on_change: Called after every change with the kind of snapshot to write.
        wall: Wall-clock seconds.
        measured: Takes what handlers measure; from any thread.
    """

    def __init__(
        self,
        engine: Engine,
        store: ModelStore,
        properties: Properties,
        on_change: Callable[[str], None] = lambda _kind: None,
        wall: Callable[[], float] = time.time,
        measured: Callable[[list[Any]], None] = lambda _measured: None,
    ) -> None:
        self.engine = engine
        self.manager = Manager(engine)
        self.properties = properties
        self._store = store
        self._on_change = on_change
        self._wall = wall
        self._measured = measured
        self._models: dict[str, _Versions] = {}
        self._changing = asyncio.Lock()
        self._next_id = integer_or(properties.values.get("initial_worker_port"), 9000)
        self._startup_timeouts: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Registry models={len(self._models)}>"

    # -- asking ---------------------------------------------------------------------------

    def find(self, name: str, version: str = "") -> Registered:
        """Return a version; "" = the default one.

        Raises:
            Failure: It is not registered.
        """
        versions = self._models.get(name)
        if versions is None:
            raise errors.unknown_model(name)
        found = versions.by_name.get(version or versions.default)
        if found is None:
            raise errors.unknown_version(name, version)
        return found

    def only(self) -> str:
        """Name of the only model, if there is exactly one that the server started with."""
        names = [
            name
            for name, versions in self._models.items()
            if any(one.startup for one in versions.by_name.values())
        ]
        return names[0] if len(names) == 1 else ""

    def versions(self, name: str) -> list[Registered]:
        """Return all versions of a model.

        Raises:
            Failure: It is not registered.
        """
        self.find(name)
        return list(self._models[name].by_name.values())

    def all(self) -> Iterator[Registered]:
        """Every version of every model."""
        for versions in self._models.values():
            yield from versions.by_name.values()

    def listed(self, limit: int, offset: int) -> dict[str, Any]:
        """Return a page of the default versions, by name."""
        limit = limit if 0 <= limit <= 100 else 100
        names = sorted(self._models)
        offset = max(0, offset)
        page: dict[str, Any] = {}
        if offset + limit <= len(names):  # also at the very end, as its clients know it
            page["nextPageToken"] = str(offset + limit)
        page["models"] = [
            {"modelName": name, "modelUrl": self.find(name).url}
            for name in names[offset : offset + limit]
        ]
        return page

    def healthy(self) -> bool:
        """Whether every default version has as many workers as it should."""
        engine = self.engine
        if not engine.ready or engine.draining or not engine.store.statistics().writable:
            return False
        return all(
            sum(worker["status"] == "READY" for worker in workers(one)) >= one.least
            for one in (self.find(name) for name in self._models)
        )

    def snapshot(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what is registered, as snapshots keep it."""
        made: dict[str, dict[str, dict[str, Any]]] = {}
        for name, versions in self._models.items():
            for version, one in versions.by_name.items():
                keys = one.limits
                made.setdefault(name, {})[version] = {
                    "defaultVersion": version == versions.default,
                    "marName": one.url,
                    "minWorkers": one.least,
                    "maxWorkers": one.most,
                    "batchSize": keys.batch_size,
                    "maxBatchDelay": keys.max_batch_delay_ms,
                    "responseTimeout": keys.response_timeout_s,
                    "startupTimeout": keys.startup_timeout_s,
                    "runtimeType": "python",
                }
        return made

    # -- starting -------------------------------------------------------------------------

    async def start(self, wanted: list[str], models: Mapping[str, Any]) -> None:
        """Load what the server starts with.

        Args:
            wanted: ``file``, ``name=file`` or ``all``.
            models: What a snapshot (or nothing) says: name and version to settings.

        Raises:
            ConfigError: Something cannot be loaded.
        """
        names = [entry for entry in wanted if entry.lower() != "all"]
        if len(names) < len(wanted):
            names += await asyncio.to_thread(self._store.everything)
        for entry in names:
            name, separator, url = entry.partition("=")
            wish = Wish(url, name) if separator else Wish(entry)
            await self._start_one(wish, {})
        for name, versions in models.items():
            ordered = sorted(versions.items(), key=lambda item: not item[1].get("defaultVersion"))
            for _version, settings in ordered:
                if not any(one.name == name and one.version == _version for one in self.all()):
                    await self._start_one(Wish(str(settings.get("marName", "")), name), settings)

    async def _start_one(self, wish: Wish, settings: Mapping[str, Any]) -> None:
        try:
            await self._register(wish, startup=True, settings=settings)
        except Failure as error:
            raise ConfigError(error.message, key="--models") from None

    # -- changing -------------------------------------------------------------------------

    async def register(self, wish: Wish) -> str:
        """Register a model and start its workers; return what to tell the client.

        Raises:
            Failure: It cannot be done.
        """
        async with self._changing:
            one = await self._register(wish)
        self._on_change("snapshot")
        text = (
            f'Model "{one.name}" Version: {one.version} registered with {one.least} initial workers'
        )
        if one.least:
            return text
        return text + ". Use scale workers API to add workers for the model."

    async def _register(
        self, wish: Wish, *, startup: bool = False, settings: Mapping[str, Any] | None = None
    ) -> Registered:
        path = await asyncio.to_thread(self._store.find, wish.url)
        try:
            config = await asyncio.to_thread(self._config, path, wish, startup, settings or {})
        except ConfigError as error:
            raise errors.bad_request(str(error)) from None
        versions = self._models.get(config.name)
        if versions is not None and config.version in versions.by_name:
            raise Failure(
                409,
                "ConflictStatusException",
                f"Model version {config.version} is already registered for model {config.name}",
            )
        least, most = _counts(config)
        one = Registered(
            wish.url, config, Limits.of(config), least, most, startup, first_id=self._next_id
        )
        self._next_id += max(least, most, 1)
        if least:
            await self._load(one, least)
        if versions is None:
            versions = self._models[config.name] = _Versions(config.version)
        versions.by_name[config.version] = one
        self._prefer(config.name)
        return one

    def _config(
        self, path: Path, wish: Wish, startup: bool, settings: Mapping[str, Any]
    ) -> ModelConfig:
        """Read an archive, or a folder with a model.yaml of our own. Blocks."""
        if (path / MANIFEST).is_file():
            (config,) = load_paths([path])
            update: dict[str, Any] = {"name": wish.name or config.name}
            if wish.workers is not None:
                update["options"] = {**config.options, "workers": [wish.workers, wish.workers]}
            return config.model_copy(update=update)
        return load_archive(path, name=wish.name, settings=self._settings(wish, startup, settings))

    def _settings(self, wish: Wish, startup: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Put together what is said about a model outside of its archive."""
        properties = self.properties
        usual = properties.number("default_workers_per_model", 0)
        if startup and not usual:
            usual = min(_MOST_WORKERS, os.cpu_count() or 1)
        made: dict[str, Any] = {
            "handler": wish.handler or None,
            "batch_size": wish.batch_size,
            "max_batch_delay": wish.max_batch_delay,
            "response_timeout": wish.response_timeout,
            "startup_timeout": wish.startup_timeout,
            "initial_workers": wish.workers,
            "model": {key: settings[key] for key in _JSON_KEYS if key in settings}
            or self._configured(wish),
            "default_workers_per_model": usual,
            "default_service_handler": properties.values.get("default_service_handler"),
            "service_envelope": properties.values.get("service_envelope"),
            "blacklist_env_vars": properties.values.get("blacklist_env_vars", ""),
            "job_queue_size": properties.number("job_queue_size", 100),
            "default_response_timeout": properties.number("default_response_timeout", 120),
            "default_startup_timeout": properties.number("default_startup_timeout", 120),
            "metrics": [list(one) for one in properties.declared_metrics()],
            "number_of_gpu": properties.number("number_of_gpu", 0),
            "install_py_dep_per_model": properties.flag("install_py_dep_per_model"),
            "decode_input_request": properties.flag("decode_input_request", default=True),
            "limit_max_image_pixels": properties.flag("limit_max_image_pixels", default=True),
        }
        for what, name in zip(("id", "start", "end"), properties.header_keys, strict=True):
            made[f"ts_header_key_sequence_{what}"] = name
        return made

    def _configured(self, wish: Wish) -> dict[str, Any]:
        """Return the entry of the property ``models`` for this archive."""
        for name, versions in self.properties.mapping("models").items():
            for settings in versions.values() if isinstance(versions, dict) else ():
                if wish.name == name or settings.get("marName") == wish.url:
                    return dict(settings)
        return {}

    async def _load(self, one: Registered, count: int) -> None:
        config = one.config.model_copy(update={"instances": count})
        try:
            one.handle = await load_model(self.engine, config)
        except (ConfigError, ServerError) as error:
            raise _not_started(one.name, one.version, error) from None
        one.handle.measured = self._measured
        one.config, one.began = config, self._wall()
        self._prefer(one.name)

    def _prefer(self, name: str) -> None:
        """Tell the engine which version new sequences get."""
        versions = self._models.get(name)
        found = versions.by_name.get(versions.default) if versions is not None else None
        if found is not None and found.handle is not None:
            self.engine.prefer(name, found.version)

    async def scale(self, name: str, version: str, least: int, most: int) -> str:
        """Change the number of workers; return what to tell the client.

        Raises:
            Failure: It cannot be done.
        """
        if most < least:
            raise errors.bad_request("max_worker cannot be less than min_worker.")
        async with self._changing:
            one = self.find(name, version)
            wanted = min(_MOST_WORKERS, max(0, least))
            if wanted or one.handle is not None:
                if one.handle is None:
                    await self._load(one, wanted)
                else:
                    await self._scale(one.handle, wanted, max(wanted, most))
            one.least, one.most = wanted, min(_MOST_WORKERS, max(wanted, most))
        self._on_change("snapshot")
        asked = f", version: {version}" if version else ""
        return f"Workers scaled to {wanted} for model: {name}{asked}"

    async def _scale(self, handle: ModelHandle, least: int, most: int) -> None:
        try:
            await self.engine.scale(handle, least, min(_MOST_WORKERS, most))
        except (ConfigError, ServerError) as error:
            raise _not_started(handle.name, handle.version, error) from None

    async def set_default(self, name: str, version: str) -> str:
        """Make a version the default; return what to tell the client.

        Raises:
            Failure: It is not registered.
        """
        async with self._changing:
            one = self.find(name, version)
            self._models[name].default = one.version
            self._prefer(name)
        self._on_change("snapshot")
        return f'Default version successfully updated for model "{name}" to "{version}"'

    async def unregister(self, name: str, version: str = "") -> str:
        """Forget a version; its sequences stay in the store. Return what to tell the client.

        Raises:
            Failure: It is not registered, or is the default while there are others.
        """
        async with self._changing:
            one = self.find(name, version)
            versions = self._models[name]
            if one.version == versions.default and len(versions.by_name) > 1:
                raise Failure(
                    403,
                    "InvalidModelVersionException",
                    f"Cannot remove default version for model {name}",
                    java="org.pytorch.serve.archive.model.InvalidModelVersionException",
                )
            del versions.by_name[one.version]
            if not versions.by_name:
                del self._models[name]
            if one.handle is not None:
                one.handle = None
                await self.engine.unload(name, one.version)
        self._on_change("snapshot")
        return f'Model "{name}" unregistered'


def _not_started(name: str, version: str, error: Exception) -> Failure:
    log.warning("workers_not_started", model=name, version=version, error=str(error))
    text = f"Failed to start workers for model {name} version: {version} ({error})"
    return Failure(500, "InternalServerException", text)


def integer_or(text: str | None, default: int) -> int:
    """Return a text as a number, or a default."""
    return int(text) if text and text.strip().isdecimal() else default


def _counts(config: ModelConfig) -> tuple[int, int]:
    found = config.options.get("workers")
    if isinstance(found, (list, tuple)) and len(found) == 2:
        return int(found[0]), int(found[1])
    return config.instances, config.instances
