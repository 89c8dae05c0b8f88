"""The decision table of spec durability, section 7, row by row, and the dialects' rules."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legato.core.decide import Verdict, decide
from legato.core.errors import (
    RecreatedError,
    RequestIdReusedError,
    SequenceExistsError,
    StepAppliedError,
    StepGapError,
    StepLostError,
    StepTakenError,
    UnknownSequenceError,
)
from legato.core.types import (
    KSERVE,
    NATIVE,
    TFSERVING,
    TORCHSERVE,
    Ending,
    EndReason,
    Receipt,
    RecordHead,
    StartOfLive,
    Step,
)

DIALECTS = [KSERVE, TFSERVING, TORCHSERVE, NATIVE]
LIFE, OTHER_LIFE = b"i" * 16, b"j" * 16
X, Y = b"x" * 8, b"y" * 8


def receipt(step: int, request_id: str = "", digest: bytes = X) -> Receipt:
    return Receipt(step, request_id.encode(), digest, b"reply %d" % step)


def record(step: int, *receipts: Receipt, ended: EndReason | None = None) -> RecordHead:
    kept = receipts or (receipt(step),)
    ending = None if ended is None else Ending(ended, step, 0.0)
    return RecordHead(LIFE, 1, step, kept, "1", "d", "kserve", 0.0, 60.0, "none", ending)


def step(number: int = 0, request_id: str = "", *, dialect=KSERVE, digest=X, **options) -> Step:
    return Step("m", 7, {}, dialect, number=number, request_id=request_id, digest=digest, **options)


def refused(decision, error, expected: int | None = None) -> bool:
    assert decision.verdict is Verdict.REFUSE
    assert type(decision.error) is error
    return expected is None or decision.error.expected_step == expected


# -- the rows of the table ------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_the_next_number_is_applied(dialect) -> None:
    """N = s+1."""
    decision = decide(record(4), step(5, dialect=dialect))

    assert (decision.verdict, decision.number) == (Verdict.APPLY, 5)


@pytest.mark.parametrize("request_id", ["", "r"])
def test_the_last_step_again_gets_its_stored_reply(request_id) -> None:
    """N = s, r = q, same input."""
    kept = receipt(4, request_id)

    decision = decide(record(4, kept), step(4, request_id))

    assert (decision.verdict, decision.receipt) == (Verdict.REPLAY, kept)


@pytest.mark.parametrize("request_id", ["", "r"])
def test_the_same_request_with_other_input_is_refused(request_id) -> None:
    """N = s, r = q, other digest; an absent request id counts as an empty one."""
    decision = decide(record(4, receipt(4, request_id)), step(4, request_id, digest=Y))

    assert refused(decision, RequestIdReusedError, 5)


@pytest.mark.parametrize(("kept", "sent"), [("q", "r"), ("", "r"), ("q", "")])
def test_a_number_taken_by_another_request_is_refused(kept, sent) -> None:
    """N = s, r ≠ q: says what is expected."""
    decision = decide(record(4, receipt(4, kept)), step(4, sent))

    assert refused(decision, StepTakenError, 5)
    assert "step 5" in str(decision.error)


def test_an_older_step_whose_receipt_is_kept_gets_its_reply() -> None:
    """s-h < n < s, r kept."""
    kept = (receipt(2, "a"), receipt(3, "b"), receipt(4, "c"))

    decision = decide(record(4, *kept), step(2, "a"))

    assert (decision.verdict, decision.receipt) == (Verdict.REPLAY, kept[0])


@pytest.mark.parametrize(("number", "request_id"), [(1, "a"), (2, "z")])
def test_an_older_step_that_is_not_known_any_more_is_refused(number, request_id) -> None:
    """N ≤ s-h, or r unknown there."""
    kept = (receipt(2, "a"), receipt(3, "b"), receipt(4, "c"))

    decision = decide(record(4, *kept), step(number, request_id))

    assert refused(decision, StepAppliedError, 5)
    assert "step 5" in str(decision.error)


def test_an_older_request_with_other_input_is_refused() -> None:
    """The digest is compared for every kept receipt."""
    decision = decide(record(4, receipt(3, "b"), receipt(4, "c")), step(3, "b", digest=Y))

    assert refused(decision, RequestIdReusedError, 5)


def test_a_gap_is_refused() -> None:
    """N > s+1: says what is expected."""
    decision = decide(record(4), step(6))

    assert refused(decision, StepGapError, 5)
    assert "step 5" in str(decision.error)


def test_a_gap_of_a_client_with_an_acknowledgement_is_data_loss() -> None:
    """The client holds a reply that the record does not have."""
    decision = decide(record(4), step(6, acknowledged=5))

    assert refused(decision, StepLostError, 5)


def test_a_gap_of_a_client_that_merely_skipped_is_a_gap() -> None:
    """Its acknowledgements are all in the record."""
    assert refused(decide(record(4), step(7, acknowledged=4)), StepGapError, 5)


def test_an_unnumbered_step_behind_a_lost_acknowledgement_is_data_loss() -> None:
    """Going on silently from an older state would be a wrong answer."""
    assert refused(decide(record(4), step(0, acknowledged=5)), StepLostError, 5)
    assert decide(record(4), step(0, acknowledged=4)).verdict is Verdict.APPLY


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_a_start_without_a_record_creates(dialect, number) -> None:
    """No record, create, n = 1 or next."""
    decision = decide(None, step(number, dialect=dialect, start=True))

    assert (decision.verdict, decision.number) == (Verdict.CREATE, 1)


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("dialect", [KSERVE, TFSERVING, NATIVE], ids=lambda d: d.name)
def test_a_step_without_a_record_is_unknown(dialect, number) -> None:
    """No record, no START."""
    decision = decide(None, step(number, dialect=dialect))

    assert refused(decision, UnknownSequenceError)
    assert decision.error.ending is None


def test_another_incarnation_is_refused() -> None:
    """The sequence was re-created since."""
    assert refused(decide(record(4), step(5, incarnation=OTHER_LIFE)), RecreatedError)
    assert decide(record(4), step(5, incarnation=LIFE)).verdict is Verdict.APPLY


# -- starts -----------------------------------------------------------------------------


def test_start_of_a_live_id_restarts_where_the_dialect_says_so() -> None:
    """KServe."""
    assert decide(record(4), step(start=True)).verdict is Verdict.RESTART


@pytest.mark.parametrize("dialect", [TFSERVING, TORCHSERVE, NATIVE], ids=lambda d: d.name)
def test_start_of_a_live_id_is_refused_where_the_dialect_says_so(dialect) -> None:
    """And asked for with ``restart`` it is done."""
    assert refused(decide(record(4), step(dialect=dialect, start=True)), SequenceExistsError, 5)
    wanted = step(dialect=dialect, start=True, restart=True)
    assert decide(record(4), wanted).verdict is Verdict.RESTART


@pytest.mark.parametrize("life", [None, record(4), record(4, ended=EndReason.ENDED)])
def test_a_start_with_another_number_than_one_is_a_gap(life) -> None:
    """A sequence begins with step 1."""
    assert refused(decide(life, step(3, start=True)), StepGapError, 1)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_a_repeated_numbered_start_gets_its_reply(dialect) -> None:
    """Also where an unnumbered START would restart."""
    again = step(1, "r", dialect=dialect, start=True)

    assert decide(record(1, receipt(1, "r")), again).verdict is Verdict.REPLAY


def test_a_numbered_start_of_a_live_id_by_someone_else_is_refused() -> None:
    """Taken, or applied long ago; never a silent restart."""
    start = step(1, "other", start=True)

    assert refused(decide(record(1, receipt(1, "r")), start), StepTakenError, 2)
    assert refused(decide(record(4), start), StepAppliedError, 5)


@pytest.mark.parametrize(
    ("life", "request_id", "digest", "verdict"),
    [
        (record(4), "", X, Verdict.RESTART),
        (record(1, receipt(1, "r")), "other", X, Verdict.RESTART),
        (record(1, receipt(1, "r")), "r", X, Verdict.REPLAY),
        (record(1, receipt(1, "r")), "r", Y, Verdict.REFUSE),
        (record(1, receipt(1)), "", X, Verdict.REPLAY),
        (record(1, receipt(1)), "", Y, Verdict.RESTART),
    ],
)
def test_a_numbered_start_that_may_restart(life, request_id, digest, verdict) -> None:
    """It restarts unless it is a repeat of the START that made this very record."""
    start = step(1, request_id, start=True, restart=True, digest=digest)

    assert decide(life, start).verdict is verdict


def test_torchserve_opens_an_unknown_id() -> None:
    """At step 1 or next, not in the middle."""
    assert decide(None, step(dialect=TORCHSERVE)).verdict is Verdict.CREATE
    assert decide(None, step(1, dialect=TORCHSERVE)).verdict is Verdict.CREATE
    assert refused(decide(None, step(3, dialect=TORCHSERVE)), StepGapError, 1)


def test_an_expected_incarnation_is_never_opened_anew() -> None:
    """The client means a sequence that was; an empty one would be a wrong answer."""
    gone = step(dialect=TORCHSERVE, incarnation=LIFE)

    assert refused(decide(None, gone), UnknownSequenceError)
    assert refused(decide(record(4, ended=EndReason.EXPIRED), gone), UnknownSequenceError)


def test_acknowledged_steps_without_any_record_are_data_loss() -> None:
    """Not even a tombstone is left: something was lost."""
    assert refused(decide(None, step(5, acknowledged=4)), StepLostError, 1)
    lost = step(dialect=TORCHSERVE, acknowledged=4)
    assert refused(decide(None, lost), StepLostError, 1)
    assert decide(None, step(start=True, acknowledged=4)).verdict is Verdict.CREATE


# -- after the end -----------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(EndReason))
def test_a_step_of_an_ended_sequence_is_told_how_it_ended(reason) -> None:
    """Honest: every end has its own name."""
    decision = decide(record(4, ended=reason), step())

    assert refused(decision, UnknownSequenceError)
    assert decision.error.ending.reason is reason
    assert f"{reason.value} at step 4" in str(decision.error)


def test_the_end_again_gets_its_stored_reply() -> None:
    """Receipts outlive the sequence."""
    kept = receipt(4, "r")

    decision = decide(record(4, kept, ended=EndReason.ENDED), step(4, "r", end=True))

    assert (decision.verdict, decision.receipt) == (Verdict.REPLAY, kept)


@pytest.mark.parametrize(
    "again",
    [
        step(4, "r", digest=Y),
        step(4, "other"),
        step(0, "r"),
        step(5, "r"),
        step(4, "r", incarnation=OTHER_LIFE),
    ],
)
def test_what_is_no_repeat_of_the_end_is_unknown(again) -> None:
    """Other input, request, number or incarnation."""
    ended = record(4, receipt(4, "r"), ended=EndReason.ENDED)

    assert refused(decide(ended, again), UnknownSequenceError)


def test_a_new_start_after_the_end_creates() -> None:
    """The id is free."""
    ended = record(4, receipt(4, "r"), ended=EndReason.ENDED)

    for start in (step(start=True), step(1, start=True), step(1, "s", start=True)):
        assert decide(ended, start).verdict is Verdict.CREATE


def test_a_one_step_sequence_sent_again_gets_its_reply() -> None:
    """START and END in one step, numbered: the repeat is not a second sequence."""
    ended = record(1, receipt(1), ended=EndReason.ENDED)

    assert decide(ended, step(1, start=True, end=True)).verdict is Verdict.REPLAY
    assert decide(ended, step(1, start=True, end=True, digest=Y)).verdict is Verdict.CREATE


def test_a_start_without_request_id_begins_anew_after_a_longer_sequence() -> None:
    """The same id may begin again with the same input, though step 1's receipt is kept."""
    kept = (receipt(1), receipt(2))
    ended = record(2, *kept, ended=EndReason.ENDED)

    assert decide(ended, step(1, start=True)).verdict is Verdict.CREATE
    named = record(2, receipt(1, "a"), receipt(2, "b"), ended=EndReason.ENDED)
    assert decide(named, step(1, "a", start=True)).verdict is Verdict.REPLAY


