"""What the store suite runs on, and what it is written with.

To hold another store against the contract, append a :class:`StoreCase` to
``CASES`` before collection (in a plugin or a conftest) and run pytest on this folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from legato.core.types import Receipt, RecordHead, SequenceKey, StateRow
from legato.stores.base import Commit, Missing, Store
from legato.stores.log import LogStore
from legato.stores.memory import MemoryStore
from legato.stores.sqlite import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOMBSTONE_S = 100.0
SHAPES = ((1, 4),)
KEY = SequenceKey("model", 7)
OTHER = SequenceKey("model", "7")
X, Y, Z = b"x" * 16, b"y" * 16, b"z" * 16
"""Three incarnations."""


class FakeClock:
    """Wall-clock seconds that pass only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class StoreCase:
    """One engine of the suite.

    Attributes:
        name: Shown in test ids.
        open: Opens a store in a folder with a clock; ``TOMBSTONE_S`` of retention.
        durable: Records outlive ``close()``.
        level: What ``Ok`` says for an entry that asks for nothing.
        raised: What ``Ok`` says for an entry that asks for ``disk``.
    """

    name: str
    open: Callable[[Path, FakeClock], Store]
    durable: bool
    level: str
    raised: str


def _memory(_folder: Path, clock: FakeClock) -> Store:
    return MemoryStore(clock=clock, tombstone_s=TOMBSTONE_S)


def _sqlite(folder: Path, clock: FakeClock) -> Store:
    return SqliteStore(folder, clock=clock, level="process", tombstone_s=TOMBSTONE_S)


def _log(folder: Path, clock: FakeClock) -> Store:
    return LogStore(folder, clock=clock, level="process", tombstone_s=TOMBSTONE_S)


CASES = [
    StoreCase("memory", _memory, durable=False, level="none", raised="none"),
    StoreCase("sqlite", _sqlite, durable=True, level="process", raised="disk"),
    StoreCase("log", _log, durable=True, level="process", raised="disk"),
]


def state(value: int) -> StateRow:
    """A small state that tells which step made it."""
    return StateRow((value.to_bytes(16, "little"),), SHAPES)


def receipt(step: int, request_id: str | None = None, digest: bytes = b"d" * 8) -> Receipt:
    """The receipt of a step; its request id is ``r<step>`` unless told."""
    name = f"r{step}" if request_id is None else request_id
    return Receipt(step, name.encode(), digest, b"reply %d" % step)


def commit_of(step: int, incarnation: bytes = X, **changes: Any) -> Commit:
    """A commit of step ``step`` of KEY by its first owner; step 1 creates."""
    request_id = changes.pop("request_id", None)
    digest = changes.pop("digest", b"d" * 8)
    fields: dict[str, Any] = {
        "key": KEY,
        "incarnation": incarnation,
        "epoch": 1,
        "step": step,
        "receipts": (receipt(step, request_id, digest),),
        "state": state(step),
        "create": step == 1,
        "replaces": b"",
        "end": None,
        "version": "3",
        "model_digest": "abcdef",
        "dialect": "kserve",
        "ttl_s": 60.0,
        "level": "",
    }
    return Commit(**(fields | changes))


def commit_one(store: Store, entry: Commit) -> Any:
    """Commit a batch of one."""
    (result,) = store.commit([entry])
    return result


def snapshot(store: Store, key: SequenceKey = KEY) -> Any:
    """Everything readable of a key: what must not change when a call is refused."""
    found = store.read(key)
    if isinstance(found, Missing):
        return None if found.head is None else plain(found.head)
    head, row = found
    return plain(head), row.data, tuple(map(tuple, row.shapes))


def plain(head: RecordHead) -> tuple[Any, ...]:
    """A head as values, without the display times."""
    return (
        head.incarnation,
        head.epoch,
        head.step,
        head.receipts,
        head.version,
        head.model_digest,
        head.dialect,
        head.ttl_s,
        head.level,
        None if head.ending is None else (head.ending.reason, head.ending.step),
    )
