"""Adds noise to a recording, has it removed block by block, and measures the gain."""

import queue
import sys
import wave
from pathlib import Path

import grpc
import numpy as np

from legato.protocols.kserve.gen import kserve_pb2 as pb

ASSETS = Path(__file__).resolve().parents[2] / ".cache" / "assets"
LAG = 384


def pink_noise(count: int) -> np.ndarray:
    """Noise with the same power in every octave."""
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(count))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(1, np.arange(len(spectrum)))), count)


def quality(speech: np.ndarray, heard: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB; more is better."""
    speech, heard = speech - speech.mean(), heard - heard.mean()
    target = (heard @ speech) / (speech @ speech) * speech
    return 10 * np.log10((target @ target) / ((heard - target) @ (heard - target)))


with wave.open(str(ASSETS / "moonshine" / "beckett.wav")) as recording:
    speech = np.frombuffer(recording.readframes(recording.getnframes()), "<i2") / 32768
noise = pink_noise(len(speech))
noise *= np.sqrt((speech @ speech) / (noise @ noise) / 10 ** (5 / 10))  # 5 dB under the speech
noisy = speech + noise
blocks = noisy[: len(noisy) // 128 * 128].astype(np.float32).reshape(-1, 1, 128)

requests: queue.SimpleQueue[pb.ModelInferRequest] = queue.SimpleQueue()
channel = grpc.insecure_channel(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000")
replies = channel.stream_stream(
    "/inference.GRPCInferenceService/ModelStreamInfer",
    request_serializer=pb.ModelInferRequest.SerializeToString,
    response_deserializer=pb.ModelStreamInferResponse.FromString,
)(iter(requests.get, None))

clean = []
for index, block in enumerate(blocks):
    request = pb.ModelInferRequest(model_name="denoiser")
    request.parameters["sequence_id"].int64_param = 1
    request.parameters["sequence_start"].bool_param = index == 0
    request.parameters["sequence_end"].bool_param = index == len(blocks) - 1
    request.inputs.add(name="noisy", datatype="FP32", shape=block.shape)
    request.raw_input_contents.append(block.tobytes())
    requests.put(request)
    reply = next(replies)
    if reply.error_message:
        sys.exit(reply.error_message)
    clean.append(np.frombuffer(reply.infer_response.raw_output_contents[0], np.float32))
requests.put(None)
channel.close()

denoised = np.concatenate(clean)[LAG:]
print(f"{len(blocks)} blocks of 8 ms")
print(f"noisy     {quality(speech, noisy):5.2f} dB")
print(f"denoised  {quality(speech[: len(denoised)], denoised):5.2f} dB")
