"""Archives with a network in them: ``modelFile``, a state dict, tensors as state.

These run where torch is installed. Legato does not need it, and does not install it.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.functional.torchserve.test_archives import HANDLERS, LONGER, pack, pids

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


# -- built-in handlers --------------------------------------------------


CLASSES = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.EmbeddingBag(20, 4)
        self.last = torch.nn.Linear(4, 2)

    def forward(self, tokens, offsets):
        return self.last(self.embedding(tokens, offsets))
"""
TRAITS = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.last = torch.nn.Linear(3, 7)

    def forward(self, images):
        return self.last(images.mean(dim=(2, 3)))
"""
ONE_WORKER = "minWorkers: 1\nmaxWorkers: 1\n"


def pack_built_in(folder: Path, handler: str, source: str, labels: dict, more=()) -> None:
    """Pack an archive that names a built-in handler."""
    store = folder / "store"
    store.mkdir()
    scope: dict = {"__name__": "net"}
    exec(source, scope)  # noqa: S102
    (folder / "net.py").write_text(source)
    torch.save(scope["Net"]().state_dict(), folder / "net.pt")
    (folder / "index_to_name.json").write_text(json.dumps(labels))
    (folder / "c.yaml").write_text(ONE_WORKER)
    extra = ",".join(map(str, (folder / "index_to_name.json", *more)))
    subprocess.run(
        [
            str(Path(sys.executable).with_name("torch-model-archiver")),
            *("--model-name", "m", "--version", "1.0", "--handler", handler),
            *("--model-file", str(folder / "net.py"), "--serialized-file", str(folder / "net.pt")),
            *("--extra-files", extra, "--config-file", str(folder / "c.yaml")),
            *("--export-path", str(store)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_the_text_classifier_is_built_in(torchserve, tmp_path) -> None:
    """It cleans a text, looks its words up, and names the classes."""
    words = "the dog barks".split()
    vocabulary = {word: at for at, word in enumerate([*words, "the dog", "dog barks"])}
    torch.save(vocabulary, tmp_path / "source_vocab.pt")
    pack_built_in(
        tmp_path, "text_classifier", CLASSES, {"0": "cat", "1": "dog"},
        [tmp_path / "source_vocab.pt"],
    )  # fmt: skip
    served = torchserve("--ncs", "--disable-token-auth", "--models", "m.mar", folder=tmp_path)

    found = served.post("/predictions/m", b"<b>The</b> dog barks!").json

    assert set(found) == {"cat", "dog"}
    assert sum(found.values()) == pytest.approx(1)


def test_the_image_classifier_is_built_in(torchserve, tmp_path) -> None:
    """The five likeliest classes of seven, by name."""
    pytest.importorskip("torchvision", reason="torchvision is not installed: it decodes the image")
    image = pytest.importorskip("PIL.Image")
    picture = io.BytesIO()
    image.new("RGB", (300, 280), (10, 200, 30)).save(picture, "PNG")
    labels = {str(at): [f"n{at}", f"name{at}"] for at in range(7)}
    pack_built_in(tmp_path, "image_classifier", TRAITS, labels)
    served = torchserve("--ncs", "--disable-token-auth", "--models", "m.mar", folder=tmp_path)

    found = served.post("/predictions/m", picture.getvalue()).json

    assert len(found) == 5
    assert all(re.fullmatch(r"name\d", name) for name in found)
