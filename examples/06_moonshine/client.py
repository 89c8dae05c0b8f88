"""Turns five recordings into text at once: a sequence each, a token a step."""

import queue
import sys
import wave
from pathlib import Path

import grpc
import numpy as np

from legato.protocols.kserve.gen import kserve_pb2 as pb

ASSETS = Path(__file__).resolve().parents[2] / ".cache" / "assets"
BEGIN, END = 1, 2


def vocabulary() -> list[bytes]:
    """Read the tokens: each after its length, which takes two bytes from 128 on."""
    data = (ASSETS / "moonshine" / "tokenizer.bin").read_bytes()
    tokens, at = [], 0
    while at < len(data):
        length, at = data[at], at + 1
        if length >= 128:
            length, at = data[at] * 128 + length - 128, at + 1
        tokens.append(data[at : at + length])
        at += length
    return tokens


def samples(path: Path) -> np.ndarray:
    """Read a recording of 16,000 samples a second."""
    with wave.open(str(path)) as recording:
        frames = recording.readframes(recording.getnframes())
    return np.frombuffer(frames, "<i2").astype(np.float32) / 32768


clips = [samples(path) for path in sorted((ASSETS / "librivox").glob("*.wav"))]
longest = max(map(len, clips))  # sequences share model calls if their audio is as long

channel = grpc.insecure_channel(
    sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000",
    options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
)
encode = channel.unary_unary(
    "/inference.GRPCInferenceService/ModelInfer",
    request_serializer=pb.ModelInferRequest.SerializeToString,
    response_deserializer=pb.ModelInferResponse.FromString,
)
requests: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
replies = channel.stream_stream(
    "/inference.GRPCInferenceService/ModelStreamInfer",
    request_serializer=pb.ModelInferRequest.SerializeToString,
    response_deserializer=pb.ModelStreamInferResponse.FromString,
)(iter(requests.get, None))


def step(clip: int, token: int) -> pb.ModelInferRequest:
    """Make the request for the next token of a clip."""
    request = pb.ModelInferRequest(model_name="moonshine", id=str(clip))
    request.parameters["sequence_id"].int64_param = clip + 1
    request.parameters["sequence_start"].bool_param = token == BEGIN
    request.parameters["sequence_end"].bool_param = token == END
    request.inputs.add(name="input_ids", datatype="INT64", shape=[1, 1])
    request.raw_input_contents.append(np.int64(token).tobytes())
    return request


def run(steps: list[pb.ModelInferRequest]) -> dict[int, int]:
    """Send steps of different clips, and wait for the next token of each."""
    for each in steps:
        requests.put(each)
    tokens = {}
    for _ in steps:
        reply = next(replies)
        if reply.error_message:
            sys.exit(reply.error_message)
        token = np.frombuffer(reply.infer_response.raw_output_contents[0], np.int64)[0]
        tokens[int(reply.infer_response.id)] = int(token)
    return tokens


first = []
for number, clip in enumerate(clips):
    audio = np.pad(clip, (0, longest - len(clip)))[np.newaxis]
    request = pb.ModelInferRequest(model_name="moonshine-encoder")
    request.inputs.add(name="input_values", datatype="FP32", shape=audio.shape)
    request.raw_input_contents.append(audio.tobytes())
    encoded = encode(request)
    begin = step(number, BEGIN)  # carries the keys and values of the audio, this once
    for output, data in zip(encoded.outputs, encoded.raw_output_contents, strict=True):
        begin.inputs.add(name=output.name, datatype="FP32", shape=output.shape)
        begin.raw_input_contents.append(data)
    first.append(begin)

texts: list[list[int]] = [[] for _ in clips]
running = run(first)
while running:
    steps = [step(clip, token) for clip, token in running.items()]
    for clip, token in running.items():
        texts[clip].append(token)
    following = run(steps)
    running = {clip: following[clip] for clip, token in running.items() if token != END}
requests.put(None)
channel.close()

pieces = vocabulary()
for text in texts:
    print(b"".join(pieces[token] for token in text[:-1]).decode().replace("\u2581", " ").strip())
