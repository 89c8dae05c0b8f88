"""Serve what a repository says, and go on doing so when it changes.

A change never cuts off a live sequence: the version that it lives on stays until its end
(:mod:`legato.engine.succession`). What cannot be loaded costs itself: what was served
under that name goes on, and so does everything else.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError
from legato.engine.catalog import Catalog, Known, ReloadError, VersionState, order
from legato.observe.log import get_logger
from legato.repository.wanted import RepositoryError

if TYPE_CHECKING:
    from legato.engine.engine import Engine
    from legato.engine.model import ModelHandle
    from legato.repository.config import ModelConfig
    from legato.repository.wanted import Repository, Wanted, WantedModel
    from legato.stores.base import Store

log = get_logger()

OTHER_KIND = "Requested model type change: a served model does not become (or stop being) stateful"
_PAGE = 1000
_STATUS = {"config": 412, "missing": 500}


class Follower(Catalog):
    """Keeps what the engine serves in line with a repository.

    Args:
        engine: Serves.
        repository: Says what.
        strict: What cannot be served at the start is an error, not just left out.
    """

    def __init__(self, engine: Engine, repository: Repository, *, strict: bool = False) -> None:
        super().__init__(engine)
        self._strict = strict
        self._repository = repository
        self._known: dict[str, dict[str, Known]] = {}
        self._stateful: dict[str, bool] = {}
        self._stamps: dict[tuple[str, str], bytes] = {}
        self._changing = asyncio.Lock()
        self._seen = b""
        self._watching: asyncio.Task[None] | None = None

    # -- what it knows ----------------------------------------------------------------------

    def known(self, name: str) -> list[Known]:
        """All versions of a model that were heard of, oldest first; empty = no such model."""
        found = self._known.get(name, {})
        return [found[version] for version in sorted(found, key=order)]

    def names(self) -> list[str]:
        """All models that were heard of, in the order of the alphabet."""
        return sorted(self._known)

    # -- life ---------------------------------------------------------------------------------

    async def load(self) -> dict[str, str]:
        """Serve what is wanted, before the engine starts; return what is wrong, by name.

        Raises:
            ConfigError: The repository cannot be read; or something in it cannot be served,
                and the follower is strict.
        """
        self._seen = await asyncio.to_thread(self._repository.fingerprint)
        try:
            wanted = await asyncio.to_thread(self._repository.read)
        except RepositoryError as error:
            raise ConfigError(error.message) from None
        _changed, failures = await self._apply(wanted)
        problems = {**wanted.problems, **failures}
        if problems and self._strict:
            raise ConfigError(next(iter(problems.values())))
        return problems

    async def watch(self) -> None:
        """Bring back versions that sequences live on, and follow changes from now on."""
        try:
            wanted = await asyncio.to_thread(self._repository.read)
        except RepositoryError as error:  # changed since it was loaded; the watch will tell
            log.warning("repository_not_read", problem=error.message)
        else:
            for model in wanted.models.values():
                await self._bring_back(model)
        if self._repository.poll_s:
            self._watching = asyncio.create_task(self._watch(), name="legato-follower")

    async def close(self) -> None:
        """Follow no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._repository.poll_s)
            try:
                if await asyncio.to_thread(self._repository.fingerprint) != self._seen:
                    await self.reload()
            except ReloadError as error:
                log.error("repository_not_followed", problem=error.message)  # noqa: TRY400 - no bug of ours
            except Exception:
                # The next look may go better, and what is served is not touched by this.
                log.exception("repository_watch_failed")

    # -- following ------------------------------------------------------------------------------

    async def reload(self) -> bool:
        """Serve what the repository says now; true if anything was changed.

        Raises:
            ReloadError: It could not be followed in everything.
        """
        async with self._changing:
            self._seen = await asyncio.to_thread(self._repository.fingerprint)
            try:
                wanted = await asyncio.to_thread(self._repository.read)
            except RepositoryError as error:
                log.error("repository_not_read", problem=error.message)  # noqa: TRY400 - as above
                status = _STATUS.get(error.kind, 500)
                raise ReloadError(error.message, kind=error.kind, status=status) from None
            changed, failures = await self._apply(wanted)
        if wanted.problems:
            raise ReloadError("; ".join(wanted.problems.values()), kind="config")
        if failures:
            raise ReloadError("; ".join(failures.values()), kind="models")
        return changed

    async def _apply(self, wanted: Wanted) -> tuple[bool, dict[str, str]]:
        """Serve what is wanted; return whether anything changed, and what failed."""
        changed = False
        failures: dict[str, str] = {}
        for name, problem in wanted.problems.items():
            log.error("model_rejected", model=name, problem=problem)
        for name in self.names():
            if name not in wanted.models and name not in wanted.problems:
                changed |= await self._take_away(name, list(self._served(name)))
        for model in wanted.models.values():
            changed |= await self._follow(model, failures)
        return changed, failures

    async def _follow(self, model: WantedModel, failures: dict[str, str]) -> bool:
        """Serve the wanted versions of one model, new ones first."""
        name = model.name
        served = self._served(name)
        if served and self._stateful.get(name, model.stateful) != model.stateful:
            failures[name] = OTHER_KIND
            log.error("model_rejected", model=name, problem=OTHER_KIND)
            return False
        self._stateful[name] = model.stateful
        changed = False
        for version, problem in model.problems.items():
            self._failed(name, version, problem, failures)
        for version, config in model.versions.items():
            stamp = model.stamps.get(version, b"")
            same = version in served and self._stamps.get((name, version), b"") == stamp
            if same and served[version].config == config:
                continue
            if await self._load(config, failures):
                self._stamps[name, version] = stamp
                changed = True
        gone = [version for version in self._served(name) if version not in model.versions]
        if gone and not (model.versions and all(v in gone for v in self._served(name))):
            changed |= await self._take_away(name, gone)
        return changed

    async def _load(self, config: ModelConfig, failures: dict[str, str]) -> bool:
        name, version = config.name, config.version
        if version not in self._served(name):
            self._note(name, Known(version, VersionState.LOADING))
        try:
            await load_model(self.engine, config, keep_sequences=True)
        except ConfigError as error:
            self._failed(name, version, str(error), failures)
            return False
        self._note(name, Known(version, VersionState.AVAILABLE))
        return True

    def _failed(self, name: str, version: str, problem: str, failures: dict[str, str]) -> None:
        """Note that a version could not be loaded; one of the same name goes on."""
        failures[f"{name}/{version}"] = problem
        log.error("version_not_loaded", model=name, version=version, problem=problem)
        if version not in self._served(name):
            self._note(name, Known(version, VersionState.FAILED, problem))

    async def _take_away(self, name: str, versions: list[str]) -> bool:
        """Begin no more sequences on versions; failed ones are no longer wanted either."""
        for version in versions:
            await self.engine.unload(name, version, keep_sequences=True)
        for entry in list(self._known.get(name, {}).values()):
            if entry.version in versions:
                self._note(name, Known(entry.version, VersionState.RETIRED))
        if not self._served(name):
            self._stateful.pop(name, None)
        return bool(versions)

    def _note(self, name: str, entry: Known) -> None:
        self._known.setdefault(name, {})[entry.version] = entry

    def _served(self, name: str) -> dict[str, ModelHandle]:
        model = self.engine.tables.get(name)
        return {} if model is None else dict(model.versions)

    # -- sequences that were there before this server -------------------------------------------

    async def _bring_back(self, model: WantedModel) -> None:
        """Load versions that are not served any more, for the stored sequences on them."""
        needed: set[str] = set()
        after = 0
        while rows := await self.engine.manage(partial(_page, model=model.name, after=after)):
            after = rows[-1][0]
            needed.update(version for _order, version in rows)
        for version in sorted(needed & set(model.others), key=order):
            try:
                await load_model(self.engine, model.others[version])
            except ConfigError as error:
                self._failed(model.name, version, str(error), {})
                continue
            await self.engine.unload(model.name, version, keep_sequences=True)
            self._note(model.name, Known(version, VersionState.RETIRED))


def _page(store: Store, *, model: str, after: int) -> list[tuple[int, str]]:
    return [(row.order, row.head.version) for row in islice(store.list(model, after=after), _PAGE)]


async def load_model(
    engine: Engine, config: ModelConfig, *, keep_sequences: bool = False
) -> ModelHandle:
    """Load a model; whatever goes wrong is told as a mistake of its config.

    Raises:
        ConfigError: It cannot be served.
    """
    try:
        return await engine.load(config, keep_sequences=keep_sequences)
    except ConfigError:
        raise
    except Exception as error:
        log.debug("model_not_loaded", model=config.name, exc_info=error)
        raise ConfigError(
            f"model '{config.name}' cannot be loaded: {type(error).__name__}: {error}",
            file=str(config.file or config.folder),
            fix="run it with --log-level debug to see where it fails",
        ) from error
