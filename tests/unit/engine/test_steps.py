"""The life of a step: order, batching, starts, ends, repeats, isolation."""

from __future__ import annotations

import numpy as np
import pytest

from doubles import FAIL_ROW, NAN, RAISE_BATCH, WRONG_SHAPE, EchoRuntime, chain_of, state_of
from legato.core.errors import (
    InputError,
    MissingIdError,
    ModelError,
    PoisonError,
    SequenceExistsError,
    StepAppliedError,
    StepGapError,
    StoreUnavailableError,
    UnknownModelError,
    UnknownSequenceError,
)
from legato.core.types import KSERVE, NATIVE, TFSERVING, TORCHSERVE, EndReason


def test_steps_of_one_sequence_run_in_order_one_at_a_time(make) -> None:
    """Steps sent together are applied one by one in the order they were sent."""
    h = make()
    h.load()

    sent = [h.send(1, x, start=x == 0) for x in range(5)]
    h.settle()

    assert [s.reply.step for s in sent] == [1, 2, 3, 4, 5]
    assert h.runtime.calls == [[1]] * 5
    assert h.state() == state_of([0, 1, 2, 3, 4])


def test_steps_of_different_sequences_share_a_call(make) -> None:
    """What arrives in one turn of the loop runs in one batch, committed in one call."""
    h = make()
    h.load()

    for cid in range(1, 9):
        h.send(cid, cid, start=True)
    h.settle()

    assert h.runtime.calls == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert len(h.store.batches) == 1
    assert [h.state(cid) for cid in range(1, 9)] == [state_of([cid]) for cid in range(1, 9)]


def test_a_batch_is_never_larger_than_allowed(make) -> None:
    """More ready steps than max_batch_size make several calls, oldest first."""
    h = make()
    h.load(max_batch_size=3)

    for cid in range(1, 9):
        h.send(cid, start=True)
    h.settle()

    assert h.runtime.calls == [[1, 2, 3], [4, 5, 6], [7, 8]]


def test_a_model_that_cannot_batch_runs_row_by_row(make) -> None:
    """A signature without batching makes calls of one row."""
    import dataclasses

    from doubles import CHAIN_SIGNATURE, ChainRuntime

    h = make(runtimes=lambda: ChainRuntime(dataclasses.replace(CHAIN_SIGNATURE, batching=False)))
    h.load()

    for cid in (1, 2):
        h.send(cid, start=True)
    h.settle()

    assert h.runtime.calls == [[1], [2]]


def test_a_number_and_its_text_are_two_sequences(make) -> None:
    """7 and "7" are kept apart."""
    h = make()
    h.load()

    h.ask(7, 1, start=True)
    h.ask("7", 2, start=True)

    assert (h.state(7), h.state("7")) == (state_of([1]), state_of([2]))


def test_the_reply_carries_the_outputs_and_the_facts(make) -> None:
    """Outputs in declared order, number, version, incarnation and level."""
    h = make()
    h.load(version="3")

    reply = h.ask(1, 4, start=True)

    assert [(o.name, o.dtype, o.shape) for o in reply.headers] == [
        ("link", "uint8", (1, 16)),
        ("count", "float32", (2, 1)),
    ]
    assert reply.data == (chain_of([4]), np.ones(2, np.float32).tobytes())
    assert (reply.step, reply.version, reply.replayed) == (1, "3", False)
    assert reply.incarnation == h.stored()[0].incarnation
    assert reply.durability == "none"


def test_only_the_outputs_asked_for_come_back(make) -> None:
    """Outputs are given in the order asked."""
    h = make()
    h.load()

    reply = h.ask(1, 4, start=True, outputs=("count",))

    assert [o.name for o in reply.headers] == ["count"]
    assert reply.data == (np.ones(2, np.float32).tobytes(),)


def test_an_unknown_output_is_refused_before_anything_runs(make) -> None:
    """The error names what there is."""
    h = make()
    h.load()

    error = h.ask(1, start=True, outputs=("nope",))

    assert isinstance(error, InputError)
    assert error.reason == "unknown_output"
    assert h.runtime.calls == []


