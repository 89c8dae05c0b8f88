"""Model Server's own cases, as black boxes: the sequence protocol over both transports."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

MISSING = {"grpc": 5, "rest": 404}
EXISTS = {"grpc": 6, "rest": 409}
FULL = {"grpc": 14, "rest": 503}
WRONG = {"grpc": 3, "rest": 400}
NO_SEQUENCE = "Sequence with provided ID does not exist"
NO_ID = "Sequence ID has not been provided in request inputs"
IDS = itertools.count(1_000_000)


@pytest.fixture(scope="module")
def server(ovms, kit, tmp_path_factory):
    """A summator, and small ones for limits and automatic ids."""
    folder = tmp_path_factory.mktemp("models")
    entries = []
    for name, limit in (("summator", 500), ("single", 1), ("fresh-grpc", 500), ("fresh-rest", 500),
                        ("four-grpc", 500), ("four-rest", 500)):  # fmt: skip
        kit.save(folder, name, kit.models.accumulator(1))
        entries.append(
            {"name": name, "base_path": name, "stateful": True, "max_sequence_number": limit}
        )
    return ovms("--config_path", kit.write_config(folder / "config.json", *entries))


@pytest.fixture
def make(server, kit, wire):
    """Make clients; all are closed at the end."""
    made = []

    def make(model="summator"):
        made.append(kit.Summator(server, wire, model))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_sequence_runs_from_start_to_end(make) -> None:
    """1: every answer carries the id; the sum goes on; afterwards the id is unknown."""
    client, name = make(), next(IDS)

    first = client.start(name)
    between = [client.step(1, name) for _ in range(100)]
    last = client.end(name)

    assert first == (1, name)
    assert between == [(n + 2, name) for n in range(100)]
    assert last == (102, name)
    assert client.refused(1, name) == (MISSING[client.wire], NO_SEQUENCE)


def test_the_server_gives_ids_in_order(make, wire) -> None:
    """2: the first is 1, then 2; freed ones are not given again soon."""
    client = make(f"fresh-{wire}")

    first, second = client.start()[1], client.start()[1]
    client.end(first)
    third = client.start()[1]

    assert (first, second, third) == (1, 2, 3)


def test_ids_taken_by_clients_are_passed_over(make, wire) -> None:
    """2: with 1 to 4 taken the first automatic one is 5."""
    client = make(f"four-{wire}")
    for name in range(1, 5):
        client.start(name)

    assert client.start()[1] == 5


def test_id_zero_is_no_id(make) -> None:
    """3: START with 0 is START without one."""
    client = make()

    total, name = client.start(0)

    assert (total, name > 0) == (1, True)
    assert client.step(1, name) == (2, name)


def test_a_second_start_is_refused(make) -> None:
    """4: the first sequence is as it was."""
    client, name = make(), next(IDS)
    client.start(name)

    refused = client.refused(1, name, 1)

    assert refused == (EXISTS[client.wire], "Sequence with provided ID already exists")
    assert client.step(1, name) == (2, name)


@pytest.mark.parametrize("control", [None, 0, 2])
def test_unknown_ids_are_not_found(make, control) -> None:
    """5: none and end alike."""
    client = make()

    assert client.refused(1, next(IDS), control) == (MISSING[client.wire], NO_SEQUENCE)


@pytest.mark.parametrize("name", [None, 0])
@pytest.mark.parametrize("control", [None, 0, 2])
def test_steps_need_an_id(make, name, control) -> None:
    """6: none, end and no control at all, each without id and with 0."""
    client = make()

    assert client.refused(1, name, control) == (WRONG[client.wire], NO_ID)


@pytest.mark.parametrize("control", [3, 99, 999])
@pytest.mark.parametrize("name", [None, 7])
def test_other_controls_are_refused(make, control, name) -> None:
    """7: also where the id is missing too."""
    client = make()

    assert client.refused(1, name, control) == (
        WRONG[client.wire],
        "Unexpected value of sequence control input",
    )


def test_a_misspelled_id_is_a_missing_one(server, kit, wire) -> None:
    """8: ``sequenceid`` is an input like any other, and the id is looked for first."""
    if wire == "grpc":
        plain = kit.Plain(server.address)
        inputs = {"x": kit.content(np.float32([[1]])), "sequenceid": kit.uint64(7)}
        with pytest.raises(kit.Failed) as caught:
            plain.predict("summator", inputs)
        plain.close()
        assert (caught.value.status, caught.value.text) == (3, NO_ID)
    else:
        body = {"inputs": {"x": [[1]], "sequenceid": [7]}}
        assert server.rest("POST", "/v1/models/summator:predict", body) == (400, {"error": NO_ID})


def test_a_full_table_refuses(make) -> None:
    """9: also where START names the live id; after the end there is room."""
    client, name = make("single"), next(IDS)
    client.start(name)
    text = "Max sequence number has been reached. Could not create new sequence."

    other = client.refused(1, next(IDS), 1)
    unnamed = client.refused(1, None, 1)
    same = client.refused(1, name, 1)
    client.end(name)
    again = client.start(name)
    client.end(name)

    assert other == unnamed == same == (FULL[client.wire], text)
    assert again == (1, name)


@pytest.mark.parametrize("name", [5_000_000_000, 2**63, 2**64 - 1])
def test_ids_have_64_bits(make, name) -> None:
    """10: over both transports."""
    client = make()

    answers = [client.start(name), client.step(1, name), client.end(name)]

    assert answers == [(1, name), (2, name), (3, name)]


def test_sixty_sequences_at_once(make, server) -> None:
    """11: they do not see each other, and the count of live ones is right throughout."""
    names = [next(IDS) for _ in range(60)]
    before = server.live("summator")
    wrong: list[object] = []

    def run(work, names):
        client = make()

        def one(name):
            try:
                work(client, name)
            except Exception as error:  # noqa: BLE001 - told by the main thread
                wrong.append(error)

        for name in names:
            one(name)

    def begin(client, name):
        assert client.start(name, name % 7) == (name % 7, name)
        for step in range(2, 5):
            assert client.step(name % 7, name) == (step * (name % 7), name)

    def together(work, names):
        threads = [threading.Thread(target=run, args=(work, names[n::6])) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return server.live("summator") - before

    counts = [
        together(begin, names),
        together(lambda client, name: client.end(name), names[:30]),
        together(lambda client, name: client.end(name), names[30:]),
    ]

    assert not wrong
    assert counts == [60, 30, 0]


def test_interleaved_sequences_and_a_fresh_start(make) -> None:
    """12: sums are apart; END tells the sum so far and frees the id for a start from zero."""
    client, a, b = make(), next(IDS), next(IDS)

    sums = [
        client.start(a, 1)[0], client.start(b, 10)[0], client.step(2, a)[0],
        client.step(20, b)[0], client.end(a, 3)[0], client.start(a, 5)[0], client.end(b, 30)[0],
        client.end(a, 6)[0],
    ]  # fmt: skip

    assert sums == [1, 10, 3, 30, 6, 5, 60, 11]


def test_a_start_with_wrong_data_makes_no_sequence(server, kit, make, wire) -> None:
    """13: the id is still free."""
    client, name = make(), next(IDS)
    if wire == "grpc":
        inputs = {
            "x": kit.content(np.ones((1, 2), np.float32)),
            kit.ID: kit.uint64(name),
            kit.CONTROL: kit.uint32(1),
        }
        with pytest.raises(kit.Failed):
            client.plain.predict("summator", inputs)
    else:
        body = {"inputs": {"x": [[1, 2]], kit.ID: [name], kit.CONTROL: [1]}}
        assert server.rest("POST", "/v1/models/summator:predict", body)[0] == 400

    assert client.refused(1, name) == (MISSING[wire], NO_SEQUENCE)
    assert client.start(name) == (1, name)


def test_a_sequence_belongs_to_no_transport(server, kit) -> None:
    """It begins over gRPC, goes on over REST, and ends over gRPC."""
    over_grpc, over_rest = kit.Summator(server, "grpc"), kit.Summator(server, "rest")
    name = next(IDS)

    sums = [over_grpc.start(name)[0], over_rest.step(1, name)[0], over_grpc.end(name)[0]]
    over_grpc.close()
    over_rest.close()

    assert sums == [1, 2, 3]


def test_step_numbers_make_a_repeat_safe(server, kit) -> None:
    """The header ``legato-step``: sent twice, applied once; a gap is refused."""
    client, name = kit.Summator(server, "grpc"), next(IDS)
    inputs = {"x": kit.content(np.float32([[1]])), kit.ID: kit.uint64(name)}
    first = client.plain.predict(
        "summator", {**inputs, kit.CONTROL: kit.uint32(1)}, legato_step="1"
    )

    second = client.plain.predict("summator", inputs, legato_step="2")
    numbers = client.plain.headers["legato-step"]
    again = client.plain.predict("summator", inputs, legato_step="2")
    replayed = client.plain.headers["legato-replayed"]
    with pytest.raises(kit.Failed) as gap:
        client.plain.predict("summator", inputs, legato_step="9")
    client.close()

    assert [found["y"].item() for found in (first, second, again)] == [1, 2, 2]
    assert (numbers, replayed) == ("2", "true")
    assert gap.value.status == 9
    assert gap.value.trailers["legato-expected-step"] == "3"
