"""What the answers should be: the bare model, without a server, and the package's own answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

if TYPE_CHECKING:
    from pathlib import Path

    from legato.demo.audio import Samples
    from legato.demo.segments import Segment

CONTEXT = 64
TOLERANCE = 1e-5


def bare_answers(model: Path, streams: Samples) -> Samples:
    """Run the model over all streams in a plain loop that carries the state itself.

    Args:
        model: ``silero_vad.onnx``.
        streams: ``(streams, frames, samples)``.

    Returns:
        Probabilities ``(streams, frames)``.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    count, frames, _samples = streams.shape
    state = np.zeros((2, count, 128), np.float32)
    context = np.zeros((count, CONTEXT), np.float32)
    rate = np.array(16_000, np.int64)
    answers = np.empty((count, frames), np.float32)
    for frame in range(frames):
        fed = np.concatenate([context, streams[:, frame]], axis=1)
        context = fed[:, -CONTEXT:]
        probability, state = session.run(
            ["output", "stateN"], {"input": fed, "state": state, "sr": rate}
        )
        answers[:, frame] = probability[:, 0]
    return answers


@dataclass(frozen=True, slots=True)
class Verdict:
    """Served answers beside the right ones.

    Attributes:
        found: Segments of the reference recording, from the served probabilities.
        published: The package's own segments; of the bare model, for a part of the recording.
        whole: The whole recording was streamed.
        difference: Largest difference of a probability to the bare model's, all streams.
    """

    found: list[Segment]
    published: list[Segment]
    whole: bool
    difference: float

    @property
    def right(self) -> bool:
        """Whether everything agrees."""
        return self.found == self.published and self.difference <= TOLERANCE
