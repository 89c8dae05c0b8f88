"""What snapshots, rollbacks and pages ask of a store."""

from __future__ import annotations

from store_kit import KEY, OTHER, X, Y, Z, commit_of, commit_one, snapshot, state

from legato.core.ids import snapshot_key, snapshots_of
from legato.core.types import EndReason, SequenceKey
from legato.stores.base import Conflict, Duplicate, Gone, Missing, Ok

FROZEN = snapshot_key(KEY, "before")


def begin(store, steps: int = 2, key: SequenceKey = KEY, **changes) -> None:
    for step in range(1, steps + 1):
        commit_one(store, commit_of(step, key=key, **changes))


def freeze_and_go_on(store) -> None:
    """KEY at step 4, a snapshot of it at step 2."""
    begin(store)
    store.fork(KEY, 2, FROZEN, Y, 0.0)
    commit_one(store, commit_of(3))
    commit_one(store, commit_of(4))


# -- rollback ------------------------------------------------------------------------


def test_rollback_puts_the_copy_in_the_place_of_the_live_one(store) -> None:
    """State and step are the snapshot's, the incarnation is new, the snapshot stays."""
    freeze_and_go_on(store)

    result = store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)

    head, row = store.read(KEY)
    assert isinstance(result, Ok)
    assert (head.incarnation, head.epoch, head.step, head.receipts) == (Z, 0, 2, ())
    assert head.ttl_s == 60.0
    assert row == state(2)
    assert store.read(FROZEN)[1] == state(2)
    assert store.live("model") == 1


def test_late_commit_of_a_rolled_back_incarnation_is_gone_by_that_name(store) -> None:
    """The writer learns that its sequence was rolled back, and where it stood (D7)."""
    freeze_and_go_on(store)
    store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)

    late = commit_one(store, commit_of(5))

    assert isinstance(late, Gone)
    assert (late.ending.reason, late.ending.step) == (EndReason.ROLLED_BACK, 4)
    assert store.read(KEY)[1] == state(2)


def test_rollback_of_another_incarnation_is_a_conflict(store) -> None:
    """Who was rolled back or restarted since is left alone."""
    freeze_and_go_on(store)
    before = snapshot(store)

    assert store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=b"o" * 16) == Conflict(4)
    assert snapshot(store) == before


def test_rollback_does_not_raise_what_has_ended(store) -> None:
    """An ended sequence is Gone with its ending, an unknown one is Gone."""
    freeze_and_go_on(store)
    store.delete(KEY, X, EndReason.CANCELLED)

    ended = store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)
    unknown = store.fork(FROZEN, 2, OTHER, Z, 60.0, replaces=X)

    assert ended.ending.reason is EndReason.CANCELLED
    assert unknown == Gone(None)
    assert isinstance(store.read(KEY), Missing)


def test_rollback_repeated_is_a_duplicate(store) -> None:
    """Also when the sequence has moved on since."""
    freeze_and_go_on(store)
    store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)
    commit_one(store, commit_of(3, Z, epoch=0, state=state(33)))

    again = store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)

    assert isinstance(again, Duplicate)
    assert store.read(KEY)[1] == state(33)


def test_rollback_renews_the_idle_time(store, clock) -> None:
    """The new incarnation is as young as any."""
    freeze_and_go_on(store)
    clock.advance(59.0)
    store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)
    clock.advance(59.0)

    assert store.read(KEY)[0].step == 2


def test_rollback_outlives_the_store(open_durable) -> None:
    """Opened again, it is where it was rolled back to, and the past keeps its name."""
    store = open_durable()
    freeze_and_go_on(store)
    store.fork(FROZEN, 2, KEY, Z, 60.0, replaces=X)

    store = open_durable()

    assert store.read(KEY)[1] == state(2)
    assert commit_one(store, commit_of(5)).ending.reason is EndReason.ROLLED_BACK


# -- groups ------------------------------------------------------------------------------


