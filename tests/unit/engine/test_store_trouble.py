"""What the engine makes of a store that fails, forgets its answer or says no."""

from __future__ import annotations

import pytest

from doubles import FailingStore, chain_of, state_of
from legato.core.errors import (
    BusyError,
    ClientError,
    StateDamagedError,
    StorageFullError,
    StoreUnavailableError,
    UnknownSequenceError,
)
from legato.core.reply import ReplyEncoder
from legato.core.types import NATIVE, EndReason, Receipt, Reply, SequenceKey
from legato.stores.base import Conflict, Damaged, Fenced, Gone, Held

LOST = ("lost", OSError("no answer"))
KEY = SequenceKey("m", 1)


@pytest.fixture(params=[False, True], ids=["quick store", "slow store"])
def h(make, request):
    harness = make(slow_store=request.param)
    harness.load()
    harness.ask(1, 1, start=True)
    harness.ask(2, 2, start=True)
    return harness


def test_no_reply_leaves_before_its_commit(make) -> None:
    """D1: while the store works, nobody hears of the step, and readers see the old state."""
    h = make(slow_store=True)
    h.load()
    h.ask(1, 1, start=True)
    sent = h.send(1, 2)

    h.loop.settle()
    assert h.runtime.calls == [[1], [1]]
    assert not sent.answered
    assert h.state() == state_of([1])
    h.settle()

    assert sent.reply.step == 2


def test_the_next_step_waits_for_the_commit_of_the_last(make) -> None:
    """A sequence never runs from an uncommitted state; another one goes on meanwhile."""
    h = make(slow_store=True)
    h.load()
    for cid in (1, 2):
        h.ask(cid, cid, start=True)
    h.send(1, 3)
    h.send(1, 4)
    h.loop.settle()

    h.send(2, 5)
    h.loop.settle()

    assert h.runtime.calls[2:] == [[1], [2]]
    h.settle()
    assert (h.state(1), h.state(2)) == (state_of([1, 3, 4]), state_of([2, 5]))


def test_a_full_store_fails_the_steps_and_changes_nothing(h) -> None:
    """The same steps succeed once there is room."""
    h.store.commit_faults.append(StorageFullError("the disk is full"))

    sent = [h.send(1, 3), h.send(2, 3)]
    h.settle()

    assert all(isinstance(s.error, StorageFullError) for s in sent)
    assert h.ask(1, 4).data[0] == chain_of([1, 4])
    assert h.state(2) == state_of([2])


@pytest.mark.parametrize("fault", [OSError("not written"), LOST], ids=["not written", "written"])
def test_an_unknown_outcome_is_cleared_up_by_the_same_commit(h, fault) -> None:
    """Ok or Duplicate: either way the step is applied once and answered once."""
    h.store.commit_faults.append(fault)

    sent = h.send(1, 3)
    h.settle()
    assert not sent.answered
    h.pass_time(0.25)

    assert (sent.reply.step, sent.reply.data[0]) == (2, chain_of([1, 3]))
    assert h.store.batches[-1] == h.store.batches[-2]
    assert h.state() == state_of([1, 3])
    assert h.ask(1, 4).data[0] == chain_of([1, 3, 4])
    assert h.engine.models()[0].statistics.applied == 4


def test_a_lost_answer_to_a_first_step_still_counts_the_sequence(h) -> None:
    """Opened and ended once each, also when learnt from a Duplicate."""
    handle = h.engine.model("m")
    h.store.commit_faults.append(LOST)

    sent = h.send(5, 3, start=True, end=True)
    h.pass_time(0.5)

    assert sent.reply.step == 1
    assert (handle.statistics.opened, handle.statistics.ended["ended"]) == (3, 1)
    assert h.runtime.ended == [(5, EndReason.ENDED)]
    assert h.engine.tables["m"].creating == 0


@pytest.mark.parametrize("written", [False, True])
def test_three_unknown_outcomes_give_up_and_the_retry_finds_the_truth(h, written) -> None:
    """The copy is dropped, the record is read again, and a numbered retry is safe."""
    h.store.commit_faults.extend([LOST if written else OSError("x"), OSError("y"), OSError("z")])

    sent, behind = h.send(1, 3, number=2), h.send(1, 4)
    h.pass_time(1.0)

    assert isinstance(sent.error, StoreUnavailableError)
    assert sent.error.retry_after_s > 0
    assert behind.reply.step == (3 if written else 2)
    assert h.state() == state_of([1, 3, 4] if written else [1, 4])


