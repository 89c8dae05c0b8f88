"""Real recordings, cut into the chunks that a microphone would give."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np

from legato.demo.segments import FRAME, RATE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Samples = npt.NDArray[np.float32]


def read_wav(path: Path) -> Samples:
    """Read 16-bit mono audio at 16 kHz as floats in -1..1.

    Raises:
        ValueError: The file has another rate, width or number of channels.
    """
    with wave.open(str(path)) as file:
        kind = (file.getframerate(), file.getsampwidth(), file.getnchannels())
        if kind != (RATE, 2, 1):
            raise ValueError(f"{path} is not 16-bit mono audio at {RATE} Hz")
        data = file.readframes(file.getnframes())
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def recordings(speech: Samples, count: int) -> list[Samples]:
    """Make one recording a stream: the first as it is, the others begun at other places.

    The places are spread evenly and fall inside frames, so no two streams ever send
    the same frame; the part before the place comes at the end.
    """
    return [np.roll(speech, -(i * len(speech) // count)) for i in range(count)]


def chunks(samples: Samples, limit: int = 0) -> Samples:
    """Cut into frames, the last one filled up with silence; at most ``limit`` (0 = all).

    Returns:
        Array ``(frames, FRAME)``.
    """
    missing = -len(samples) % FRAME
    cut = np.pad(samples, (0, missing)).astype(np.float32, copy=False).reshape(-1, FRAME)
    return cut[:limit] if limit else cut