def test_snapshots_are_a_group_of_their_own(store) -> None:
    """They are neither counted nor listed as sequences of their model."""
    begin(store)
    store.fork(KEY, 2, FROZEN, Y, 0.0)

    assert [row.key for row in store.list()] == [KEY]
    assert [row.key for row in store.list("model")] == [KEY]
    assert [row.key for row in store.list(snapshots_of("model"))] == [FROZEN]
    assert (store.live("model"), store.live(snapshots_of("model"))) == (1, 1)


def test_groups_outlive_the_store(open_durable) -> None:
    """Opened again, a snapshot is still no sequence; ended, it is counted nowhere."""
    store = open_durable()
    begin(store)
    store.fork(KEY, 2, FROZEN, Y, 0.0)

    store = open_durable()
    listed = [row.key for row in store.list()], [row.key for row in store.list("model")]
    counts = store.live("model"), store.live(snapshots_of("model"))
    store.delete(FROZEN, Y, EndReason.ENDED)

    assert listed == ([KEY], [KEY])
    assert counts == (1, 1)
    assert store.live(snapshots_of("model")) == 0


def test_snapshot_without_limit_does_not_expire(store, clock) -> None:
    """Its sequence may be long gone."""
    begin(store)
    store.fork(KEY, 2, FROZEN, Y, 0.0)
    clock.advance(1e6)
    store.sweep(10, ())

    assert store.read(FROZEN)[1] == state(2)
    assert isinstance(store.read(KEY), Missing)


# -- looking -----------------------------------------------------------------------------------


def test_look_shows_what_a_listing_shows(store, clock) -> None:
    """Head, bytes and idle time of one key; tombstones and the unknown are missing."""
    begin(store)
    begin(store, 1, key=OTHER)
    clock.advance(3.0)

    seen = [store.look(KEY), store.look(OTHER)]

    assert seen == list(store.list())
    assert [(row.head.step, row.state_bytes, row.idle_s) for row in seen] == [
        (2, 16, 3.0),
        (1, 16, 3.0),
    ]
    store.delete(KEY, X, EndReason.EVICTED)
    assert store.look(KEY).head.ending.reason is EndReason.EVICTED
    assert store.look(FROZEN) == Missing(None)
    clock.advance(100.0)
    assert store.look(OTHER).head.ending.reason is EndReason.EXPIRED


def test_listing_goes_on_behind_a_row(store) -> None:
    """Pages see every row once, also when rows come and go between them."""
    keys = [SequenceKey("model", number) for number in range(1, 8)]
    store.commit([commit_of(1, key=key) for key in keys])
    walk = store.list("model")
    page = [next(walk), next(walk), next(walk)]
    store.delete(keys[2], X, EndReason.ENDED)
    store.delete(keys[3], X, EndReason.ENDED)
    commit_one(store, commit_of(1, Y, key=keys[3]))

    rest = list(store.list("model", after=page[-1].order))

    assert [row.key for row in page] == keys[:3]
    assert [row.key for row in rest] == [*keys[4:], keys[3]]
    orders = [row.order for row in (*page, *rest)]
    assert orders == sorted(set(orders))


def test_listing_may_be_taken_up_after_many_have_gone(store) -> None:
    """The place in the order stands, whatever the store forgot before it."""
    keys = [SequenceKey("model", number) for number in range(1, 401)]
    for at in range(0, 400, 100):
        store.commit([commit_of(1, key=key) for key in keys[at : at + 100]])
    place = list(store.list())[299].order
    for key in keys[:300]:
        store.delete(key, X, EndReason.ENDED)
        commit_one(store, commit_of(1, Y, key=key))

    rest = [row.key for row in store.list(after=place)]

    assert rest == [*keys[300:], *keys[:300]]


def test_order_outlives_the_store(open_durable) -> None:
    """A page asked for before a restart is gone on with after it."""
    store = open_durable()
    keys = [SequenceKey("model", number) for number in range(1, 6)]
    store.commit([commit_of(1, key=key) for key in keys])
    place = list(store.list())[1].order

    store = open_durable()

    assert [row.key for row in store.list(after=place)] == keys[2:]