# -- next and dedupe ------------------------------------------------------------------------


def test_next_takes_the_next_number_whatever_the_request_id() -> None:
    """A request id alone never makes a duplicate."""
    decision = decide(record(4, receipt(4, "r")), step(0, "r"))

    assert (decision.verdict, decision.number) == (Verdict.APPLY, 5)


def test_with_dedupe_a_known_request_id_is_a_repeat() -> None:
    """Among the receipts kept; other input is refused."""
    life = record(4, receipt(3, "a"), receipt(4, "b"))

    assert decide(life, step(0, "a"), dedupe=True).receipt == life.receipts[0]
    assert refused(decide(life, step(0, "a", digest=Y), dedupe=True), RequestIdReusedError)
    assert decide(life, step(0, "c"), dedupe=True).verdict is Verdict.APPLY
    assert decide(life, step(0, ""), dedupe=True).verdict is Verdict.APPLY


def test_with_dedupe_a_repeated_start_does_not_restart() -> None:
    """Nor does a repeated END need a number."""
    begun = record(1, receipt(1, "a"))
    ended = record(4, receipt(4, "b"), ended=EndReason.ENDED)

    assert decide(begun, step(0, "a", start=True), dedupe=True).verdict is Verdict.REPLAY
    assert decide(begun, step(0, "b", start=True), dedupe=True).verdict is Verdict.RESTART
    assert decide(ended, step(0, "b", end=True), dedupe=True).verdict is Verdict.REPLAY


