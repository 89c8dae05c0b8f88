"""Many owners at once: spec durability section 12, test 6."""

from __future__ import annotations

import random
import sys
import threading
from hashlib import blake2b

from store_kit import commit_of, commit_one, state

from legato.core.types import SequenceKey
from legato.stores.base import Conflict, Duplicate, Fenced, Ok, Owned

OWNERS, SEQUENCES, ROUNDS = 8, 3, 40
KEYS = [SequenceKey("model", number) for number in range(SEQUENCES)]


def link(before: bytes, request: str) -> bytes:
    """The next state of a hash chain: any loss, repetition or reordering shows."""
    return blake2b(before + request.encode(), digest_size=16).digest()


class Racer(threading.Thread):
    """One owner; the store has one caller at a time, but between two calls anything goes."""

    def __init__(self, store, lock: threading.Lock, number: int) -> None:
        super().__init__(name=f"owner-{number}")
        self.store, self.lock, self.number = store, lock, number
        self.random = random.Random(number)
        self.accepted: list[tuple[SequenceKey, int, str]] = []
        self.refused = 0
        self.unexpected: list[object] = []

    def run(self) -> None:
        for attempt in range(ROUNDS):
            key = self.random.choice(KEYS)
            with self.lock:
                owned = self.store.acquire(key, self.name, hold_s=0.0)
            if not isinstance(owned, Owned):
                self.unexpected.append(owned)
                continue
            self.step(key, owned, f"{self.name}/{attempt}")

    def step(self, key: SequenceKey, owned: Owned, request: str) -> None:
        head = owned.head
        entry = commit_of(
            head.step + 1,
            head.incarnation,
            key=key,
            epoch=head.epoch,
            create=False,
            request_id=request,
            state=state(0)._replace(data=(link(owned.state.data[0], request),)),
        )
        with self.lock:
            result = commit_one(self.store, entry)
        if self.random.random() < 0.3:  # the reply was dropped: the same commit again
            with self.lock:
                again = commit_one(self.store, entry)
            if isinstance(result, Ok) and not isinstance(again, Duplicate | Fenced | Conflict):
                self.unexpected.append(again)
        if isinstance(result, Ok):
            self.accepted.append((key, head.step + 1, request))
        elif isinstance(result, Fenced | Conflict):
            self.refused += 1
        else:
            self.unexpected.append(result)


def test_eight_owners_race_for_three_sequences(store) -> None:
    """Accepted steps are in the final state once and in order, refused ones are not (D2..D4)."""
    start = bytes(16)
    store.commit([commit_of(1, key=key, state=state(0)._replace(data=(start,))) for key in KEYS])
    lock = threading.Lock()
    racers = [Racer(store, lock, number) for number in range(OWNERS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
    finally:
        sys.setswitchinterval(interval)

    accepted = [entry for racer in racers for entry in racer.accepted]
    assert [racer.unexpected for racer in racers] == [[]] * OWNERS
    assert len(accepted) + sum(racer.refused for racer in racers) == OWNERS * ROUNDS
    for key in KEYS:
        steps = sorted((step, request) for k, step, request in accepted if k == key)
        expected = start
        for _, request in steps:
            expected = link(expected, request)
        head, row = store.read(key)
        assert [step for step, _ in steps] == list(range(2, head.step + 1))
        assert row.data == (expected,)
