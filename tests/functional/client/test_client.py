"""The client against a real server: steps, streams, errors, ends, and going on elsewhere."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import legato

ONES = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def client(server):
    with legato.Client(server.address) as client:
        yield client


def test_bare_arrays_go_in_and_come_out(client) -> None:
    """A model of one input and one output needs no names."""
    with client.sequence("accumulator") as seq:
        first = seq.step([1, 2, 3, 4])
        second = seq.step(ONES)

        assert first.tolist() == [[1, 2, 3, 4]]
        assert second.tolist() == [[2, 3, 4, 5]]
        assert (seq.last.step, seq.last.replayed, seq.step_number) == (2, False, 2)


def test_names_go_in_and_come_out(client) -> None:
    """A mapping is answered with a mapping."""
    with client.sequence("accumulator", "named", outputs=["y"]) as seq:
        outputs = seq.step({"x": ONES})

        assert list(outputs) == ["y"]
        assert (outputs.step, outputs.version) == (1, "1")


@pytest.mark.parametrize(("model", "window"), [("accumulator", 1), ("deep", 8)])
def test_stream_answers_every_chunk_in_order(client, model, window) -> None:
    """Also with several steps under way at once."""
    chunks = [np.full(4, index) for index in range(40)]

    with client.sequence(model, window=window) as seq:
        sums = [y[0, 0] for y in seq.stream(chunks, end=True)]

    assert sums == [sum(range(index + 1)) for index in range(40)]


def test_last_step_ends_the_sequence(client) -> None:
    """The next one begins anew under the same id; the old one is told what happened."""
    with client.sequence("accumulator", "ends") as seq:
        seq.step(ONES)
        ended = seq.end(ONES)
        with pytest.raises(legato.SequenceError, match="takes no more steps"):
            seq.step(ONES)
    with (
        client.resume("accumulator", "ends", 2) as late,
        pytest.raises(legato.SequenceGoneError) as caught,
    ):
        late.step(ONES)
    with client.sequence("accumulator", "ends") as again:
        fresh = again.end(ONES)

    assert ended.tolist() == [[2, 2, 2, 2]]
    assert caught.value.reason == "ended"
    assert fresh.tolist() == [[1, 1, 1, 1]]


def test_sequence_goes_on_elsewhere(client, server) -> None:
    """Id and step number are all that another client needs."""
    with client.sequence("accumulator", "moves", keep=True) as seq:
        seq.step(ONES)
        at, incarnation = seq.step_number, seq.incarnation

    with (
        legato.Client(server.address) as other,
        other.resume("accumulator", "moves", at, incarnation=incarnation) as seq,
    ):
        assert seq.step(ONES).tolist() == [[2, 2, 2, 2]]


def test_leaving_the_block_ends_the_sequence(client) -> None:
    """Its id is free again, and a late step is told what happened."""
    with client.sequence("accumulator", "left") as seq:
        seq.step(ONES)
    with (
        pytest.raises(legato.SequenceGoneError) as caught,
        client.resume("accumulator", "left", 1) as late,
    ):
        late.step(ONES)
    with client.sequence("accumulator", "left") as again:
        fresh = again.step(ONES)

    assert caught.value.reason == "ended"
    assert fresh.tolist() == [[1, 1, 1, 1]]


def test_sequence_left_by_an_exception_can_be_resumed(client) -> None:
    """Nothing that was paid for is thrown away by an accident."""
    with (
        pytest.raises(legato.InvalidInputError),
        client.sequence("accumulator", "accident") as seq,
    ):
        for _y in seq.stream([ONES, np.ones(5)]):
            pass

    with client.resume("accumulator", "accident") as seq:
        assert seq.step_number == 1
        assert seq.step(ONES).tolist() == [[2, 2, 2, 2]]


def test_resumed_without_a_step_it_goes_on_where_the_server_is(client) -> None:
    """The server is asked; a sequence that is over is told at once."""
    with client.sequence("accumulator", 77, keep=True) as seq:
        seq.step(ONES)
        seq.step(ONES)
    with client.resume("accumulator", 77) as again:
        third = again.step(ONES)
        same = again.incarnation == seq.incarnation
    with pytest.raises(legato.SequenceGoneError) as over, client.resume("accumulator", 77):
        pass
    with pytest.raises(legato.SequenceGoneError) as never, client.resume("accumulator", "77"):
        pass

    assert third.tolist() == [[3, 3, 3, 3]]
    assert same
    assert (over.value.reason, never.value.reason) == ("ended", "unknown_sequence")


def test_end_without_a_step_spares_a_later_sequence_of_the_id(client) -> None:
    """Only the incarnation that was stepped is ended, now or never."""
    first = client.sequence("accumulator", "twice")
    first.step(ONES)
    with client.sequence("accumulator", "twice", restart=True, keep=True) as second:
        second.step(ONES)

    first.end()
    first.end()
    alive = client.resume("accumulator", "twice").step(ONES)
    client.resume("accumulator", "twice").end()

    assert alive.tolist() == [[2, 2, 2, 2]]
    with pytest.raises(legato.SequenceGoneError):
        client.resume("accumulator", "twice").step(ONES)


def test_idle_limit_and_durability_are_chosen_at_the_start(client) -> None:
    """Every answer says what it survives; the limit is the sequence's own."""
    with client.sequence("accumulator", "chosen", idle_timeout_s=0.3, durability="disk") as seq:
        seq.step(ONES)
        told = seq.last.durability
        with client.sequence("accumulator") as other:
            other.step(ONES)
            usual = other.last.durability
        time.sleep(0.8)
        with pytest.raises(legato.SequenceGoneError) as caught:
            seq.step(ONES)

    assert (told, usual) == ("disk", "process")
    assert caught.value.reason == "expired"


