"""Probabilities to segments: the rules one by one, and the package's published answer."""

import numpy as np
import pytest
from tests.assets import asset

from legato.demo.audio import chunks, read_wav
from legato.demo.check import bare_answers
from legato.demo.segments import FRAME, PUBLISHED, Segment, seconds, speech_segments

PAD = 480


def probabilities(*runs):
    """``(frames, probability)`` runs laid end to end."""
    return [value for frames, value in runs for _ in range(frames)]


def found(*runs, samples=None):
    values = probabilities(*runs)
    return speech_segments(values, samples or len(values) * FRAME)


def test_bare_model_gives_the_published_segments():
    """The model over its package's own recording: 19 segments, 48.63 s, sample for sample."""
    speech = read_wav(asset("silero", "test.wav"))

    answers = bare_answers(asset("silero", "silero_vad.onnx"), chunks(speech)[None])[0]

    assert speech_segments(answers.tolist(), len(speech)) == list(PUBLISHED)
    assert round(seconds(PUBLISHED), 2) == 48.63
    assert np.isclose(answers.mean(), 0.7783, atol=1e-4)


def test_silence_holds_no_segment():
    """No frame over the threshold, no segment."""
    assert found((100, 0.49)) == []


def test_speech_is_padded_on_both_sides():
    """A stretch of speech grows by 30 ms on either side."""
    assert found((10, 0.0), (20, 0.9), (10, 0.0)) == [Segment(10 * FRAME - PAD, 30 * FRAME + PAD)]


def test_padding_stays_inside_the_recording():
    """Neither before the first sample nor after the last."""
    assert found((20, 0.9), samples=20 * FRAME - 100) == [Segment(0, 20 * FRAME - 100)]


@pytest.mark.parametrize(("frames", "segments"), [(8, 1), (7, 0)])
def test_speech_must_last_longer_than_250_ms(frames, segments):
    """Eight frames are 256 ms, seven are 224 ms."""
    assert len(found((10, 0.0), (frames, 0.9), (10, 0.0))) == segments


@pytest.mark.parametrize(("frames", "segments"), [(4, 1), (5, 2)])
def test_silence_of_100_ms_parts_two_segments(frames, segments):
    """The fifth quiet frame begins 128 ms after the first one."""
    assert len(found((20, 0.9), (frames, 0.0), (20, 0.9))) == segments


def test_probability_between_the_thresholds_keeps_speech_going():
    """From 0.35 to 0.5 nothing begins and nothing ends."""
    assert len(found((20, 0.9), (50, 0.4), (20, 0.9))) == 1
    assert found((50, 0.4)) == []


def test_neighbours_share_a_gap_that_is_too_short_for_both_paddings():
    """A gap is never padded twice: at 30 ms a side, the rest stays silent."""
    first, second = found((20, 0.9), (5, 0.0), (20, 0.9))

    assert first.end == 20 * FRAME + PAD
    assert second.start == 25 * FRAME - PAD
