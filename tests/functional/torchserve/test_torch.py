"""Archives with a network in them: ``modelFile``, a state dict, tensors as state.

These run where torch is installed. Legato does not need it, and does not install it.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.functional.torchserve.test_archives import HANDLERS, LONGER, pack, pids

if TYPE_CHECKING:
    from pathlib import Path

torch = pytest.importorskip(
    "torch", reason="torch is not installed: pip install torch, to test handlers that use it"
)


@pytest.fixture(scope="module")
def network():
    """The network of the archives, with weights of its own."""
    scope: dict = {"__name__": "net"}
    exec(compile((HANDLERS / "net.py").read_text(), "net.py", "exec"), scope)  # noqa: S102
    torch.manual_seed(1)
    return scope["Net"]().eval()


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory, network):
    folder: Path = tmp_path_factory.mktemp("torch")
    torch.save(network.state_dict(), folder / "net.pt")
    more = ("--model-file", str(HANDLERS / "net.py"), "--serialized-file", str(folder / "net.pt"))
    pack(folder / "store", "adder", "stateful_handler.py", LONGER, more=more)
    pack(folder / "store", "means", "tensor_handler.py", LONGER, more=more)
    words = ("--ncs", "--disable-token-auth", "--models", "all", "--data", "kept")
    return torchserve(*words, folder=folder)


def test_the_published_example_runs_with_its_network(served) -> None:
    """TorchServe's figures: three rows on one stream, two sequences at once over REST."""
    client = served.client()
    sums = client.infer_stream2("adder", "published", b"1\n", b"2\n", b"3\n")
    client.close()

    with ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(lambda name=name, row=row: [served.step(name, n).text for n in row])
            for name, row in (("odd", range(1, 10, 2)), ("even", range(2, 11, 2)))
        ]
    odd, even = (one.result() for one in both)

    assert sums == ["1", "3", "6"]
    assert odd == "1 4 9 16 25".split()
    assert even == "2 6 12 20 30".split()


def test_tensors_survive_kills_of_workers_and_server(served, network) -> None:
    """The network's answers add up in an LRU, to the last bit, whoever is killed."""
    with torch.inference_mode():
        expected = torch.zeros(3)
        for value in (1, 2, 3):
            expected = expected + network(torch.full((1, 1, 8, 8), float(value)))[0]

    served.step("t", 1, model="means")
    for pid in pids(served, "means"):
        os.kill(pid, signal.SIGKILL)
    served.step("t", 2, model="means")
    os.kill(served.pid, signal.SIGKILL)
    served.await_ready(times=len(served.lines) + 1)
    found = served.step("t", 3, model="means")

    assert torch.equal(torch.tensor(json.loads(found.text)), expected)
