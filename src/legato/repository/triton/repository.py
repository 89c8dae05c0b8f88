"""Model repositories of Triton: what is to be served of them, now."""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError
from legato.repository.triton.asked import Asked, GivenFiles, Notes
from legato.repository.triton.folders import (
    CONFIG,
    check_repository,
    find_models,
    find_versions,
    served_versions,
    stamp,
)
from legato.repository.triton.gen import model_config_pb2 as pb
from legato.repository.triton.mapping import complete, to_model_config
from legato.repository.triton.pbtxt import parse_json, read_config
from legato.repository.wanted import RepositoryError, Wanted, WantedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from legato.repository.config import ModelConfig
    from legato.repository.triton.options import Options

ALL = "*"
NO_FILES: Mapping[str, bytes] = MappingProxyType({})


class TritonRepository:
    """What is to be served by the rules of Triton.

    Args:
        options: What was asked for on the command line.
        notes: Where to write down what clients ask for; ``None`` = nowhere.
        resume: Serve what was written down: the process before this one crashed.

    Attributes:
        explicit: Only models that were asked for are served.
        poll_s: Seconds between looks at the files; 0 = never.
    """

    def __init__(
        self, options: Options, *, notes: Path | None = None, resume: bool = False
    ) -> None:
        self._options = options
        self._notes = Notes(notes)
        self.explicit = options.mode == "explicit"
        self.poll_s = options.poll_s if options.mode == "poll" else 0.0
        self._asked: dict[str, Asked] = {}
        if self.explicit:
            self._asked = {name: Asked() for name in options.load if name != ALL}
            if ALL in options.load:
                if len(options.load) > 1:
                    raise ConfigError(
                        "wildcard model name '*' must be the only model to be loaded at startup",
                        key="--load-model",
                    )
                self._asked = {name: Asked() for name in self._folders({})}
            if resume:
                self._asked = self._notes.read(self._asked)
            self._notes.write(self._asked)

    def read(self) -> Wanted:
        """Say what is wanted now.

        Raises:
            RepositoryError: A repository is missing or cannot be read.
        """
        models: dict[str, WantedModel] = {}
        problems: dict[str, str] = {}
        folders = self._folders(problems)
        for name in list(self._asked) if self.explicit else [*folders]:
            if name in problems:
                continue
            try:
                models[name] = self._model(name, folders, self._asked.get(name, Asked()))
            except ConfigError as error:
                problems[name] = str(error)
        return Wanted(models, {n: p for n, p in problems.items() if self._is_wanted(n)})

    def _is_wanted(self, name: str) -> bool:
        return not self.explicit or name in self._asked

    def fingerprint(self) -> bytes:
        """Digest names, sizes and times of everything that is served from."""
        state = hashlib.md5(usedforsecurity=False)
        try:
            for folder in self._options.repositories:
                state.update(stamp(folder))
        except (OSError, ConfigError):
            state.update(b"unreadable")
        return state.digest()

    def names(self) -> list[str]:
        """All models that are there, wanted or not."""
        try:
            return sorted(self._folders({}))
        except RepositoryError:
            return []

    # -- what clients ask for ------------------------------------------------------------------

    def ask(
        self, name: str, config: str | None = None, files: Mapping[str, bytes] = NO_FILES
    ) -> WantedModel:
        """Want a model from now on, as it is or as a client says.

        Raises:
            KeyError: There is no such model.
            RepositoryError, ConfigError: It cannot be served so; what was wanted before is
                wanted still.
        """
        if files and config is None:
            raise ConfigError(
                "override files should be provided with the 'config' parameter",
                key="file",
                fix="send the model's config with its files",
            )
        asked = Asked(config, GivenFiles.write(name, files) if files else None)
        problems: dict[str, str] = {}
        folders = self._folders(problems)
        if name not in folders and not files:
            raise KeyError(name)
        if name in problems and not files:
            raise ConfigError(problems[name])
        model = self._model(name, folders, asked)
        self._asked[name] = asked
        self._notes.write(self._asked)
        return model

    def forget(self, name: str) -> None:
        """Want a model no more."""
        self._asked.pop(name, None)
        self._notes.write(self._asked)

    def close(self) -> None:
        """Delete what clients gave; the models stay loaded."""
        for asked in self._asked.values():
            if asked.given is not None:
                asked.given.remove()

    # -- models --------------------------------------------------------------------------------

    def _folders(self, problems: dict[str, str]) -> dict[str, Path]:
        """Return the folder of each model; one that is in two repositories is a problem."""
        found: dict[str, Path] = {}
        try:
            for repository in self._options.repositories:
                check_repository(repository)
                for folder in find_models(repository):
                    if folder.name in found:
                        problems[folder.name] = (
                            f"failed to poll model '{folder.name}': model appears in multiple "
                            f"repositories: {found[folder.name].parent} and {repository}"
                        )
                    found.setdefault(folder.name, folder)
        except ConfigError as error:
            raise RepositoryError(str(error), kind="missing") from None
        return found

    def _model(self, name: str, folders: Mapping[str, Path], asked: Asked) -> WantedModel:
        """Configure the versions of one model.

        Raises:
            ConfigError: None of them can be.
        """
        home = folders.get(name) if asked.given is None else asked.given.folder / name
        if home is None:
            raise ConfigError(
                f"failed to load '{name}', failed to poll from model repository",
                fix=f"put it into {' or '.join(map(str, self._options.repositories))}",
            )
        config, source = self._config(home, asked)
        versions = find_versions(home)
        if not versions:
            raise ConfigError(
                f"at least one version must be available under the version policy of model "
                f"'{name}'",
                file=str(home),
                fix="put the model's file into a subfolder '1'",
            )
        served = served_versions(versions, config.version_policy)
        if not served:
            raise ConfigError(
                f"at least one version must be available under the version policy of model "
                f"'{name}'",
                file=source,
                key="version_policy",
                fix=f"the versions that are there are {', '.join(map(str, versions))}",
            )
        configs: dict[str, ModelConfig] = {}
        problems: dict[str, str] = {}
        for version in versions:
            try:
                configs[str(version)] = self._version(config, home, version, source)
            except ConfigError as error:
                if version in served:
                    problems[str(version)] = str(error)
        wanted = {str(version) for version in served}
        return WantedModel(
            name,
            stateful=True,  # whether it is, its file may tell: the engine sees to it
            versions={key: each for key, each in configs.items() if key in wanted},
            others={key: each for key, each in configs.items() if key not in wanted},
            problems=problems,
            stamps={key: stamp(home / key) for key in configs},
        )

    def _config(self, home: Path, asked: Asked) -> tuple[pb.ModelConfig, str]:
        """Read the config of a model, or begin an empty one; and tell where it comes from."""
        if asked.config is not None:
            return parse_json(asked.config), f"the config given for '{home.name}'"
        chosen = home / "configs" / f"{self._options.config_name}.pbtxt"
        path = chosen if self._options.config_name and chosen.is_file() else home / CONFIG
        if path.is_file():
            return read_config(path), str(path)
        if not self._options.auto_complete:
            raise ConfigError(
                f"failed to read text proto from {path}: there is no such file",
                fix="write it, or let the server complete it",
            )
        return pb.ModelConfig(name=home.name), str(path)

    def _version(self, given: pb.ModelConfig, home: Path, version: int, source: str) -> ModelConfig:
        config = pb.ModelConfig()
        config.CopyFrom(given)
        folder = home / str(version)
        try:
            backend = complete(config, home, folder, auto=self._options.auto_complete)
            return to_model_config(config, backend, home, folder)
        except ConfigError as error:
            if error.file:
                raise
            raise ConfigError(error.problem, file=source, key=error.key, fix=error.fix) from None
