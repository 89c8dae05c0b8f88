"""Speech to text by a decoder whose cache grows: the reference text, whoever shares the calls."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from tests.assets import asset, moonshine, recording

from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[3] / "examples" / "06_moonshine"
NAMES = ("0870", "0880", "0890", "0920", "0930")
BEGIN, END = 1, 2
TOKEN_BYTES = 16 * 8 * 52 * 4
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# What the model hears differently from the one who wrote it down (see the specification).
HEARD = {"a more a amiable": "a more amiable"}

Tensors = list[tuple[str, list[int], bytes]]


class Client:
    """Requests over one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=UNLIMITED)
        self.infer = self.channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

    def encode(self, audio: np.ndarray) -> Tensors:
        """Have the audio encoded."""
        request = pb.ModelInferRequest(model_name="moonshine-encoder")
        request.inputs.add(name="input_values", datatype="FP32", shape=(1, len(audio)))
        request.raw_input_contents.append(audio.tobytes())
        reply = self.infer(request, timeout=60)
        pairs = zip(reply.outputs, reply.raw_output_contents, strict=True)
        return [(output.name, list(output.shape), data) for output, data in pairs]

    def send(self, sequence: int, number: int, token: int, once: Tensors = ()) -> grpc.Future:
        """Send a step, the first with the audio."""
        request = pb.ModelInferRequest(model_name="moonshine")
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = number == 1
        request.parameters["sequence_end"].bool_param = token == END
        request.parameters["sequence_step"].int64_param = number
        request.inputs.add(name="input_ids", datatype="INT64", shape=(1, 1))
        request.raw_input_contents.append(np.int64(token).tobytes())
        for name, shape, data in once:
            request.inputs.add(name=name, datatype="FP32", shape=shape)
            request.raw_input_contents.append(data)
        return self.infer.future(request, timeout=60)

    def decode(self, clips: dict[int, Tensors], lag: int = 0) -> dict[int, list[int]]:
        """Turn encoded clips into tokens a step at a time, each begun ``lag`` steps after another.

        Steps of a round are sent together, and answered together.
        """
        texts: dict[int, list[int]] = {sequence: [BEGIN] for sequence in clips}
        begins = {sequence: lag * at for at, sequence in enumerate(clips)}
        left, round_ = list(clips), 0
        while left:
            sent = {
                each: self.send(
                    each, len(texts[each]), texts[each][-1],
                    clips[each] if len(texts[each]) == 1 else (),
                )
                for each in left if begins[each] <= round_
            }  # fmt: skip
            round_ += 1
            for each, reply in sent.items():
                token = token_of(reply.result())
                if texts[each][-1] == END:
                    left.remove(each)
                else:
                    texts[each].append(token)
        return {sequence: tokens[1:-1] for sequence, tokens in texts.items()}


def token_of(reply: pb.ModelInferResponse) -> int:
    return int(np.frombuffer(reply.raw_output_contents[0], np.int64)[0])


def spell(tokens: list[int]) -> str:
    """Put tokens together: each is stored after its length, of two bytes from 128 on."""
    data, pieces, at = asset("moonshine", "tokenizer.bin").read_bytes(), [], 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = data[at] * 128 + length - 128, at + 1
        pieces.append(data[at : at + length])
        at += length
    return b"".join(pieces[t] for t in tokens).decode().replace("\u2581", " ").strip()


