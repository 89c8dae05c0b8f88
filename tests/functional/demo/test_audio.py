"""Recordings: read, spread over the streams, cut into chunks."""

import wave

import numpy as np
import pytest

from legato.demo.audio import chunks, read_wav, recordings
from legato.demo.segments import FRAME


def test_each_stream_begins_elsewhere_and_hears_everything():
    """Stream 0 is the recording itself; the others are it, rotated."""
    speech = np.arange(10_000, dtype=np.float32)

    parts = recordings(speech, 4)

    assert parts[0].tolist() == speech.tolist()
    assert [part[0] for part in parts] == [0, 2500, 5000, 7500]
    assert all(sorted(part) == speech.tolist() for part in parts)


def test_last_chunk_is_filled_up_with_silence():
    """Every chunk has the full size."""
    cut = chunks(np.ones(FRAME + 10, np.float32))

    assert cut.shape == (2, FRAME)
    assert cut[1].sum() == 10
    assert cut.dtype == np.float32


def test_recording_of_another_rate_is_refused(tmp_path):
    """Only what the model understands is read."""
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(100))

    with pytest.raises(ValueError, match="not 16-bit mono audio at 16000 Hz"):
        read_wav(path)