@pytest.mark.parametrize("written", [False, True])
def test_the_retry_of_a_step_of_unknown_outcome_finds_the_truth(h, written) -> None:
    """Applied once, whether the record had it or not."""
    h.store.commit_faults.extend([LOST if written else OSError("x"), OSError("y"), OSError("z")])
    sent = h.send(1, 3, number=2)
    h.pass_time(1.0)
    assert isinstance(sent.error, StoreUnavailableError)

    again = h.ask(1, 3, number=2)

    assert (again.replayed, again.data[0]) == (written, chain_of([1, 3]))
    assert h.state() == state_of([1, 3])


def test_a_number_taken_by_an_unnumbered_step_is_not_answered_with_its_reply(h) -> None:
    """A numbered step without a request id is no repeat of an unnumbered one."""
    h.ask(1, 4)

    error = h.ask(1, 3, number=2)

    assert isinstance(error, ClientError)
    assert error.expected_step == 3
    assert h.state() == state_of([1, 4])


def test_two_nodes_with_equal_unnumbered_steps_both_apply_theirs(make) -> None:
    """The loser of the race decides again; it does not take the other's commit for its own."""
    first = make()
    second = make(store=first.store, owner="other node")
    for node in (first, second):
        node.load()
    first.ask(1, 1, start=True)
    first.ask(1, 2)
    first.clock.advance(1.0)
    assert second.ask(1, 3).step == 3
    first.clock.advance(1.0)

    reply = first.ask(1, 3)

    assert (reply.step, reply.data[0]) == (4, chain_of([1, 2, 3, 3]))