def test_window_larger_than_what_the_model_keeps_is_refused(client) -> None:
    """The server tells how many answers it keeps."""
    with (
        pytest.raises(legato.InvalidInputError, match="keeps 1 "),
        client.sequence("accumulator", window=8),
    ):
        pass

    assert client.model("deep").receipts == 8


def test_refused_step_leaves_the_stream_as_it_is(client) -> None:
    """The server tells the status in the message; nothing has to be connected again."""
    with client.sequence("picky") as seq:
        seq.step([[5]])
        call = seq._pilot._call
        with pytest.raises(legato.ModelFailedError) as caught:
            seq.step([[99]])
        seq.step([[1]])

        assert seq._pilot._call is call
    assert (caught.value.code, caught.value.reason) == ("INTERNAL", "model_failed")


def test_step_under_way_at_a_crash_of_the_client_can_be_asked_again(client) -> None:
    """With the prefix of before, the same input is the same request."""
    with client.sequence("accumulator", "crash", keep=True) as seq:
        seq.step(ONES)
        applied = seq.step(ONES)
        prefix = seq.prefix

    with client.resume("accumulator", "crash", 1, prefix=prefix) as seq:  # ends it in the end
        again = seq.step(ONES)

        assert again.tolist() == applied.tolist()
        assert seq.last.replayed
        assert seq.step(ONES).tolist() == [[3, 3, 3, 3]]


def test_two_clients_of_a_sequence_do_not_mix(client) -> None:
    """The second one is told that the step is taken, and which is next."""
    with client.sequence("accumulator", "both", keep=True) as seq:
        seq.step(ONES)
        seq.step(ONES)

    with (
        client.resume("accumulator", "both", 1) as other,
        pytest.raises(legato.StepConflictError) as caught,
    ):
        other.step(ONES)

    assert caught.value.reason == "step_taken"
    assert caught.value.expected_step == 3


def test_live_id_is_not_taken_over_unless_asked(client) -> None:
    """A second beginning under the same id is refused; a restart is not."""
    with client.sequence("accumulator", "taken", keep=True) as seq:
        seq.step(ONES)
    with (
        client.sequence("accumulator", "taken") as second,
        pytest.raises(legato.StepConflictError),
    ):
        second.step(ONES)
    with client.sequence("accumulator", "taken", restart=True) as third:
        assert third.step(ONES).tolist() == [[1, 1, 1, 1]]


def test_failing_step_leaves_the_sequence_as_it_was(client) -> None:
    """The error is typed, and the next step is applied to the state of before."""
    with client.sequence("picky") as seq:
        before = seq.step([[5]])
        with pytest.raises(legato.ModelFailedError) as caught:
            seq.step([[99]])
        after = seq.step([[1]])

    assert caught.value.code == "INTERNAL"
    assert after - before == 1


