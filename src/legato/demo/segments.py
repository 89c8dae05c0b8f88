"""From speech probabilities to speech segments, as the model's package defines them.

The rules and their numbers are the documented defaults of ``get_speech_timestamps``
in silero-vad 6.2.3; ``PUBLISHED`` is what that package answers for its own test
recording. Written anew, so that the demo needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

RATE = 16_000
FRAME = 512

THRESHOLD = 0.5
NEGATIVE_THRESHOLD = 0.35
MIN_SPEECH = RATE * 250 // 1000
MIN_SILENCE = RATE * 100 // 1000
PAD = RATE * 30 // 1000


class Segment(NamedTuple):
    """A stretch of speech, in samples; ``end`` is one past the last."""

    start: int
    end: int


def speech_segments(probabilities: Sequence[float], samples: int) -> list[Segment]:
    """Find speech in one recording.

    Speech begins at a frame of at least ``THRESHOLD`` and ends at the first frame under
    ``NEGATIVE_THRESHOLD`` that is followed by ``MIN_SILENCE`` without speech. Short
    stretches are dropped; what remains is widened by ``PAD`` on both sides, and where two
    would then overlap, the silence between them is shared out.

    Args:
        probabilities: One a frame of ``FRAME`` samples.
        samples: Length of the recording.
    """
    return _padded(_found(probabilities, samples), samples)


def _found(probabilities: Sequence[float], samples: int) -> list[Segment]:
    found: list[Segment] = []
    start: int | None = None
    quiet: int | None = None  # where the silence began that may end this stretch
    for index, probability in enumerate(probabilities):
        position = index * FRAME
        if probability >= THRESHOLD:
            quiet = None
            start = position if start is None else start
        elif probability < NEGATIVE_THRESHOLD and start is not None:
            quiet = position if quiet is None else quiet
            if position - quiet >= MIN_SILENCE:
                if quiet - start > MIN_SPEECH:
                    found.append(Segment(start, quiet))
                start = quiet = None
    if start is not None and samples - start > MIN_SPEECH:
        found.append(Segment(start, samples))
    return found


def _padded(found: list[Segment], samples: int) -> list[Segment]:
    padded: list[Segment] = []
    start = max(0, found[0].start - PAD) if found else 0
    for index, segment in enumerate(found):
        gap = found[index + 1].start - segment.end if index + 1 < len(found) else None
        widen = PAD if gap is None or gap >= 2 * PAD else gap // 2
        padded.append(Segment(start, min(samples, segment.end + widen)))
        if gap is not None:
            start = max(0, found[index + 1].start - widen)
    return padded


def seconds(segments: Sequence[Segment]) -> float:
    """Total length of speech."""
    return sum(segment.end - segment.start for segment in segments) / RATE


PUBLISHED = (
    Segment(32, 32736),
    Segment(42528, 75232),
    Segment(79392, 110048),
    Segment(149024, 213472),
    Segment(216608, 241632),
    Segment(245280, 253920),
    Segment(260640, 286688),
    Segment(293920, 313824),
    Segment(325152, 521696),
    Segment(523296, 569824),
    Segment(571936, 602080),
    Segment(607264, 623072),
    Segment(637984, 692704),
    Segment(697888, 714208),
    Segment(720416, 749024),
    Segment(781344, 799712),
    Segment(817184, 867808),
    Segment(871456, 918496),
    Segment(920096, 953312),
)
"""The package's own answer for its 60 s test recording: 19 segments, 48.63 s."""
