"""The embedded segment log, the default store (spec durability, section 5)."""

from legato.stores.log.segments import SEGMENT_BYTES
from legato.stores.log.store import LogStore

__all__ = ["SEGMENT_BYTES", "LogStore"]
