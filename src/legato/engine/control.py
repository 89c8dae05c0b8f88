"""Models that clients load and unload, and the index of a repository (Triton's rules).

What is loaded again keeps its live sequences: those whose state the new version can read
go on with it, others stay with the version that they live on until they are over.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError, UnknownModelError
from legato.engine.catalog import (
    CONTROL_IS_OFF,
    ControlError,
    Indexed,
    Known,
    VersionState,
)
from legato.engine.follower import Follower
from legato.observe.log import get_logger
from legato.repository.wanted import RepositoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.engine.engine import Engine
    from legato.repository.wanted import ControlledRepository, Wanted

log = get_logger()

_NO_FILES: Mapping[str, bytes] = MappingProxyType({})


class Controlled(Follower):
    """Keeps what the engine serves in line with a repository and with what clients ask for.

    Args:
        engine: Serves.
        repository: Says what.
        strict: What cannot be served at the start is an error, not just left out.
        ready_without: The server is ready also while some model is not.
    """

    def __init__(
        self,
        engine: Engine,
        repository: ControlledRepository,
        *,
        strict: bool = False,
        ready_without: bool = False,
    ) -> None:
        super().__init__(engine, repository, strict=strict)
        self._ready_without = ready_without
        self._controlled = repository
        self._broken: dict[str, str] = {}
        self._unloading: set[asyncio.Task[None]] = set()

    @property
    def complete(self) -> bool:
        """All that should be served is, or need not be."""
        if self._ready_without:
            return True
        states = (entry.state for name in self.names() for entry in self.known(name))
        failed = (VersionState.LOADING, VersionState.FAILED)
        return not self._broken and not any(state in failed for state in states)

    def index(self) -> list[Indexed]:
        """All that is in the repository, loaded or not."""
        told = {line.name: True for line in super().index()}
        lines = [line for line in super().index() if line.name not in self._broken]
        lines += [
            Indexed(name, "", "UNAVAILABLE", problem) for name, problem in self._broken.items()
        ]
        never = set(self._controlled.names()) - told.keys() - self._broken.keys()
        lines += [Indexed(name) for name in never]
        return sorted(lines)

    async def close(self) -> None:
        """Follow no more."""
        await super().close()
        if self._unloading:
            await asyncio.gather(*self._unloading, return_exceptions=True)
        self._controlled.close()

    async def load_model(
        self, name: str, *, config: str | None = None, files: Mapping[str, bytes] = _NO_FILES
    ) -> None:
        """Load a model of the repository, or load it again; see :class:`Catalog`.

        Raises:
            ControlError: It is not loaded; what was served goes on.
        """
        self._check_mode()
        async with self._changing:
            try:
                model = await asyncio.to_thread(self._controlled.ask, name, config, files)
            except KeyError:
                raise ControlError(
                    f"failed to load '{name}', failed to poll from model repository",
                    kind="unknown",
                ) from None
            except (ConfigError, RepositoryError) as error:
                if not self._served(name):
                    self._broken[name] = str(error)
                raise ControlError(f"failed to load '{name}', {error}", kind="invalid") from None
            self._broken.pop(name, None)
            failures: dict[str, str] = {}
            await self._follow(model, failures)
            if self.engine.ready:
                await self._bring_back(model)
        if failures:
            told = "; ".join(
                f"version {key.rpartition('/')[2]} is at UNAVAILABLE state: {problem}"
                for key, problem in failures.items()
            )
            raise ControlError(f"load failed for model '{name}': {told};", kind="invalid")

    async def unload_model(self, name: str, *, dependents: bool = False) -> None:
        """Take a model away; steps under way are finished after this returns.

        Raises:
            ControlError: It stays.
        """
        del dependents  # nothing depends on a model here
        self._check_mode()
        async with self._changing:
            if name not in self._controlled.names() and name not in self.names():
                raise ControlError(
                    f"failed to unload '{name}', failed to poll from model repository",
                    kind="unknown",
                )
            self._controlled.forget(name)
            self._broken.pop(name, None)
            versions = [*self._served(name)]
            if not versions:
                return
            for version in versions:
                self._stamps.pop((name, version), None)
                self._note(name, Known(version, VersionState.UNLOADING))
            task = asyncio.create_task(self._drain(name, versions), name="legato-unload")
            self._unloading.add(task)
            task.add_done_callback(self._unloading.discard)
            await asyncio.sleep(0)  # the task takes it away before its first wait

    async def _drain(self, name: str, versions: list[str]) -> None:
        """Take a model away and wait until its last steps are done."""
        try:
            await self.engine.unload(name)
        except UnknownModelError:
            log.debug("model_already_gone", model=name)
        for version in versions:
            if self._known[name][version].state is VersionState.UNLOADING:
                self._note(name, Known(version, VersionState.RETIRED))

    def _check_mode(self) -> None:
        if not self._controlled.explicit:
            raise ControlError(CONTROL_IS_OFF, kind="off")

    async def _apply(self, wanted: Wanted) -> tuple[bool, dict[str, str]]:
        """Serve what is wanted, and remember what is wrong as a whole."""
        self._broken = {
            name: problem for name, problem in wanted.problems.items() if not self._served(name)
        }
        return await super()._apply(wanted)
