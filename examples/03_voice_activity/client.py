"""Streams a minute of real speech in chunks of 32 ms and prints where somebody speaks."""

import queue
import sys
import wave
from pathlib import Path

import grpc
import numpy as np

from legato.protocols.kserve.gen import kserve_pb2 as pb

ASSETS = Path(__file__).resolve().parents[2] / ".cache" / "assets"

with wave.open(str(ASSETS / "silero" / "test.wav")) as recording:
    samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2") / 32768
chunks = samples.astype(np.float32).reshape(-1, 1, 512)

requests: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
channel = grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
replies = channel.stream_stream(
    "/inference.GRPCInferenceService/ModelStreamInfer",
    request_serializer=pb.ModelInferRequest.SerializeToString,
    response_deserializer=pb.ModelStreamInferResponse.FromString,
)(iter(requests.get, None))

speech = []
for index, chunk in enumerate(chunks):
    request = pb.ModelInferRequest(model_name="voice-activity")
    request.parameters["sequence_id"].string_param = "a microphone"
    request.parameters["sequence_start"].bool_param = index == 0
    request.parameters["sequence_end"].bool_param = index == len(chunks) - 1
    request.inputs.add(name="input", datatype="FP32", shape=chunk.shape)
    request.raw_input_contents.append(chunk.tobytes())
    requests.put(request)
    reply = next(replies)
    if reply.error_message:
        sys.exit(reply.error_message)
    speech.append(np.frombuffer(reply.infer_response.raw_output_contents[0], np.float32)[0])
requests.put(None)
channel.close()

for start in range(0, len(speech), 625):  # twenty seconds a line
    part = np.array(speech[start : start + 625]).reshape(-1, 25).mean(1)
    print(f"{start * 512 // 16000:2} s", "".join("#" if p > 0.5 else "." for p in part))
print(f"{sum(p >= 0.5 for p in speech)} of {len(speech)} chunks hold speech")