def cut(data: bytes, shape: list[int]) -> bytes:
    """Keep the first half of encoded audio."""
    return np.frombuffer(data, np.float32).reshape(shape)[:, :, : shape[2] // 2].tobytes()


def plain(text: str) -> str:
    """Words alone, as the transcripts have them."""
    text = text.replace("Mr.", "mister").replace("-", " ")
    return re.sub(r"[^a-z ]", "", text.lower()).strip()


def transcripts() -> list[str]:
    lines = asset("librivox", "transcription").read_text().splitlines()
    texts = [re.sub(r"</?s>|\(.*\)", "", line).strip() for line in lines if line]
    for written, heard in HEARD.items():
        texts = [text.replace(written, heard) for text in texts]
    return texts


@pytest.fixture(scope="module")
def audio() -> list[np.ndarray]:
    """The five clips, padded to one length: sequences of equal shapes share model calls."""
    moonshine()
    clips = [recording("librivox", f"sense_and_sensibility_01_austen_64kb-{n}.wav") for n in NAMES]
    longest = max(map(len, clips))
    return [np.pad(clip, (0, longest - len(clip))) for clip in clips]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("moonshine") / "data"


@pytest.fixture(scope="module")
def served(serve, audio, data):
    return serve(EXAMPLE, store="log", data=data)


@pytest.fixture(scope="module")
def client(served) -> Iterator[Client]:
    made = Client(served.address)
    yield made
    made.channel.close()


@pytest.fixture(scope="module")
def encoded(client, audio) -> list[Tensors]:
    return [client.encode(clip) for clip in audio]


@pytest.fixture(scope="module")
def alone(client, encoded) -> list[list[int]]:
    """Tokens of each clip when no other is in the house."""
    return [client.decode({at + 1: clip})[at + 1] for at, clip in enumerate(encoded)]


def metric(served, name: str) -> float:
    url = f"{served.url}/metrics"
    text = urllib.request.urlopen(url, timeout=30).read().decode()  # noqa: S310 - our own server
    found = re.search(rf'^{name}{{model="moonshine",version="1"}} (\S+)$', text, re.MULTILINE)
    return float(found[1])


def test_each_clip_gives_the_reference_text(alone) -> None:
    """Word for word, one sequence at a time."""
    assert [plain(spell(tokens)) for tokens in alone] == transcripts()


def test_clips_together_give_the_text_that_they_give_alone(served, client, encoded, alone) -> None:
    """Four sequences of each clip at once, in shared calls: the same tokens, bit by bit."""
    calls = "legato_batch_size_rows"
    before = metric(served, f"{calls}_count"), metric(served, f"{calls}_sum")
    clips = {100 + at: encoded[at % len(encoded)] for at in range(20)}

    together = client.decode(clips)

    assert together == {100 + at: alone[at % len(alone)] for at in range(20)}
    steps = metric(served, f"{calls}_sum") - before[1]
    assert steps == 4 * sum(len(tokens) + 2 for tokens in alone)
    assert steps / (metric(served, f"{calls}_count") - before[0]) > 4


def test_clips_of_unequal_lengths_do_not_mix(client, encoded, alone) -> None:
    """Begun one after the other, and of other audio lengths: calls are shared by shape alone."""
    short = [
        (name, [1, 8, shape[2] // 2, 52], cut(data, shape)) for name, shape, data in encoded[4]
    ]
    clips = {200 + at: encoded[at] for at in range(5)} | {300: short, 301: short}

    texts = client.decode(clips, lag=2)

    assert [texts[200 + at] for at in range(5)] == alone
    assert texts[300] == texts[301] == client.decode({302: short})[302]


def test_a_kill_in_the_middle_of_a_sentence_loses_no_token(
    serve, served, data, client, encoded, alone
) -> None:
    """Half of the text before `kill -9`, the other half after it."""
    half = len(alone[0]) // 2
    given = [BEGIN]
    for number in range(1, half + 1):
        once = encoded[0] if number == 1 else ()
        given.append(token_of(client.send(7, number, given[-1], once).result()))
    written = sum(path.stat().st_size for path in data.rglob("*.seg"))
    given.append(token_of(client.send(7, half + 1, given[-1]).result()))
    grown = sum(path.stat().st_size for path in data.rglob("*.seg")) - written

    served.stop(signal.SIGKILL)
    again = serve(EXAMPLE, store="log", data=data)
    client = Client(again.address)
    while given[-1] != END:
        given.append(token_of(client.send(7, len(given), given[-1]).result()))

    assert given[1:-1] == alone[0]
    assert grown < TOKEN_BYTES + 4096  # a step writes what it adds, not the megabytes before
    assert metric(again, "legato_state_bytes") > 4e6
    client.send(7, len(given), END).result()
    assert metric(again, "legato_sequences_live") == 0
    client.channel.close()
