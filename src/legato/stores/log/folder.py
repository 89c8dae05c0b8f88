"""The folder of a log, besides what every store's folder needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError
from legato.stores.folder import claim_format

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "legato log 1"
"""What the file ``FORMAT`` says of a new folder; another version refuses to open."""

GROWN_FORMAT = "legato log 2"
"""What it says once the state of a sequence that grows is in it. Those who know the first
format only would take such records for a torn end."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_format(folder: Path) -> None:
    """Refuse a folder of another format; mark a new one.

    Raises:
        ConfigError: The format is unknown, or there are segments but no format.
    """
    mark = folder / "FORMAT"
    if not mark.exists() and next(folder.glob("*.seg"), None) is not None:
        raise ConfigError(
            f"the data folder {folder} holds segments but no FORMAT file",
            file=str(mark),
            fix=f"if they are Legato's, restore the file with the line '{FORMAT}'",
        )
    claim_format(folder, FORMAT, also=(GROWN_FORMAT,))
    sync_folder(folder)


def allow_growth(folder: Path) -> None:
    """Mark a folder as one that may hold states in parts; durable when it returns.

    Raises:
        OSError: It could not be marked; the folder is as it was.
    """
    mark, fresh = folder / "FORMAT", folder / "FORMAT.new"
    if mark.read_text("utf-8").strip() == GROWN_FORMAT:
        return
    with fresh.open("w", encoding="utf-8") as file:
        file.write(GROWN_FORMAT + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(mark)
    sync_folder(folder)
