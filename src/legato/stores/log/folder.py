"""The folder of a log, besides what every store's folder needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError
from legato.stores.folder import claim_format

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = "legato log 1"
"""What the file ``FORMAT`` says; another version refuses to open."""


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
    claim_format(folder, FORMAT)
    sync_folder(folder)
