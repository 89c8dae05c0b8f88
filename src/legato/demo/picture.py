"""The timelines of all streams as a picture."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.demo.segments import FRAME, RATE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from legato.demo.audio import Samples
    from legato.demo.board import Board
    from legato.demo.segments import Segment

INK = "#1f2933"
SPEECH = "#2f9e6e"
KILL = "#d64545"


def available() -> bool:
    """Whether matplotlib, which draws the picture, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(path: Path, board: Board, speech: Samples, found: Sequence[Segment], title: str) -> None:
    """Write a PNG: the reference recording with its segments, and every stream below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    wave, probability, streams = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": [1.1, 1, 4]}
    )
    figure.suptitle(title, fontsize=13, color=INK)
    duration = board.tracks[0].frames * FRAME / RATE
    _reference(wave, speech[: board.tracks[0].frames * FRAME], found)
    times = (np.arange(len(board.tracks[0].answers)) + 0.5) * FRAME / RATE
    probability.fill_between(times, board.tracks[0].answers, color=SPEECH, alpha=0.35, lw=0)
    probability.plot(times, board.tracks[0].answers, color=SPEECH, lw=0.8)
    probability.axhline(0.5, color=INK, lw=0.6, ls=":")
    probability.set_ylabel("served\nprobability")
    probability.set_ylim(0, 1.02)
    colours = LinearSegmentedColormap.from_list("speech", ["#eef1f4", SPEECH])
    image = streams.imshow(
        np.array([track.answers for track in board.tracks]),
        aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="nearest",
        extent=(0, duration, len(board.tracks) - 0.5, -0.5),
    )  # fmt: skip
    for row, frame in enumerate(board.killed_frames):
        label = "server killed (SIGKILL) and started again" if row == 0 else None
        x = frame * FRAME / RATE
        streams.plot([x, x], [row - 0.5, row + 0.5], color=KILL, lw=1.6, label=label)
    if board.killed_frames:
        streams.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, frameon=False)
    streams.set_ylabel("stream (0 is the reference recording)")
    streams.set_xlabel("seconds of audio in the stream")
    figure.colorbar(image, ax=streams, label="probability of speech", pad=0.01)
    figure.savefig(path, dpi=110)


def _reference(axes: Any, speech: Samples, found: Sequence[Segment]) -> None:
    """The recording's envelope, with the segments found in it."""
    columns = 1400
    step = max(1, len(speech) // columns)
    cut = np.abs(speech[: len(speech) // step * step]).reshape(-1, step)
    times = (np.arange(len(cut)) + 0.5) * step / RATE
    peak = cut.max(1)
    axes.fill_between(times, -peak, peak, color=INK, alpha=0.75, lw=0)
    for index, segment in enumerate(found):
        axes.axvspan(
            segment.start / RATE, segment.end / RATE, color=SPEECH, alpha=0.22, lw=0,
            label="speech found" if index == 0 else None,
        )  # fmt: skip
    axes.set_ylabel("reference\nrecording")
    axes.set_yticks([])
    if found:
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=9, frameon=False)