def test_a_forked_record_without_receipts_goes_on() -> None:
    """No last request: a retry meant for the source is no duplicate here."""
    fork = dataclasses.replace(record(4), receipts=())

    assert decide(fork, step(5)).verdict is Verdict.APPLY
    assert refused(decide(fork, step(4)), StepAppliedError, 5)


STEPS = st.builds(
    step,
    st.integers(0, 7),
    st.sampled_from(["", "a", "b"]),
    dialect=st.sampled_from(DIALECTS),
    digest=st.sampled_from([X, Y]),
    start=st.booleans(),
    end=st.booleans(),
    restart=st.booleans(),
    acknowledged=st.integers(0, 7),
    incarnation=st.sampled_from([b"", LIFE, OTHER_LIFE]),
)
RECORDS = st.one_of(
    st.none(),
    st.builds(
        lambda n, kept, ids, ended: record(
            n, *(receipt(n - i, ids[i]) for i in reversed(range(min(kept, n)))), ended=ended
        ),
        st.integers(1, 5),
        st.integers(1, 3),
        st.lists(st.sampled_from(["", "a", "b"]), min_size=3, max_size=3),
        st.sampled_from([None, EndReason.ENDED, EndReason.EXPIRED]),
    ),
)


@given(RECORDS, STEPS, st.booleans())
def test_every_decision_keeps_the_invariants(life, asked, dedupe) -> None:
    """D2 and D3: steps by one, replies only of the same number, and nothing from the dead."""
    decision = decide(life, asked, dedupe=dedupe)

    if decision.verdict is Verdict.APPLY:
        assert life.ending is None
        assert decision.number == life.step + 1
        assert asked.number in (0, decision.number)
    elif decision.verdict is Verdict.REPLAY:
        assert decision.receipt in life.receipts
        assert asked.number in (0, decision.receipt.step)
        assert decision.receipt.request_id == asked.request_id.encode()
        assert decision.receipt.digest == asked.digest
    elif decision.verdict is Verdict.CREATE:
        assert life is None or life.ending is not None
        assert asked.number in (0, 1)
        assert decision.number == 1
    elif decision.verdict is Verdict.RESTART:
        assert life.ending is None
        assert asked.start
        assert asked.restart or asked.dialect is KSERVE
    else:
        assert str(decision.error)
    if asked.incarnation == OTHER_LIFE and life is not None and life.ending is None:
        assert isinstance(decision.error, RecreatedError)


def test_a_model_may_say_what_a_start_of_a_live_id_does() -> None:
    """Its rule goes before the dialect's; a START that asks for it restarts all the same."""
    live = record(3)

    refusing = decide(live, step(start=True), start_of_live=StartOfLive.REFUSE)
    restarting = decide(live, step(start=True, dialect=NATIVE), start_of_live=StartOfLive.RESTART)
    asking = decide(live, step(start=True, restart=True), start_of_live=StartOfLive.REFUSE)

    assert refused(refusing, SequenceExistsError)
    assert restarting.verdict is Verdict.RESTART
    assert asking.verdict is Verdict.RESTART
