"""Handlers as people write them, packed by torch-model-archiver, run through the engine."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from legato.core.errors import ConfigError, StepQueueFullError
from legato.core.types import Reply
from legato.engine.workers import NoWorkerError
from legato.runtimes.torchserve.exchange import HandlerError, from_reply


@pytest.mark.parametrize("form", ["default", "tgz", "no-archive"])
async def test_published_example_sums(bench, archives, form: str) -> None:
    """1, 2, 3 on one sequence give 1, 3, 6, whatever the archive looks like."""
    await bench.load(archives("stateful_handler", form))

    answers = [(await bench.ask("a", number)).body for number in (1, 2, 3)]

    assert answers == [b"1", b"3", b"6"]


async def test_more_live_sequences_than_rows_and_than_cache_entries(bench, archives) -> None:
    """Twenty interleaved sequences in batches and an LRU of four: all sums are right."""
    handle = await bench.load(archives("stateful_handler"))
    totals = dict.fromkeys((f"s{number}" for number in range(20)), 0)

    for turn in range(1, 6):
        sums = await asyncio.gather(*[bench.total(s, n * turn) for n, s in enumerate(totals)])
        for number, sequence in enumerate(totals):
            totals[sequence] += number * turn
        assert sums == list(totals.values())

    assert max(at for at, n in enumerate(handle.statistics.batch_size.counts) if n) == 2  # four
    assert handle.statistics.retried_rows == 0


async def test_requests_of_one_sequence_wait_their_turn(bench, archives) -> None:
    """Sent at once, they are answered in order, and one too many is refused by itself."""
    await bench.load(archives("stateful_handler", maxSequenceJobQueueSize=5))

    sent = [bench.send("a", 1) for _ in range(10)]
    outcomes = await asyncio.gather(*sent)

    sums = [int(from_reply(one).body) for one in outcomes if isinstance(one, Reply)]
    refused = [one for one in outcomes if not isinstance(one, Reply)]
    assert sums == list(range(1, len(sums) + 1))
    assert len(sums) >= 6
    assert all(isinstance(one, StepQueueFullError) for one in refused)


async def test_one_bad_row_fails_alone(bench, archives) -> None:
    """The handler raises for the batch; neighbours are answered, nobody's state moves twice."""
    await bench.load(archives("stateful_handler"))
    await asyncio.gather(*[bench.total(s, 1) for s in "abcd"])

    outcomes = await asyncio.gather(*[bench.send(s, "x" if s == "b" else 1) for s in "abcd"])
    after = await asyncio.gather(*[bench.total(s, 1) for s in "abcd"])

    assert [isinstance(one, Reply) for one in outcomes] == [True, False, True, True]
    assert isinstance(outcomes[1], HandlerError)
    assert (outcomes[1].status, outcomes[1].message) == (503, "Prediction failed")
    assert after == [3, 2, 3, 3]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("raise", 503, "Prediction failed"),
        ("predict", 418, "teapot"),
        ("memory", 507, "Out of resources"),
        ("nolist", 503, "Invalid model predict output"),
        ("short", 503, "number of batch response mismatched"),
        ("object", 503, "Unsupported model output data type."),
    ],
)
async def test_errors_have_torchserves_codes_and_texts(
    bench, archives, body: str, status: int, message: str
) -> None:
    """The worker lives on, and the failed step did not happen."""
    await bench.load(archives("odd_handler"))
    before = bench.pids()

    error = await bench.fails("a", body)

    assert (error.status, error.message) == (status, message)
    assert (await bench.facts("a", "x"))["count"] == 1
    assert bench.pids() == before


async def test_handler_sees_its_context_and_sets_its_answer(bench, archives) -> None:
    """Ids go in; status, phrase, content type and headers come out."""
    await bench.load(archives("odd_handler"), ts_header_key_sequence_id="my_id")

    answer = await bench.ask("a", "meta")
    facts = await bench.facts("a", "x")

    assert (answer.status, answer.phrase, answer.content_type) == (201, "Made", "text/x")
    assert answer.headers == {"x-rows": "1"}
    assert facts["request"] == "request-2"
    assert facts["custom"] == "my_id"


async def test_parts_arrive_before_the_answer(bench, archives) -> None:
    """send_intermediate_predict_response speaks at once, and only to the row it is for."""
    await bench.load(archives("odd_handler"))
    parts: list[tuple[bytes, str]] = []

    answer = await bench.ask(
        "a", "parts", partial=lambda b, meta: parts.append((b, meta["headers"]["ts_stream_next"]))
    )

    assert parts == [(b"part of parts", "true")]
    assert answer.headers["ts_stream_next"] == "false"


