"""Sessions as in TorchServe's continuous-batching example, with the figures that it publishes."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.functional.torchserve.conftest import ask
from tests.functional.torchserve.test_archives import ID, pack

CONFIG = """
minWorkers: 2
maxWorkers: 2
batchSize: %d
maxNumSequence: %d
sequenceMaxIdleMSec: %d
sequenceTimeoutMSec: %d
maxSequenceJobQueueSize: 10
sequenceBatching: true
continuousBatching: true
handler:
  pause_s: 0.05
  cache:
    capacity: 4
"""


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    pack(folder / "store", "sessions", "session_handler.py", CONFIG % (1, 2, 30_000, 60_000))
    pack(folder / "store", "brief", "session_handler.py", CONFIG % (4, 4, 300, 1000))
    return torchserve("--ncs", "--disable-token-auth", "--models", "all", folder=folder)


def opened(served, value: int, model: str = "sessions"):
    """Open a session; give its id and the first answer."""
    answer = served.post(f"/predictions/{model}", b"%d" % value)
    assert answer.status == 200, answer.text
    return answer.headers[ID], answer.text


def test_a_session_gives_the_published_figures(served) -> None:
    """Plain sums, eleven chunks, a cancelled stream, the end; then nobody has opened it."""
    name, first = opened(served, 2)
    sums = [served.step(name, n, model="sessions").text for n in (4, 6, 8)]
    kind = {"content-type": "application/json", ID: name}
    url = served.url("inference", "/predictions/sessions")
    streamed = ask("POST", url, b'{"input": 3}', **kind)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(served.step, name, 5, "sessions")
        time.sleep(0.2)
        cancel = served.step(name, -1, model="sessions")
        cancelled = stream.result().text
    ended = served.step(name, 0, model="sessions")
    after = served.step(name, 2, model="sessions")

    assert [first, *sums] == ["2", "6", "12", "20"]
    assert streamed.text == "23" * 11
    assert cancelled in ["28" * count for count in range(1, 11)]
    assert cancel.text == "-1"
    assert (ended.text, ended.headers["ts_request_sequence_end"]) == ("28", name)
    assert (after.status, after.json["message"]) == (503, "Prediction failed")


def test_two_sessions_run_side_by_side(served) -> None:
    """One lasts, one ends with a 0: TorchServe's own check."""

    def play(*values: int) -> list[str]:
        name, first = opened(served, values[0])
        return [first, *(served.step(name, n, model="sessions").text for n in values[1:])]

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(play, 2, 4, 6, 8, 0)
        other = pool.submit(play, 4, 8, 12, 16, 20, 0)

    assert one.result() == ["2", "6", "12", "20", "20"]
    assert other.result() == ["4", "12", "24", "40", "60", "60"]


def test_open_stream_cancel_end_leaves_room_each_time(served) -> None:
    """Four times in a row, where there is room for two."""
    for _ in range(4):
        name, _first = opened(served, 2)
        answers: list[str] = []
        stream = threading.Thread(
            target=lambda name=name, answers=answers: answers.append(
                served.step(name, 5, model="sessions").text
            )
        )
        stream.start()
        time.sleep(0.15)
        cancel = served.step(name, -1, model="sessions")
        stream.join(30)
        ended = served.step(name, 0, model="sessions")

        assert cancel.text == "-1"
        assert answers[0] in ["7" * count for count in range(1, 11)]
        assert (ended.status, ended.text) == (200, "7")


def test_an_end_lets_the_stream_of_its_session_end_first(served) -> None:
    """The stream gets its last chunk, the end its sum; then nobody has opened the session."""
    name, _first = opened(served, 2)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(served.step, name, 5, "sessions")
        time.sleep(0.2)
        ended = served.step(name, 0, model="sessions")
        streamed = stream.result()
    after = served.step(name, 2, model="sessions")

    assert (ended.status, ended.text) == (200, "7")
    assert streamed.status == 200
    assert streamed.text in ["7" * count for count in range(2, 11)]
    assert after.status == 503


def test_a_clients_own_last_message_does_not_cut_a_stream(served) -> None:
    """Its stream goes on to its end; then the session is over, and its place is free."""
    name, _first = opened(served, 2)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(served.step, name, 5, "sessions")
        time.sleep(0.2)
        last = served.step(name, 4, model="sessions", ts_request_sequence_end="true")
        streamed = stream.result()
    after = served.step(name, 2, model="sessions")

    assert (last.status, last.text) == (200, "11")
    assert streamed.status == 200
    assert re.fullmatch(r"(7)+(11)*", streamed.text)
    assert len(re.findall("7|11", streamed.text)) == 11
    assert after.status == 503  # nobody has opened it


@pytest.mark.parametrize(("pauses", "why"), [((0.7,), "idle"), ((0.2,) * 7, "life")])
def test_a_session_that_is_over_is_an_error(served, pauses, why: str) -> None:
    """After its idle limit, and after its life however busy, an id has no session any more."""
    name, _first = opened(served, 2, "brief")

    statuses = []
    for pause_s in pauses:
        time.sleep(pause_s)
        statuses.append(served.step(name, 2, model="brief").status)

    assert 503 in statuses, why
    assert (statuses[0] == 200) is (why == "life")


def test_a_neighbours_error_does_not_swallow_a_request(served) -> None:
    """The rest of the batch is run again, and is new to the handler as it was at first."""
    names = [opened(served, 2, "brief")[0] for _ in range(3)]

    rounds = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            bad = pool.submit(served.step, "nobody", 2, "brief")
            good = [pool.submit(served.step, name, 2, "brief") for name in names]
            rounds.append(([one.result().text for one in good], bad.result().status))

    assert rounds == [([str(2 + 2 * turn)] * 3, 503) for turn in range(1, 6)]