def test_giving_up_on_a_first_step_frees_its_place(make) -> None:
    """The limit on live sequences counts what the store holds."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.store.commit_faults.extend([OSError("x")] * 3)
    sent = h.send(1, 1, start=True, dialect=NATIVE)
    h.pass_time(1.0)

    assert isinstance(sent.error, StoreUnavailableError)
    assert h.ask(2, 1, start=True, dialect=NATIVE).step == 1


@pytest.mark.parametrize("verdict", [Fenced(9, 1), Conflict(7), Gone(None)])
def test_a_commit_that_was_refused_is_decided_again(h, verdict) -> None:
    """The copy is dropped, the record read, and the step applied to what is there."""
    h.store.commit_faults.append(lambda batch: [verdict for _ in batch])

    reply = h.ask(1, 3)

    assert (reply.step, reply.data[0]) == (2, chain_of([1, 3]))
    assert h.state() == state_of([1, 3])


def test_a_refused_commit_fails_no_neighbour(h) -> None:
    """D6: each entry of a batch is decided by itself."""

    def refuse_first(batch):
        return [Fenced(9, 1), *FailingStore.commit(h.store, batch[1:])]

    h.store.commit_faults.append(refuse_first)

    sent = [h.send(1, 3), h.send(2, 3)]
    h.settle()

    assert [s.reply.step for s in sent] == [2, 2]
    assert (h.state(1), h.state(2)) == (state_of([1, 3]), state_of([2, 3]))


def test_a_step_that_never_wins_is_told_to_come_back(h) -> None:
    """Deciding again is bounded; the sequence goes on."""
    h.store.commit_faults.extend([lambda batch: [Conflict(7) for _ in batch]] * 9)

    error = h.ask(1, 3)

    assert isinstance(error, BusyError)
    assert error.retry_after_s > 0
    assert h.ask(1, 4).data[0] == chain_of([1, 4])


def test_a_sequence_deleted_behind_the_engine_is_gone(h) -> None:
    """The step finds it out by its commit and is told how it ended (D7)."""
    head, _ = h.stored()
    h.store.delete(KEY, head.incarnation, EndReason.EVICTED)

    error = h.ask(1, 3)

    assert isinstance(error, UnknownSequenceError)
    assert error.ending.reason is EndReason.EVICTED
    assert h.stored() is None


def test_another_node_may_move_a_sequence_between_two_steps(h) -> None:
    """A step decided on an old copy is decided again on the record."""
    owned = h.store.acquire(KEY, "other node")
    entry = h.store.batches[0][0]._replace(
        epoch=owned.head.epoch, step=2, create=False, state=state_of([1, 9]),
        receipts=(Receipt(2, b"", b"theirs..", b""),),
    )  # fmt: skip
    h.store.commit([entry])
    h.clock.advance(1.0)

    reply = h.ask(1, 3)

    assert (reply.step, reply.data[0]) == (3, chain_of([1, 9, 3]))


def test_a_number_refused_by_an_old_copy_is_looked_up_in_the_record(h) -> None:
    """Only a mismatch with a fresh record goes to a client."""
    owned = h.store.acquire(KEY, "other node")
    entry = h.store.batches[0][0]._replace(
        epoch=owned.head.epoch, step=2, create=False, state=state_of([1, 9]),
        receipts=(Receipt(2, b"", b"theirs..", b""),),
    )  # fmt: skip
    h.store.commit([entry])
    h.clock.advance(1.0)

    reply = h.ask(1, 3, number=3)

    assert reply.data[0] == chain_of([1, 9, 3])


def test_a_sequence_held_by_another_node_is_busy(h) -> None:
    """With the owner named and a time to come back."""
    h.engine.release(KEY)
    h.store.acquire_faults.append(Held("node-b"))

    error = h.ask(1, 3)

    assert isinstance(error, BusyError)
    assert "node-b" in str(error)
    assert error.retry_after_s > 0
    assert h.ask(1, 3).step == 2


def test_a_damaged_record_is_refused_and_the_others_go_on(h) -> None:
    """Never continued with an empty state."""
    h.engine.release(KEY)
    h.store.acquire_faults.append(Damaged("checksum"))

    sent = [h.send(1, 3), h.send(2, 3)]
    h.settle()

    assert isinstance(sent[0].error, StateDamagedError)
    assert "checksum" in str(sent[0].error)
    assert sent[1].reply.step == 2


def test_a_store_that_cannot_be_read_fails_the_waiting_steps(h) -> None:
    """Later ones try again."""
    h.engine.release(KEY)
    h.store.acquire_faults.append(OSError("gone"))

    assert isinstance(h.ask(1, 3), StoreUnavailableError)
    assert h.ask(1, 3).step == 2


def test_a_refused_client_that_sends_again_at_once_is_not_looped(h) -> None:
    """Each answer is to one step; the next one asks the store anew."""
    h.engine.release(KEY)
    h.store.acquire_faults.extend([OSError("gone")] * 3)
    outcomes = []

    def retry(outcome):
        outcomes.append(outcome)
        if isinstance(outcome, StoreUnavailableError):
            h.send(1, 3, then=retry)

    h.send(1, 3, then=retry)
    h.settle()

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * 3 + [Reply]
    assert h.state() == state_of([1, 3])


def test_a_fatal_error_of_the_store_ends_the_process(h) -> None:
    """No retry, no reply: recovery decides what survived."""
    error = OSError("fdatasync")
    error.fatal = True
    h.store.commit_faults.append(error)

    sent = h.send(1, 3)
    h.pass_time(0.5)

    assert h.fatal == [error]
    assert not sent.answered
    assert len(h.store.batches) == 3


def test_a_fatal_error_is_seen_wherever_it_comes_up(h) -> None:
    """Fetching a sequence and sweeping call the store, too."""
    fatal = [OSError("a"), OSError("b")]
    for error in fatal:
        error.fatal = True
    h.engine.release(KEY)
    h.store.acquire_faults.append(fatal[0])
    h.ask(1, 3)
    h.store.sweep_faults.append(fatal[1])

    h.pass_time(1.0)
    h.settle()

    assert h.fatal == fatal


def test_an_output_that_no_receipt_can_hold_fails_its_step_alone(h, monkeypatch) -> None:
    """The neighbour is committed."""
    encode = ReplyEncoder.encode

    def picky(self, headers, data):
        if data[0] == chain_of([1, 3]):
            raise ValueError("too large")
        return encode(self, headers, data)

    monkeypatch.setattr(ReplyEncoder, "encode", picky)

    sent = [h.send(1, 3), h.send(2, 3)]
    h.settle()

    assert sent[0].error.code == "internal"
    assert sent[1].reply.step == 2
    assert h.ask(1, 4).data[0] == chain_of([1, 4])


def test_a_receipt_that_cannot_be_read_is_damage(h) -> None:
    """Never an empty reply."""
    h.ask(1, 3, number=2)
    head, _state = h.stored()
    receipt = head.receipts[-1]._replace(response=b"garbage")
    h.engine.tables["m"].sequences[1].head.receipts = (receipt,)

    assert isinstance(h.ask(1, 3, number=2), StateDamagedError)
    assert h.ask(1, 4).step == 3
