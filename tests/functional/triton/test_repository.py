"""Model repositories as Triton's documentation writes them, through Triton's own clients."""

from __future__ import annotations

import asyncio
import queue
import threading

import numpy as np
import pytest
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from tests.functional.triton.conftest import TIMEOUT_S, step, tensor, told
from tests.models import tiny
from tests.models import triton_models as models
from tritonclient.utils import InferenceServerException

BOOLEANS = ("INT32", "FP32", "BOOL")
IDS = ("UINT64", "INT64", "UINT32", "INT32", "STRING")


@pytest.fixture(scope="module")
def server(triton, tmp_path_factory):
    """One server with all of these models."""
    repository = tmp_path_factory.mktemp("repository")
    models.write_accumulator(repository, "direct { }", "direct")
    models.write_accumulator(
        repository,
        "direct { max_queue_delay_microseconds: 2000 minimum_slot_utilization: 0.5 }",
        "patient",
    )
    models.write_accumulator(
        repository,
        "oldest { max_candidate_sequences: 16 preferred_batch_size: [ 2, 4 ] "
        "max_queue_delay_microseconds: 500 preserve_ordering: true }",
        "oldest",
    )
    for at, corrid in enumerate(IDS):
        boolean = BOOLEANS[at % len(BOOLEANS)]
        config = models.controls_config(boolean, corrid)
        models.write(
            repository, f"controls_{corrid.lower()}", models.controls(boolean, corrid), config
        )
    models.write(repository, "crossed", models.crossed(), models.CROSSED)
    models.write(repository, "ragged", models.ragged(), models.RAGGED.replace("INITIAL", ""))
    first = models.write(
        repository, "from_file", models.ragged(),
        models.RAGGED.replace(
            "INITIAL",
            'initial_state { name: "x" data_type: TYPE_FP32 dims: [ 3 ] data_file: "first" }',
        ),
    )  # fmt: skip
    (first / "initial_state").mkdir()
    (first / "initial_state" / "first").write_bytes(np.array([100, 20, 3], "<f4").tobytes())
    text = models.write(repository, "text", models.text(), models.TEXT)
    (text / "initial_state").mkdir()
    words = b"".join(len(w).to_bytes(4, "little") + w for w in (b"once", b"upon"))
    (text / "initial_state" / "words").write_bytes(words)
    models.write(repository, "bare", models.accumulator())
    models.write(repository, "no_state", models.no_state(), models.NO_STATE)
    models.write(repository, "reshaped", models.flat(), models.RESHAPED)
    models.write(repository, "dynamic", tiny.echo(), models.DYNAMIC)
    models.write(repository, "whole", tiny.lstm(), models.WHOLE)
    own = models.write(repository, "own", None, models.LEGATO_CONFIG)
    (own / "1" / "model.py").write_text(models.LEGATO_MODEL)
    return triton(repository)


@pytest.fixture(scope="module")
def client(server):
    """A client of all tests."""
    return server.client()