# -- starts and ends --------------------------------------------------


def test_a_step_after_the_end_is_unknown_and_told_why(make) -> None:
    """END keeps a tombstone: the next step learns how and where the sequence ended."""
    h = make()
    h.load()

    sent = [h.send(1, 1, start=True), h.send(1, 2, end=True), h.send(1, 3)]
    h.settle()

    assert [s.reply.step for s in sent[:2]] == [1, 2]
    error = sent[2].error
    assert isinstance(error, UnknownSequenceError)
    assert (error.ending.reason, error.ending.step) == (EndReason.ENDED, 2)
    assert h.stored() is None


def test_a_sequence_may_begin_and_end_with_one_step(make) -> None:
    """START and END together: one reply, nothing left."""
    h = make()
    handle = h.load()

    reply = h.ask(1, 5, start=True, end=True)

    assert reply.data[0] == chain_of([5])
    assert h.stored() is None
    assert (handle.statistics.opened, handle.statistics.ended["ended"]) == (1, 1)
    assert h.runtime.ended == [(1, EndReason.ENDED)]


def test_an_ended_id_can_be_started_again_at_once(make) -> None:
    """Steps queued behind END may begin the next sequence of the id."""
    h = make()
    h.load()

    sent = [
        h.send(1, 1, start=True, end=True),
        h.send(1, 2, start=True),
        h.send(1, 3),
    ]
    h.settle()

    assert [s.reply.step for s in sent] == [1, 1, 2]
    assert sent[0].reply.incarnation != sent[1].reply.incarnation
    assert h.state() == state_of([2, 3])


def test_start_of_a_live_id_restarts_in_kserve(make) -> None:
    """Steps queued before the START still belong to the old sequence."""
    h = make()
    handle = h.load()
    h.ask(1, 1, start=True)

    sent = [h.send(1, 2), h.send(1, 3, start=True), h.send(1, 4)]
    h.settle()

    assert [s.reply.step for s in sent] == [2, 1, 2]
    assert sent[0].reply.data[0] == chain_of([1, 2])
    assert h.state() == state_of([3, 4])
    assert handle.statistics.ended["displaced"] == 1


@pytest.mark.parametrize("dialect", [TFSERVING, NATIVE], ids=lambda d: d.name)
def test_start_of_a_live_id_is_refused_elsewhere(make, dialect) -> None:
    """The live sequence is untouched."""
    h = make()
    h.load()
    h.ask(1, 1, start=True, dialect=dialect)

    error = h.ask(1, 2, start=True, dialect=dialect)

    assert isinstance(error, SequenceExistsError)
    assert error.expected_step == 2
    assert h.state() == state_of([1])


