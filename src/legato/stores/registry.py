"""Which store a server uses: one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from legato.stores.base import Clock, Store

KINDS = ("memory", "log", "sqlite")


KEEP_ENDS_S = 600.0


def open_store(
    kind: str,
    folder: Path | None,
    *,
    level: str,
    clock: Clock,
    segment_bytes: int = 0,
    keep_ends_s: float = KEEP_ENDS_S,
) -> Store:
    """Open a store.

    Args:
        kind: ``memory``, ``log`` or ``sqlite``.
        folder: Data folder; not needed for ``memory``.
        level: ``process`` or ``disk``.
        clock: Wall-clock seconds.
        segment_bytes: Size of the files of a log; 0 = the usual one.
        keep_ends_s: How long it is known of an ended sequence what became of it.

    Raises:
        ConfigError: Unknown kind, no folder, or the folder cannot be used.
    """
    if kind == "memory":
        from legato.stores.memory import MemoryStore

        return MemoryStore(clock=clock, tombstone_s=keep_ends_s)
    if kind not in KINDS:
        raise ConfigError(f"unknown store '{kind}'", key="--store", fix="use " + ", ".join(KINDS))
    if folder is None:
        raise ConfigError(
            f"store '{kind}' needs a data folder", key="--data", fix="give --data DIR"
        )
    if kind == "log":
        from legato.stores.log import SEGMENT_BYTES, LogStore

        size = segment_bytes or SEGMENT_BYTES
        return LogStore(
            folder, clock=clock, level=level, segment_bytes=size, tombstone_s=keep_ends_s
        )
    from legato.stores.sqlite import SqliteStore

    return SqliteStore(folder, clock=clock, level=level, tombstone_s=keep_ends_s)