def run(client, model, sequence, values=(1, 2, 3), name="OUTPUT", **options):
    """Run a whole sequence; return the answers."""
    last = len(values) - 1
    return [
        told(
            step(
                client, model, value, sequence, sequence_start=at == 0, sequence_end=at == last,
                **options,
            ),
            name,
        )
        for at, value in enumerate(values)
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["direct", "patient", "oldest"])
def test_a_strategy_changes_no_answer(client, model) -> None:
    """Sequences side by side sum up what they were sent, under every strategy."""
    answers: dict[int, list[float]] = {}

    def one(sequence: int) -> None:
        answers[sequence] = run(client, model, sequence, [sequence, 1, 10])

    threads = [threading.Thread(target=one, args=(sequence,)) for sequence in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert answers == {s: [s, s + 1, s + 11] for s in range(1, 13)}


@pytest.mark.parametrize("corrid", IDS)
def test_controls_tell_start_end_and_the_id(client, corrid) -> None:
    """In every dtype; a row is always ready."""
    model = f"controls_{corrid.lower()}"
    seen = []
    for start, end in ((True, False), (False, False), (False, True)):
        result = step(client, model, 1, 77, sequence_start=start, sequence_end=end)
        told_id = result.as_numpy("CORRID_OUT")[0, 0]
        seen.append(
            (
                *(bool(told(result, f"{kind}_OUT")) for kind in ("START", "READY", "END")),
                int(told_id.decode() if isinstance(told_id, bytes) else told_id),
            )
        )

    assert seen == [(True, True, False, 77), (False, True, False, 77), (False, True, True, 77)]


def test_a_text_id_reaches_a_text_control(client) -> None:
    """Where Triton fails outright."""
    result = step(client, "controls_string", 1, "call-7", sequence_start=True, sequence_end=True)

    assert result.as_numpy("CORRID_OUT")[0, 0] == b"call-7"


@pytest.mark.parametrize("corrid", ["UINT64", "INT64", "UINT32", "INT32"])
def test_a_text_id_is_one_number_to_a_number_control(client, corrid) -> None:
    """The same text is the same number at every step, another text another."""
    model = f"controls_{corrid.lower()}"

    first = run(client, model, "red", name="CORRID_OUT")
    other = run(client, model, "blue", name="CORRID_OUT")

    assert len(set(first)) == 1
    assert 0 not in first
    assert set(first) != set(other)


def test_states_are_paired_by_name(client) -> None:
    """A_IN <- Z_OUT and B_IN <- Y_OUT, though their names sort the other way."""
    answers = [
        (told(r, "Z_OUT"), told(r, "Y_OUT"))
        for r in (
            step(client, "crossed", x, 5, sequence_start=at == 0, sequence_end=at == 2)
            for at, x in enumerate((1, 2, 3))
        )
    ]

    assert answers == [(1, 10), (3, 30), (6, 60)]


def test_states_of_different_lengths_share_a_model(client) -> None:
    """Sequences of one model whose states have 1 to 4 elements all go on."""
    for sequence in (21, 22, 23):
        step(client, "ragged", 1, sequence, sequence_start=True)
    step(client, "ragged", 1, 22)
    step(client, "ragged", 1, 23)
    step(client, "ragged", 1, 23)
    answers: dict[int, float] = {}

    def one(sequence: int) -> None:
        answers[sequence] = told(step(client, "ragged", 5, sequence, sequence_end=True))

    threads = [threading.Thread(target=one, args=(sequence,)) for sequence in (21, 22, 23)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)

    assert answers == {21: 6, 22: 7, 23: 8}


def test_a_state_begins_with_the_contents_of_a_file(client) -> None:
    """Its size is that of ``initial_state``, where the state's own varies; clients may see it."""
    result = step(client, "from_file", 4000, 31, sequence_start=True)
    following = step(client, "from_file", 1, 31, sequence_end=True)

    assert told(result) == 4123
    assert told(result, "PAST_OUT") == [100, 20, 3, 4000]
    assert told(following) == 4124


def test_a_state_may_be_text(client) -> None:
    """It begins with the words of a file, and goes on with those of the step before."""

    def words(*said: bytes, **options):
        given = [tensor(list(said), dtype="BYTES")]
        return told(client.infer("text", given, sequence_id=41, **options), "BEFORE")

    assert words(b"there", b"was", sequence_start=True) == [b"once", b"upon"]
    assert words(b"a", b"song", sequence_end=True) == [b"there", b"was"]


def test_a_model_without_a_config_is_served_with_the_state_that_was_found(client, server) -> None:
    """INPUT_STATE <- OUTPUT_STATE is seen in the graph, and the log says so."""
    result = client.infer(
        "bare",
        [tensor(2), tensor(1, "START"), tensor(1, "READY")],
        sequence_id=51,
        sequence_start=True,
    )

    assert told(result) == 2
    assert any("state_inferred" in line and "INPUT_STATE" in line for line in server.served.said)


def test_a_model_without_state_has_sequences_all_the_same(client) -> None:
    """Where the config says so: it is told their start, and a stranger's step is refused."""
    answers = run(client, "no_state", 81)

    assert answers == [101, 2, 3]
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        step(client, "no_state", 1, 82)


def test_a_reshape_is_between_client_and_model(client, server) -> None:
    """The model has no second dimension; its warm-up had neither."""
    assert run(client, "reshaped", 83) == [1, 3, 6]
    assert any("model_warmed_up" in line for line in server.served.said)


def test_without_a_batch_size_shapes_are_whole(client) -> None:
    """States whose batch axis is not in front, as Triton cannot batch them; 1 is no dimension."""
    metadata = client.get_model_metadata("whole", as_json=True)
    given = tensor(0, "x")
    given.set_shape([1, 1, 3]).set_data_from_numpy(np.ones((1, 1, 3), np.float32))

    first = client.infer("whole", [given], sequence_id=84, sequence_start=True).as_numpy("y")
    second = client.infer("whole", [given], sequence_id=84, sequence_end=True).as_numpy("y")

    assert metadata["inputs"][0]["shape"] == ["1", "1", "3"]
    assert first.shape == (1, 1, 5)
    assert not np.array_equal(first, second)


def test_a_model_without_sequences_takes_batches(client) -> None:
    """Of the client's own making, up to ``max_batch_size``; priorities are accepted."""
    given = tensor(0, "x")
    rows = np.arange(9, dtype=np.float32).reshape(3, 3)
    given.set_shape([3, 3]).set_data_from_numpy(rows)
    answer = client.infer("dynamic", [given], priority=1).as_numpy("x_out")
    given.set_shape([5, 3]).set_data_from_numpy(np.zeros((5, 3), np.float32))

    assert answer.tolist() == rows.tolist()
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        client.infer("dynamic", [given])


def test_a_legato_model_may_stand_in_the_repository(client) -> None:
    """``model.py`` with its class; parameters are its options."""
    assert run(client, "own", 85) == [2, 6, 12]


def test_asyncio_streams_and_http_see_the_same_sequence(client, server) -> None:
    """One sequence begins over gRPC, goes on in a stream and over HTTP, and ends in asyncio."""
    first = told(step(client, "direct", 1, 61, sequence_start=True))

    answers: queue.Queue = queue.Queue()
    streaming = server.client()
    streaming.start_stream(lambda result, error: answers.put(error or told(result)))
    streaming.async_stream_infer("direct", [tensor(2)], sequence_id=61)
    second = answers.get(timeout=TIMEOUT_S)
    streaming.stop_stream()

    with triton_http.InferenceServerClient(server.http) as over_http:
        given = tensor(3, kind=triton_http)
        third = told(over_http.infer("direct", [given], sequence_id=61))

    async def last():
        async with triton_aio.InferenceServerClient(server.grpc) as aio:
            return told(await aio.infer("direct", [tensor(4)], sequence_id=61, sequence_end=True))

    assert (first, second, third, asyncio.run(last())) == (1, 3, 6, 10)


def test_a_control_input_is_not_for_clients(client) -> None:
    """The server makes it; the model's inputs are those of the config."""
    given = [tensor(1), tensor(1, "START")]

    with pytest.raises(InferenceServerException, match=r"START|expected 1 inputs"):
        client.infer("direct", given, sequence_id=71, sequence_start=True)


def test_the_config_is_told_as_it_was_completed(client) -> None:
    """Triton's own fields come back with what was filled in."""
    config = client.get_model_config("oldest", as_json=True)["config"]

    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 8
    assert config["sequence_batching"]["oldest"]["preferred_batch_size"] == [2, 4]
    assert [s["input_name"] for s in config["sequence_batching"]["state"]] == ["INPUT_STATE"]