def test_a_restart_that_fails_leaves_the_old_sequence(make) -> None:
    """The old incarnation goes on as if the START had not come."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)

    failed = h.ask(1, 2, RAISE_BATCH, start=True)
    reply = h.ask(1, 3)

    assert isinstance(failed, ModelError)
    assert (reply.step, reply.data[0]) == (2, chain_of([1, 3]))


def test_a_step_of_an_unknown_id_is_refused(make) -> None:
    """Nothing is opened by accident, and nothing stays in memory."""
    h = make()
    h.load()

    error = h.ask(5, 1)

    assert isinstance(error, UnknownSequenceError)
    assert h.stored(5) is None
    assert h.engine.tables["m"].sequences == {}


def test_torchserve_opens_an_unknown_id(make) -> None:
    """The dialect needs no START."""
    h = make()
    h.load()

    assert h.ask("a", 1, dialect=TORCHSERVE).step == 1
    assert h.ask("a", 2, dialect=TORCHSERVE).step == 2


@pytest.mark.parametrize("missing", [None, 0, ""])
def test_a_missing_id_is_refused_in_kserve(make, missing) -> None:
    """0, "" and none at all are the same."""
    h = make()
    h.load()

    assert isinstance(h.ask(missing, 1, start=True), MissingIdError)


def test_an_id_has_a_longest_length(make) -> None:
    """A text that no path and no listing could carry names no sequence."""
    h = make()
    h.load()

    error = h.ask("\u00e9" * 501, 1, start=True)

    assert error.code == "invalid_argument"
    assert "1000 bytes" in str(error)
    assert h.ask("\u00e9" * 500, 1, start=True).step == 1


def test_the_server_gives_ids_and_passes_over_those_in_use(make) -> None:
    """Ids count up from 1; an id that a client took itself is not given."""
    h = make()
    h.load()
    h.ask(2, 1, start=True, dialect=NATIVE)

    given = [h.ask(None, 1, start=True, dialect=NATIVE).correlation_id for _ in range(3)]

    assert given == [1, 3, 4]


def test_the_server_gives_ids_from_a_slow_store_too(make) -> None:
    """A store in a thread is asked in turn, never from the event loop."""
    h = make(slow_store=True)
    h.load()
    h.ask(1, 1, start=True, dialect=NATIVE)
    looked_up = []
    read = h.store.read
    h.store.read = lambda key: looked_up.append(key) or read(key)

    sent = h.send(None, 1, start=True, dialect=NATIVE)

    assert looked_up == []
    h.settle()
    assert sent.reply.correlation_id == 2


def test_a_given_id_needs_a_start(make) -> None:
    """A step of no sequence without START is a mistake, not a new sequence."""
    h = make()
    h.load()

    assert isinstance(h.ask(None, 1, dialect=NATIVE), MissingIdError)
    assert h.ask(None, 1, dialect=TORCHSERVE).correlation_id == 1


# -- exactly once --------------------------------------------------


def test_a_repeat_gets_the_same_bytes_and_changes_nothing(make) -> None:
    """The second reply differs only in ``replayed``."""
    h = make()
    handle = h.load()
    h.ask(1, 1, start=True)

    first = h.ask(1, 2, number=2, request_id="r")
    again = h.ask(1, 2, number=2, request_id="r")

    assert (again.headers, again.data, again.step) == (first.headers, first.data, 2)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.incarnation == first.incarnation
    assert h.state() == state_of([1, 2])
    assert handle.statistics.replayed == 1


def test_a_repeat_in_flight_joins_the_first(make) -> None:
    """Two equal requests at once: one commit, both get the reply."""
    h = make()
    h.load()

    sent = [h.send(1, 1, start=True, number=1, request_id="r") for _ in range(2)]
    h.settle()

    assert sent[0].reply.data == sent[1].reply.data
    assert h.runtime.calls == [[1]]


def test_a_retried_end_gets_its_reply(make) -> None:
    """The receipts of an ended sequence outlive it."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)
    first = h.ask(1, 2, end=True, number=2)

    again = h.ask(1, 2, end=True, number=2)

    assert (again.data, again.replayed) == (first.data, True)


def test_a_gap_and_a_stale_number_say_what_is_expected(make) -> None:
    """Neither is applied."""
    h = make()
    h.load()
    for x in range(3):
        h.ask(1, x, start=x == 0)

    gap = h.ask(1, 9, number=6)
    stale = h.ask(1, 9, number=1)

    assert isinstance(gap, StepGapError)
    assert isinstance(stale, StepAppliedError)
    assert gap.expected_step == stale.expected_step == 4
    assert "4" in str(gap)
    assert "4" in str(stale)
    assert h.state() == state_of([0, 1, 2])


def test_more_receipts_are_kept_where_asked_for(make) -> None:
    """``receipts: 3`` answers repeats of the last three steps."""
    h = make()
    h.load(sequences={"receipts": 3})
    first = [h.ask(1, x, start=x == 0, number=x + 1) for x in range(4)]

    again = [h.ask(1, x, number=x + 1) for x in (3, 2, 1)]

    assert [a.data for a in again] == [first[3].data, first[2].data, first[1].data]
    assert isinstance(h.ask(1, 0, number=1), StepAppliedError)