def test_unknown_model_and_wrong_input_are_told_at_once(client) -> None:
    """The first on entering, the second before anything is sent."""
    with pytest.raises(legato.UnknownModelError, match="'nothing'"), client.sequence("nothing"):
        pass
    with (
        client.sequence("accumulator") as seq,
        pytest.raises(legato.InvalidInputError, match=r"x: FP32\[-1,4\]"),
    ):
        seq.step(np.ones(5))


def test_absent_server_is_given_up(client) -> None:
    """After ``retry_for_s``, with words about the connection."""
    with (
        legato.Client("127.0.0.1:1", retry_for_s=0.5) as nobody,
        pytest.raises(legato.UnavailableError, match=r"no connection to 127\.0\.0\.1:1"),
        nobody.sequence("accumulator"),
    ):
        pass


def test_many_threads_share_a_client_and_its_connections(server) -> None:
    """Sequences spread over as many connections as the limit asks for."""

    def one(client: legato.Client, index: int) -> bool:
        with client.sequence("accumulator") as seq:
            sums = [seq.step(np.full(4, index))[0, 0] for _step in range(5)]
            connections.append(client._made.connections)
        return sums == [index * (step + 1) for step in range(5)]

    connections: list[int] = []
    with (
        legato.Client(server.address, streams_per_connection=4) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        right = list(pool.map(lambda index: one(client, index), range(48)))

    assert all(right)
    assert 2 <= max(connections) <= 13


def test_threads_may_share_a_sequence(client) -> None:
    """Each step gets a number of its own; none is lost."""
    with client.sequence("accumulator") as seq, ThreadPoolExecutor(8) as pool:
        sums = sorted(pool.map(lambda _index: seq.step(ONES)[0, 0], range(64)))

    assert sums == list(range(1, 65))


def test_closed_client_says_so(server) -> None:
    """Nothing hangs, nothing is sent."""
    with legato.Client(server.address) as client, client.sequence("accumulator") as seq:
        seq.step(ONES)
        client.close()

        with pytest.raises(legato.SequenceError, match="closed"):
            seq.step(ONES)


async def test_asyncio_does_the_same(server) -> None:
    """``async with``, ``async for``, hundreds of sequences at once."""

    async def chunks(index: int):
        for _step in range(5):
            yield np.full(4, index)

    async def one(client: legato.AsyncClient, index: int) -> list[float]:
        async with client.sequence("accumulator") as seq:
            return [y[0, 0] async for y in seq.stream(chunks(index), end=True)]

    async with legato.AsyncClient(server.address) as client:
        info = await client.model("accumulator")
        sums = await asyncio.gather(*(one(client, index) for index in range(200)))

    assert info.batched
    assert sums == [[index * (step + 1) for step in range(5)] for index in range(200)]


async def test_asyncio_ends_what_it_leaves(server) -> None:
    """Unless it is told to keep it, or leaves by an exception."""
    async with legato.AsyncClient(server.address) as client:
        async with client.sequence("accumulator", "aleft") as seq:
            async for _y in seq.stream([ONES] * 3):
                break
        async with client.sequence("accumulator", "akept", keep=True) as seq:
            await seq.step(ONES)
        kept = client.resume("accumulator", "akept")
        second = await kept.step(ONES)
        await kept.end()
        for name in ("aleft", "akept"):
            with pytest.raises(legato.SequenceGoneError):
                await client.resume("accumulator", name).step(ONES)

    assert second.tolist() == [[2, 2, 2, 2]]


async def test_asyncio_goes_on_elsewhere(server) -> None:
    """A sequence begun by one client is ended by another."""
    async with legato.AsyncClient(server.address) as client:
        async with client.sequence("accumulator", "async", keep=True) as seq:
            await seq.step(ONES)
        async with client.resume("accumulator", "async") as seq:
            ended = await seq.end(ONES)
            assert await seq.retry() == []
        with pytest.raises(legato.SequenceGoneError):
            await client.resume("accumulator", "async").step(ONES)

    assert ended.tolist() == [[2, 2, 2, 2]]
