"""The order of a store's tests, as a table. The conformance suite covers the cases in depth."""

from __future__ import annotations

import pytest

from legato.core.types import Ending, EndReason, Receipt, SequenceKey, StateRow
from legato.stores.base import Commit, Conflict, Duplicate, Fenced, Gone
from legato.stores.rules import NEVER, Standing, expires, judge, succeeded

X, Y, Z = b"x" * 16, b"y" * 16, b"z" * 16
ENDED = Ending(EndReason.ENDED, 2, 0.0)
KEPT = Receipt(2, b"r2", b"d", b"reply")


def entry(step: int, incarnation: bytes = X, epoch: int = 1, **changes) -> Commit:
    made = Commit(
        SequenceKey("m", 1), incarnation, epoch, step,
        (Receipt(step, b"r%d" % step, b"d", b""),), StateRow((), ()), False, b"", None,
        "1", "", "kserve", 0.0, "",
    )  # fmt: skip
    return made._replace(**changes)


LIVE = Standing(X, 1, 2, KEPT, None)
DEAD = LIVE._replace(ending=ENDED)
AFTER_X = Standing(Y, 1, 1, None, None, X, ENDED)


@pytest.mark.parametrize(
    ("standing", "commit", "expected"),
    [
        (None, entry(1), Gone(None)),
        (None, entry(1, create=True), None),
        (LIVE, entry(3, Y), Gone(None)),
        (DEAD, entry(3), Gone(ENDED)),
        (DEAD, entry(2, epoch=9), Duplicate(KEPT)),
        (DEAD, entry(1, Y, create=True), None),
        (DEAD, entry(1, create=True), Gone(ENDED)),
        (LIVE, entry(2), Duplicate(KEPT)),
        (LIVE, entry(2, epoch=9), Duplicate(KEPT)),
        (LIVE, entry(3, epoch=9), Fenced(1, 2)),
        (LIVE, entry(5, epoch=0), Fenced(1, 2)),
        (LIVE, entry(2, receipts=(KEPT._replace(digest=b"e"),)), Conflict(2)),
        (LIVE, entry(4), Conflict(2)),
        (LIVE, entry(3), None),
        (LIVE, entry(1, Y, create=True), Conflict(2)),
        (LIVE, entry(1, Y, create=True, replaces=Z), Conflict(2)),
        (LIVE, entry(1, Y, create=True, replaces=X), None),
        (LIVE, entry(1, create=True), Conflict(2)),
        (AFTER_X, entry(3), Gone(ENDED)),
        (AFTER_X, entry(1, create=True, replaces=Y), Gone(ENDED)),
        (LIVE._replace(newest=None), entry(2), Conflict(2)),
    ],
)
def test_tests_come_in_the_order_of_the_contract(standing, commit, expected) -> None:
    """Gone, Duplicate, Fenced, Conflict, Ok; a standing commit is Duplicate even when dead."""
    assert judge(standing, commit) == expected


def test_idle_limit_of_zero_is_none() -> None:
    """The last moment of life is the limit itself."""
    assert expires(100.0, 0.0) == NEVER
    assert expires(100.0, 5.0) == 105.0


def test_new_incarnation_remembers_the_one_before() -> None:
    """A live one is displaced now, a dead one keeps its own ending."""
    assert succeeded(None, 7.0) == (b"", None)
    assert succeeded(DEAD, 7.0) == (X, ENDED)
    assert succeeded(LIVE, 7.0) == (X, Ending(EndReason.DISPLACED, 2, 7.0))
