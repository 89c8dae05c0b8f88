"""Servers and workers killed under an open StreamPredictions2: the sums are right at the end."""

from __future__ import annotations

import os
import queue
import signal

import grpc
import pytest
from tests.functional.torchserve.test_archives import LONGER, pack, pids

STEPS = 40
SEQUENCES = 6
WORDS = ("--ncs", "--disable-token-auth", "--models", "all", "--data", "kept")


class Player:
    """A plain client: one stream, one step of each sequence at a time, each with its number.

    What was not answered when a stream broke is sent again on the next one.
    """

    def __init__(self) -> None:
        self.totals: dict[str, list[int]] = {f"s{at}": [] for at in range(SEQUENCES)}
        self.answers = self.streams = 0
        self.ends: list[grpc.StatusCode] = []

    @property
    def over(self) -> bool:
        return all(len(found) == STEPS for found in self.totals.values())

    def play(self, client, disturb) -> None:
        """Go on until it is over, or until the stream breaks; disturb after each answer."""
        self.streams += 1
        requests: queue.Queue = queue.Queue()

        def send(name: str) -> None:
            number = len(self.totals[name]) + 1
            more = {"legato-step": b"%d" % number}
            requests.put(client.message("adder", b"%d" % number, name, **more))

        for name, found in self.totals.items():
            if len(found) < STEPS:
                send(name)
        try:
            for answer in client.stream(iter(requests.get, None), timeout=60):
                name = answer.sequence_id
                assert not answer.HasField("status"), answer
                self.totals[name].append(int(answer.prediction))
                self.answers += 1
                disturb(self.answers)
                if self.over:
                    break
                if len(self.totals[name]) < STEPS:
                    send(name)
        except grpc.RpcError as error:
            self.ends.append(error.code())
        finally:
            requests.put(None)


@pytest.fixture
def folder(tmp_path):
    pack(tmp_path / "store", "adder", "stateful_handler.py", LONGER)
    return tmp_path


def test_sums_are_right_whoever_is_killed_under_an_open_stream(torchserve, folder) -> None:
    """A worker, all workers, the serving process, at last the supervisor with it."""
    served = [torchserve(*WORDS, folder=folder)]
    player = Player()

    def disturb(answers: int) -> None:
        one = served[-1]
        if answers == 30:
            os.kill(pids(one, "adder")[0], signal.SIGKILL)
        elif answers == 70:
            for pid in pids(one, "adder"):
                os.kill(pid, signal.SIGKILL)
        elif answers == 110:
            os.kill(one.pid, signal.SIGKILL)
        elif answers == 160:
            for pid in (one.process.pid, one.pid):
                os.kill(pid, signal.SIGKILL)

    while not player.over:
        assert player.streams < 10, "streams break and break"
        client = served[-1].client()
        player.play(client, disturb)
        client.close()
        if player.over:
            break
        if 110 <= player.answers < 160:
            served[-1].await_ready(times=2)
        else:
            served[-1].process.wait(30)
            served.append(torchserve(*WORDS, folder=folder))

    expected = [number * (number + 1) // 2 for number in range(1, STEPS + 1)]
    assert player.totals == {f"s{at}": expected for at in range(SEQUENCES)}
    assert player.ends == [grpc.StatusCode.UNAVAILABLE] * 2  # workers' deaths are not seen
