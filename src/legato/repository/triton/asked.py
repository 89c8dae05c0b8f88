"""What clients asked for: configs and files in place of the repository's, written down.

A server whose process crashed is started again by its supervisor, and its sequences with
it. The models that they need must come back, too; a server that a person starts begins with
what its command line says, as Triton does.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from legato.core.errors import ConfigError
from legato.observe.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

log = get_logger()


class GivenFiles:
    """A model folder made of a client's files; it is gone when nobody needs it any more.

    Attributes:
        folder: Holds the model's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._gone = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def __repr__(self) -> str:
        return f"<GivenFiles {self.folder}>"

    def remove(self) -> None:
        """Delete the folder now."""
        self._gone()

    @classmethod
    def write(cls, name: str, files: Mapping[str, bytes]) -> GivenFiles:
        """Write files, named ``<version>/<file>``, into a model folder of their own.

        Raises:
            ConfigError: A name is none, or leads out of it.
        """
        made = cls(Path(tempfile.mkdtemp(prefix="legato-triton-")))
        for key, content in files.items():
            path = Path(key.removeprefix("file:"))
            version = path.parts[0] if path.parts else ""
            if not version.isdecimal() or len(path.parts) < 2 or ".." in path.parts:
                raise ConfigError(
                    f"'{key}' is no name of a model's file",
                    fix="write it as 'file:<version>/<name>'",
                )
            target = made.folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return made


class Asked(NamedTuple):
    """How a client wants a model: as it is in the repository, or otherwise.

    Attributes:
        config: JSON in place of ``config.pbtxt``.
        given: Files in place of the repository's.
    """

    config: str | None = None
    given: GivenFiles | None = None


class Notes:
    """A file that says which models are asked for.

    Args:
        path: The file; ``None`` = nothing is written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, asked: Mapping[str, Asked]) -> None:
        """Write down what is asked for now; whole at once, or not at all."""
        if self._path is None:
            return
        entries = {
            name: {
                "config": each.config,
                "files": None if each.given is None else str(each.given.folder),
            }
            for name, each in asked.items()
        }
        beside = self._path.with_suffix(".new")
        try:
            beside.write_bytes(orjson.dumps(entries))
            beside.replace(self._path)
        except OSError as error:
            log.warning("models_not_noted", problem=str(error))

    def read(self, otherwise: dict[str, Asked]) -> dict[str, Asked]:
        """Return what was written down; where there is nothing, what is asked for anyway."""
        if self._path is None:
            return otherwise
        try:
            entries = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return otherwise
        except (OSError, orjson.JSONDecodeError) as error:
            log.warning("models_not_remembered", problem=str(error))
            return otherwise
        return {
            name: Asked(
                entry["config"], GivenFiles(Path(entry["files"])) if entry["files"] else None
            )
            for name, entry in entries.items()
        }
