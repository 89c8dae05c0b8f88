"""A process that uses a log store until it is killed. Run by ``test_log_kill.py``.

It tells on standard output what it is sure of, one line each, only after the store has
answered. Its clock advances with its actions, so that runs can be repeated exactly.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "fixtures" / "store"))

from log_kit import FakeClock, a_commit, a_grown_commit, commit, content, incarnation_of, key_of

from legato.core.errors import StorageFullError
from legato.core.types import EndReason
from legato.stores.base import Duplicate, Ok
from legato.stores.log import LogStore

SEQUENCES = 6
GROWING = (3, 4)  # of these a part of the state grows, so their records say what changed


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def next_steps(store: LogStore) -> dict[int, tuple[int, int]]:
    """Step and epoch of each sequence, as the store has them."""
    steps = {}
    for number in range(SEQUENCES):
        found = store.read(key_of(number))
        is_live = isinstance(found, tuple) and len(found) == 2
        steps[number] = (found[0].step, found[0].epoch) if is_live else (0, 1)
    return steps


def one_round(store: LogStore, clock: FakeClock, at: int) -> None:
    """A batch of steps, and one each of fork, end, expiry, owner and upkeep."""
    steps = next_steps(store)
    batch = [
        (a_grown_commit if number in GROWING else a_commit)(number, step + 1, epoch=epoch)
        for number, (step, epoch) in steps.items()
    ]
    for entry, result in zip(batch, store.commit(batch), strict=True):
        assert type(result) in (Ok, Duplicate), result
        tell("step", entry.key.correlation_id, entry.step)
    source, target = key_of(0), key_of(f"fork{at}")
    assert isinstance(store.fork(source, batch[0].step, target, incarnation_of(f"fork{at}")), Ok)
    tell("fork", f"fork{at}", batch[0].step)
    commit(store, a_commit(f"brief{at}", 1, ttl_s=2.0))
    if at >= 3:
        store.delete(key_of(f"fork{at - 3}"), incarnation_of(f"fork{at - 3}"), EndReason.ENDED)
        tell("ended", f"fork{at - 3}")
    store.acquire(key_of(at % SEQUENCES), f"owner{at}", hold_s=0.0)
    clock.advance(1.0)
    for key, _ in store.sweep(100, ()):
        tell("ended", key.correlation_id)
    while store.maintain(1.0):
        pass


def fill_up(store: LogStore) -> None:
    """Write against a limit of the system, then go on without it."""
    # Smaller than the record, which goes into a segment of its own.
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
    data, refused = bytes(4000), 0
    for step in (1, 1, 1):
        try:
            commit(store, a_commit("large", step, data=data))
        except StorageFullError:
            refused += 1
    assert content(store, "large") is None
    tell("refused", refused, store.statistics().writable)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    commit(store, a_commit("large", 1, data=data))
    tell("taken", store.statistics().writable)


def main() -> None:
    folder, level, rounds, first = (
        Path(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    clock = FakeClock()
    store = LogStore(
        folder, clock=clock, level=level, segment_bytes=4000, checkpoint_bytes=6000,
        tombstone_s=20.0, flush_interval_s=0.0,
    )  # fmt: skip
    tell("open", store.recovery.records)
    if rounds == 0:
        fill_up(store)
    for at in range(first, first + rounds):
        one_round(store, clock, at)
    store.close()
    tell("closed")


if __name__ == "__main__":
    main()