def test_dedupe_makes_the_request_id_the_name_of_a_step(make) -> None:
    """``dedupe: request_id`` answers an unnumbered repeat from its receipt."""
    h = make()
    h.load(sequences={"dedupe": "request_id"})
    h.ask(1, 1, start=True, request_id="a")

    first = h.ask(1, 2, request_id="b")
    again = h.ask(1, 2, request_id="b")

    assert (again.data, again.replayed) == (first.data, True)
    assert h.state() == state_of([1, 2])


def test_without_dedupe_an_equal_request_id_is_a_new_step(make) -> None:
    """Clients of old protocols reuse ids."""
    h = make()
    h.load()
    h.ask(1, 1, start=True, request_id="a")

    h.ask(1, 1, request_id="a")

    assert h.state() == state_of([1, 1])


def test_a_level_that_the_store_cannot_reach_is_refused(make) -> None:
    """It is not silently lowered: the sequence does not begin."""
    h = make()
    h.load()

    refused = h.ask(1, 1, start=True, number=1, level="disk")

    assert isinstance(refused, StoreUnavailableError)
    assert isinstance(h.ask(1, 1, number=2), UnknownSequenceError)


def test_the_replay_of_a_memory_store_promises_no_durability(make) -> None:
    """What is kept in memory says so, the first time and again."""
    h = make()
    h.load()
    first = h.ask(1, 1, start=True, number=1)

    again = h.ask(1, 1, start=True, number=1)

    assert again.replayed
    assert first.durability == again.durability == "none"


# -- isolation --------------------------------------------------


@pytest.mark.parametrize("mode", [RAISE_BATCH, FAIL_ROW, NAN, WRONG_SHAPE])
def test_a_bad_row_fails_alone(make, mode) -> None:
    """Its neighbours never notice and its own sequence is as it was (D6)."""
    h = make()
    h.load()
    for cid in (1, 2, 3):
        h.ask(cid, cid, start=True)

    sent = [h.send(1, 10), h.send(2, 10, mode), h.send(3, 10)]
    h.settle()

    assert isinstance(sent[1].error, ModelError)
    assert [h.state(cid) for cid in (1, 2, 3)] == [
        state_of([1, 10]),
        state_of([2]),
        state_of([3, 10]),
    ]
    assert h.ask(2, 11).data[0] == chain_of([2, 11])


def test_a_poisoned_step_is_named_as_such(make) -> None:
    """NaN in the next state is a PoisonError, unless that is turned off."""
    h = make()
    h.load()
    h.load("trusting", reject_non_finite=False)

    assert isinstance(h.ask(1, 1, NAN, start=True), PoisonError)
    assert h.stored() is None
    assert h.ask(1, 1, NAN, start=True, model="trusting").step == 1


def test_a_model_that_exits_is_a_failed_step(make) -> None:
    """``sys.exit`` in a model stops neither the server nor its neighbours."""
    h = make()
    h.load()
    step = h.runtime.step

    def leave(batch):
        if 13 in batch.inputs["x"]:
            raise SystemExit(3)
        return step(batch)

    h.runtime.step = leave
    sent = [h.send(1, 13, start=True), h.send(2, 1, start=True)]
    h.settle()

    assert isinstance(sent[0].error, ModelError)
    assert sent[1].reply.step == 1


