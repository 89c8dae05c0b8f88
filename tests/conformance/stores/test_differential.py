"""Every engine against a dictionary, under random operations (spec section 12, test 3).

All engines take the same operations at once and must give the same answers. The runs
are derived from the code of the test, not from chance, so a failure here is a failure
everywhere; Hypothesis prints the shortest sequence of calls that shows it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from store_kit import CASES, FakeClock, commit_of, receipt, state
from store_model import StoreModel, told

from legato.core.types import EndReason, RecordHead, SequenceKey

if TYPE_CHECKING:
    from legato.stores.base import Commit

KEYS = [SequenceKey("model", 7), SequenceKey("model", "7"), SequenceKey("model", "copy")]
OWNERS = ["a", "b"]
MEMORY = Path("/dev/shm")  # flushes cost nothing there, and no disk is tested here

keys = st.sampled_from(KEYS)
owners = st.sampled_from(OWNERS)
limits = st.sampled_from([0.0, 0.0, 5.0, 60.0])
reasons = st.sampled_from([EndReason.CANCELLED, EndReason.EVICTED, EndReason.FAILED])
ends = st.sampled_from([None] * 7 + [EndReason.ENDED])


class StoresAgree(RuleBasedStateMachine):
    """Two owners with copies that may be stale, all engines, and the model."""

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None)
        self.clock = FakeClock()
        self.wall = FakeClock()  # what durable engines see: it goes on while they are closed
        self.stores = {case.name: self.open_one(case) for case in CASES}
        self.model = StoreModel(self.clock.now)
        self.drawn = 0
        self.history: list[Commit] = []
        self.copies: dict[tuple[str, SequenceKey], tuple[bytes, int, int]] = {}

    def open_one(self, case):
        clock = self.wall if case.durable else self.clock
        return case.open(Path(self.folder.name) / case.name, clock)

    def teardown(self) -> None:
        if hasattr(self, "stores"):
            for store in self.stores.values():
                store.close()
            self.folder.cleanup()

    def all_say(self, expected, call) -> None:
        answers = {name: told(call(store)) for name, store in self.stores.items()}
        assert answers == dict.fromkeys(self.stores, expected)

    def draw(self) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(16, "big")

    def current(self, key: SequenceKey) -> bytes:
        line = self.model.lines.get(key)
        return line.entry.incarnation if line else b"?" * 16

    def commit(self, entries: list[Commit]) -> list[object]:
        expected = [self.model.commit(entry) for entry in entries]
        for name, store in self.stores.items():
            assert [told(result) for result in store.commit(entries)] == expected, name
        self.history = [*self.history, *entries][-12:]
        return expected

    def believed(self, owner: str, key: SequenceKey) -> tuple[bytes, int, int]:
        """The owner's copy; without one, whatever the record says (it may be dead)."""
        line = self.model.lines.get(key)
        fresh = (line.entry.incarnation, line.epoch, line.entry.step) if line else (b"?" * 16, 1, 1)
        return self.copies.get((owner, key), fresh)

    def moved(self, owner: str, entry: Commit, result: object) -> None:
        """The owner's copy follows what it committed, and is dropped otherwise (D5)."""
        if result == ("ok",) and entry.end is None:
            self.copies[owner, entry.key] = (entry.incarnation, entry.epoch, entry.step)
        else:
            self.copies.pop((owner, entry.key), None)

    # -- rules --------------------------------------------------------------------------

    @rule(key=keys, owner=owners, ttl_s=limits, end=ends, restart=st.booleans())
    def create(self, key, owner, ttl_s, end, restart) -> None:
        replaces = self.current(key) if restart else b""
        entry = commit_of(
            1, self.draw(), key=key, ttl_s=ttl_s, end=end, replaces=replaces,
            request_id=f"{owner}{self.drawn}",
        )  # fmt: skip
        (result,) = self.commit([entry])
        self.moved(owner, entry, result)

    @rule(
        who=st.lists(st.tuples(owners, keys), min_size=1, max_size=4),
        ttl_s=limits,
        end=ends,
        waited_s=st.sampled_from([0.0, 0.0, 10.0]),
    )
    def step(self, who, ttl_s, end, waited_s) -> None:
        """A batch of next steps, each by what its owner believes."""
        entries = []
        for owner, key in who:
            incarnation, epoch, step = self.believed(owner, key)
            self.drawn += 1
            entries.append(
                commit_of(
                    step + 1,
                    incarnation,
                    key=key,
                    epoch=epoch,
                    create=False,
                    end=end,
                    ttl_s=ttl_s,
                    waited_s=waited_s,
                    state=state(self.drawn),
                    request_id=f"{owner}{self.drawn}",
                )
            )
        results = self.commit(entries)
        for (owner, _), entry, result in zip(who, entries, results, strict=True):
            self.moved(owner, entry, result)

    @rule(back=st.integers(1, 12))
    def retry(self, back) -> None:
        """Any earlier commit again: its reply was lost, or it comes late."""
        if back <= len(self.history):
            self.commit([self.history[-back]])

    @rule(back=st.integers(1, 12))
    def retry_with_other_input(self, back) -> None:
        if back <= len(self.history):
            entry = self.history[-back]
            newest = entry.receipts[-1]._replace(digest=b"other   ")
            self.commit([entry._replace(receipts=(newest,))])

    @rule(key=keys, owner=owners, hold_s=st.sampled_from([0.0, 0.25, 0.5]))
    def acquire(self, key, owner, hold_s) -> None:
        expected = self.model.acquire(key, owner, hold_s)
        self.all_say(expected, lambda store: store.acquire(key, owner, hold_s=hold_s))
        if expected[0] == "owned":
            incarnation, epoch, step = expected[1][:3]
            self.copies[owner, key] = (incarnation, epoch, step)

    @rule(
        source=keys,
        copy=keys,
        off=st.sampled_from([0, 0, 0, 1, -1]),
        again=st.booleans(),
        ttl_s=limits,
    )
    def fork(self, source, copy, off, again, ttl_s) -> None:
        line = self.model.lines.get(source)
        step = max(0, (line.entry.step if line else 1) + off)
        incarnation = self.current(copy) if again else self.draw()
        expected = self.model.fork(source, step, copy, incarnation, ttl_s)
        self.all_say(expected, lambda store: store.fork(source, step, copy, incarnation, ttl_s))

    @rule(key=keys, step=st.integers(0, 5), again=st.booleans(), ttl_s=limits)
    def put(self, key, step, again, ttl_s) -> None:
        incarnation = self.current(key) if again else self.draw()
        receipts = (receipt(step),) if step else ()
        entry = commit_of(step, incarnation, key=key, epoch=3, receipts=receipts, ttl_s=ttl_s)
        head = RecordHead(
            incarnation, 3, step, receipts, entry.version, entry.model_digest, entry.dialect,
            1.0, ttl_s, entry.level,
        )  # fmt: skip
        self.all_say(self.model.put(entry), lambda store: store.put(key, head, entry.state))

    @rule(key=keys, reason=reasons, back=st.integers(0, 12))
    def delete(self, key, reason, back) -> None:
        """The current incarnation, or one that some earlier commit had."""
        incarnation = self.current(key)
        if 0 < back <= len(self.history):
            incarnation = self.history[-back].incarnation
        expected = self.model.delete(key, incarnation, reason)
        self.all_say(expected, lambda store: store.delete(key, incarnation, reason))

    @rule(seconds=st.sampled_from([0.125, 0.25, 0.25, 0.5, 5.0, 5.0, 55.0, 60.0, 100.0]))
    def time_passes(self, seconds) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)
        self.model.now += seconds

    @rule(busy=st.sets(keys, max_size=2))
    def sweep(self, busy) -> None:
        expected = self.model.sweep(busy)
        for name, store in self.stores.items():
            swept = store.sweep(100, busy)
            assert len(swept) == len(expected), name
            assert {key for key, _ in swept} == expected, name
            assert all(head.ending.reason is EndReason.EXPIRED for _, head in swept), name

    @rule(away=st.sampled_from([0.0, 10.0, 1000.0]))
    def reopen(self, away) -> None:
        """Close, wait, open: time in between does not count, and nobody holds anything."""
        durable = [case for case in CASES if case.durable]
        for case in durable:
            self.stores[case.name].close()
        self.wall.advance(away)
        for case in durable:
            self.stores[case.name] = self.open_one(case)
        self.time_passes(1.0)

    # -- what must always agree ------------------------------------------------------------

    @invariant()
    def everyone_sees_the_same(self) -> None:
        if not hasattr(self, "model"):
            return
        for key in KEYS:
            self.all_say(self.model.read(key), lambda store, key=key: store.read(key))
        for name, store in self.stores.items():
            listed = [(row.key, row.idle_s) for row in store.list()]
            assert listed == self.model.listed(), name
            assert store.live("model") == store.statistics().live == self.model.live(), name


TestStoresAgree = StoresAgree.TestCase
TestStoresAgree.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, derandomize=True, print_blob=True
)
