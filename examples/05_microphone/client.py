"""Listens to something that behaves like a microphone: level and voice, a line a second."""

import argparse
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import legato

RATE, CHUNK = 16000, 512  # 32 ms
RECORDING = Path(__file__).resolve().parents[2] / ".cache" / "assets" / "silero" / "test.wav"


def microphone(seconds: float, speed: float) -> Iterator[np.ndarray]:
    """Yield a chunk whenever it would have been recorded by now."""
    with wave.open(str(RECORDING)) as recording:
        data = recording.readframes(int(seconds * RATE))
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768
    samples = np.pad(samples, (0, -len(samples) % CHUNK))
    began = time.monotonic()
    for end in range(CHUNK, len(samples) + 1, CHUNK):
        due = began + end / RATE / speed
        time.sleep(max(0.0, due - time.monotonic()))
        yield samples[end - CHUNK : end]


options = argparse.ArgumentParser()
options.add_argument("address", nargs="?", default="127.0.0.1:8000")
options.add_argument("--seconds", type=float, default=6)
options.add_argument("--speed", type=float, default=1, help="2 = twice as fast as life")
asked = options.parse_args()

heard: list[np.ndarray] = []  # the chunks of this second
voiced: list[float] = []
seconds = 0


def listen() -> Iterator[np.ndarray]:
    """Keep what goes out, for the level."""
    for chunk in microphone(asked.seconds, asked.speed):
        heard.append(chunk)
        yield chunk


with legato.Client(asked.address) as client, client.sequence("silero") as seq:
    for probability in seq.stream(listen()):
        voiced.append(float(probability.item()))
        if seq.step_number * CHUNK // RATE > seconds:
            level = 10 * np.log10(np.mean(np.square(np.concatenate(heard))) + 1e-10)
            share = float(np.mean(np.array(voiced) > 0.5))
            bar = "#" * max(0, round((level + 60) / 3))
            seconds += 1
            print(f"{seconds:2} s  {level:5.1f} dB {bar:20}  voice {share:4.0%}", flush=True)
            heard.clear()
            voiced.clear()
print(f"{seq.step_number} chunks")