async def test_stream_of_continuous_batching_gives_every_chunk(bench, archives) -> None:
    """Each chunk is a committed step; others of the batch are answered meanwhile."""
    await bench.load(archives("continuous_handler", continuousBatching=True))
    chunks: list[bytes] = []
    await bench.total("a", 2)

    stream = bench.send("a", 21, partial=lambda body, _meta: chunks.append(body))
    others = [await bench.total("b", 4) for _ in range(3)]
    last = from_reply(await stream)

    assert chunks == [b"23"] * 4
    assert (last.body, last.more) == (b"23", False)
    assert last.headers["ts_stream_next"] == "false"
    assert others == [4, 8, 12]


async def test_stream_can_be_cancelled_by_its_sequence(bench, archives) -> None:
    """A request of the same sequence goes before the next chunk."""
    await bench.load(archives("continuous_handler", continuousBatching=True))
    chunks: list[bytes] = []
    cancel = []

    def chunk(body, _meta):
        chunks.append(body)
        if not cancel:
            cancel.append(bench.send("a", -1))

    last = from_reply(await bench.send("a", 5, partial=chunk))

    assert from_reply(await cancel[0]).body == b"-1"
    assert not last.more
    assert len(chunks) < 4
    assert (await bench.ask("a", 2)).body == b"7"


async def test_handler_ends_its_sequence(bench, archives) -> None:
    """The response header with the sequence's own id ends it; the id begins anew."""
    await bench.load(archives("continuous_handler", continuousBatching=True))
    await bench.total("a", 4)

    end = await bench.ask("a", 0)

    assert end.body == b"4"
    assert list(bench.engine.sequences("m")) == []
    assert (await bench.ask("a", 6)).body == b"6"


async def test_stream_of_a_sequence_that_is_ended_gets_its_last_chunk(bench, archives) -> None:
    """Another request ends the sequence while it runs: it is answered, then the id begins anew."""
    await bench.load(archives("continuous_handler", continuousBatching=True))
    ends = []

    outcome = await bench.send("a", 5, partial=lambda *_: ends or ends.append(bench.send("a", 0)))

    last = from_reply(outcome)
    assert (last.body, last.more) == (b"5", False)
    assert from_reply(await ends[0]).body == b"5"
    assert list(bench.engine.sequences("m")) == []
    assert (await bench.ask("a", 6)).body == b"6"


async def test_model_without_sequences_is_stateless(bench, archives) -> None:
    """Rows of a batch need no ids."""
    handle = await bench.load(archives("odd_handler", sequenceBatching=False))

    facts = await asyncio.gather(*[bench.facts(None, "x") for _ in range(6)])

    assert not handle.stateful
    assert all(fact["count"] == 0 for fact in facts)


async def test_scaling_moves_sequences_with_their_state(bench, archives) -> None:
    """Up, down, to nothing and up again: no sum is lost and no process is left."""
    handle = await bench.load(archives("stateful_handler"))
    names = [f"s{n}" for n in range(8)]
    await asyncio.gather(*[bench.total(name, 1) for name in names])

    assert await bench.engine.scale(handle, 3, 3) == 3
    three = bench.pids()
    await asyncio.gather(*[bench.total(name, 1) for name in names])
    assert await bench.engine.scale(handle, 0, 1) == 1
    await asyncio.gather(*[bench.total(name, 1) for name in names])
    assert await bench.engine.scale(handle, 0, 0) == 0
    refused = await bench.fails("s0", 1)
    assert not handle.ready
    assert await bench.engine.scale(handle, 2, 4) == 2
    sums = await asyncio.gather(*[bench.total(name, 1) for name in names])

    assert len(set(three)) == 3
    assert isinstance(refused, NoWorkerError)
    assert sums == [4] * 8


async def test_no_workers_at_first(bench, archives) -> None:
    """A model may be registered with none, as TorchServe's API does by default."""
    archive = archives("stateful_handler", minWorkers=0, maxWorkers=0)
    handle = await bench.load(archive, initial_workers=0)

    refused = await bench.fails("a", 1)
    await bench.engine.scale(handle, 1, 1)

    assert isinstance(refused, NoWorkerError)
    assert await bench.total("a", 1) == 1


async def test_large_bodies_travel_whole(bench, archives) -> None:
    """By shared memory, in both directions of a grown state too."""
    await bench.load(archives("odd_handler"))
    rng = np.random.default_rng(0)

    for _ in range(3):
        await bench.ask("a", b"x " + rng.bytes(3_000_000).hex().encode())
        facts = await bench.facts("a", "y" * 3000)

    assert facts["count"] == 6


async def test_handler_that_cannot_be_loaded_is_a_config_error(bench, tmp_path) -> None:
    """The message has the handler's own words."""
    folder = tmp_path / "bad"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "bad.py").write_text("import nowhere_to_be_found\n")
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"handler": "bad.py"}}')

    with pytest.raises(ConfigError, match="nowhere_to_be_found"):
        await bench.load(folder)