def test_a_failed_step_can_be_sent_again_with_its_number(make) -> None:
    """The number was not taken."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)

    h.ask(1, 2, FAIL_ROW, number=2, request_id="r")

    assert h.ask(1, 2, number=2, request_id="r").step == 2


def test_steps_queued_behind_a_failed_one_go_on(make) -> None:
    """An unnumbered step behind a failure takes the number that was not used."""
    h = make()
    h.load()

    sent = [h.send(1, 1, start=True), h.send(1, 2, RAISE_BATCH), h.send(1, 3)]
    h.settle()

    assert isinstance(sent[1].error, ModelError)
    assert sent[2].reply.step == 2
    assert h.state() == state_of([1, 3])


def test_a_bad_input_is_refused_alone(make) -> None:
    """A wrong dtype reaches neither the model nor the neighbours."""
    h = make()
    h.load()

    sent = [
        h.send(1, inputs={"x": np.zeros((1, 1), np.float32)}, start=True),
        h.send(2, 1, start=True),
    ]
    h.settle()

    assert sent[0].error.reason == "dtype"
    assert sent[1].reply.step == 1
    assert h.runtime.calls == [[2]]


def test_inputs_that_are_no_arrays_harm_nobody(make) -> None:
    """Whatever a converter lets through, submit does not raise and the sequence goes on."""
    h = make()
    h.load()
    h.ask(1, 1, start=True)

    sent = [h.send(1, inputs={"x": "text"}), h.send(1, inputs={"x": 5}, number=2), h.send(1, 2)]
    h.settle()

    assert sent[0].error.code == sent[1].error.code == "internal"
    assert sent[2].reply.step == 2


def test_a_callback_that_raises_harms_nobody(make) -> None:
    """The other rows of its batch are answered and all sequences go on."""
    h = make()
    h.load()

    def broken(_outcome):
        raise RuntimeError("the stream is gone")

    sent = [h.send(1, 1, start=True, then=broken), h.send(2, 2, start=True)]
    h.settle()

    assert sent[1].reply.step == 1
    assert h.ask(1, 3).step == 2


def test_a_broken_hook_of_the_model_harms_nobody(make) -> None:
    """``sequence_ended`` may raise: its own step and the neighbours are still answered."""
    h = make()
    h.load()
    h.runtime.hook_raises = True

    sent = [h.send(1, 1, start=True, end=True), h.send(2, 2, start=True)]
    h.settle()

    assert [s.reply.step for s in sent] == [1, 1]
    assert h.ask(1, 3, start=True).step == 1


def test_a_callback_may_send_the_next_step_at_once(make) -> None:
    """Sent from inside the reply, it takes the next number, also behind an END."""
    h = make()
    h.load()
    later = []

    def go_on(_outcome):
        later.append(h.send(1, 2))

    def begin_again(_outcome):
        later.append(h.send(2, 2, start=True))

    h.send(1, 1, start=True, then=go_on)
    h.send(2, 1, start=True, end=True, then=begin_again)
    h.settle()

    assert [s.reply.step for s in later] == [2, 1]


# -- stateless models --------------------------------------------------


def test_a_stateless_model_needs_no_id_and_leaves_nothing(make) -> None:
    """Each step is a row of a batch, and nothing else."""
    h = make(runtimes=EchoRuntime)
    h.load()

    sent = [h.send(None, x, inputs={"x": np.array([[x]], np.int64)}) for x in (1, -1, 3)]
    h.settle()

    assert np.frombuffer(sent[2].reply.data[0], np.int64).tolist() == [6]
    assert sent[0].reply.step == 0
    assert sent[1].error.code == "model_failed"
    assert h.runtime.calls == [3]
    assert h.store.batches == []


def test_a_stateless_model_checks_its_inputs(make) -> None:
    """And names the version that is not there."""
    h = make(runtimes=EchoRuntime)
    h.load()

    assert h.ask(None, inputs={}).reason == "missing"
    assert isinstance(
        h.ask(None, inputs={"x": np.zeros((1, 1), np.int64)}, version="9"), UnknownModelError
    )


def test_an_unknown_model_is_refused(make) -> None:
    """By name."""
    h = make()

    assert isinstance(h.ask(1, model="nope"), UnknownModelError)


def test_what_the_model_is_told_of_each_row(make) -> None:
    """Id, number, start, end and the user's own parameters."""
    h = make()
    h.load()

    h.ask("a", 1, start=True, parameters={"k": 1}, dialect=KSERVE)
    h.ask("a", 2, end=True)

    first, last = h.runtime.rows[0][0], h.runtime.rows[1][0]
    assert (first.correlation_id, first.step, first.start, first.end) == ("a", 1, True, False)
    assert dict(first.parameters) == {"k": 1}
    assert (last.step, last.start, last.end) == (2, False, True)
