"""A data folder: whose it is, and in which format.

One process per folder, and one format per folder. Both are checked before any
other file in it is opened, so that nothing is ever changed by the wrong one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class FolderLock:
    """Holds a folder for this process until released or until the process dies.

    Args:
        folder: Made if it is not there, readable by its owner only.

    Raises:
        ConfigError: Another process (or another store of this one) has it, or it
            cannot be used.
    """

    def __init__(self, folder: Path) -> None:
        self._file = -1
        self.path = folder / "LOCK"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"the data folder {folder} cannot be used: {error.strerror or error}",
                key="--data",
                fix="give a folder that this user may write to",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            self.release()
            raise ConfigError(
                f"the data folder {folder} is in use by process {holder or '(unknown)'}",
                key="--data",
                fix="stop that process, give each server a folder of its own (--data DIR), or "
                "keep nothing (--store memory)",
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    @property
    def held(self) -> bool:
        """The folder is still this process's."""
        return self._file >= 0

    def release(self) -> None:
        """Let go; safe to repeat. The file stays: removing it would race with the next."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __repr__(self) -> str:
        return f"FolderLock({str(self.path)!r}, held={self._file >= 0})"


def claim_format(folder: Path, wanted: str, *, also: tuple[str, ...] = ()) -> None:
    """Check that a folder is of a format, or mark a fresh one.

    Args:
        folder: A folder that this process holds.
        wanted: Name and version, one line, for instance ``legato sqlite 1``.
        also: Others that the caller can read and go on writing.

    Raises:
        ConfigError: The folder holds another format or version.
    """
    mark = folder / "FORMAT"
    found = ""
    with contextlib.suppress(FileNotFoundError):
        found = mark.read_text("utf-8", "replace").strip()
    if not found:
        fresh = folder / "FORMAT.new"
        fresh.write_text(wanted + "\n", "utf-8")
        fresh.replace(mark)
    elif found != wanted and found not in also:
        raise ConfigError(
            f"the data folder holds sequences in the format '{found[:80]}', but '{wanted}' is "
            "asked for; nothing was changed",
            file=str(mark),
            fix="use the store and the version that wrote it, or another folder",
        )
