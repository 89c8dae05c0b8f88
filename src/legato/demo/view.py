"""The board, drawn: a live view on terminals, a line a second elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

from legato.demo.segments import THRESHOLD

if TYPE_CHECKING:
    from legato.demo.board import Board, Track

SHADES = "▁▂▃▄▅▆▇█"
SPEECH = "green"
SILENCE = "bright_black"
MARK = "┃"
GAP = 2
NEWS_LINES = 5
MIN_CELLS = 8


def line(board: Board, now: float) -> str:
    """One line about the run, for logs and pipes."""
    median, worst = board.percentiles(lately=True)
    text = (
        f"{now - board.started:6.1f} s  {board.done:>7,} of {board.total:,} steps  "
        f"{board.rate(now):>7,.0f} steps/s  p50 {median * 1e3:5.1f} ms  "
        f"p99 {worst * 1e3:6.1f} ms  {board.fill:4.1f} sequences a call"
    )
    waiting = sum(track.waiting for track in board.tracks)
    return text + (f"  ({waiting} streams wait for the server)" if waiting else "")


def screen(board: Board, now: float, width: int, height: int) -> Text:
    """The whole view, no larger than the terminal."""
    text = Text(no_wrap=True, overflow="crop")
    _head(text, board, now, width)
    _tracks(text, board, width, max(4, height - NEWS_LINES - 6))
    text.append("\n")
    for when, what in board.news[-NEWS_LINES:]:
        text.append(f"{when:6.1f} s  ", "bright_black")
        text.append(f"{what}\n", "bold red" if what.startswith("kill") else "")
    text.rstrip()
    lines = text.split("\n")
    for each in lines:
        each.truncate(width)
    return Text("\n").join(lines)


def _head(text: Text, board: Board, now: float, width: int) -> None:
    median, worst = board.percentiles(lately=True)
    share = board.done / max(board.total, 1)
    text.append("Legato", "bold")
    text.append(f"  {len(board.tracks)} sequences of real speech over gRPC, one model\n")
    label = f" {share:4.0%}  {board.done:,} of {board.total:,} steps"
    bar = max(10, width - len(label) - 1)
    full = round(bar * share)
    text.append("━" * full, SPEECH)
    text.append("━" * (bar - full), SILENCE)
    text.append(f"{label}\n")
    for name, value in (
        ("steps/s", f"{board.rate(now):,.0f}"),
        ("p50", f"{median * 1e3:.1f} ms"),
        ("p99", f"{worst * 1e3:.1f} ms"),
        ("sequences a call", f"{board.fill:.1f} of {len(board.tracks)}"),
    ):
        text.append(f"{name} ", "bright_black")
        text.append(f"{value}   ", "bold")
    text.append("\n\n")


def _tracks(text: Text, board: Board, width: int, rows: int) -> None:
    """A timeline a stream, in as many columns as are needed to show all."""
    names = max(len(track.name) for track in board.tracks) + 1
    room = max(1, (width + GAP) // (names + MIN_CELLS + GAP))
    columns = min(room, math.ceil(len(board.tracks) / rows))
    shown = board.tracks[: rows * columns]
    per_column = math.ceil(len(shown) / columns)
    cells = max(MIN_CELLS, (width - GAP * (columns - 1)) // columns - names)
    for row in range(per_column):
        for column in range(columns):
            index = column * per_column + row
            if index < len(shown):
                text.append(" " * GAP if column else "")
                text.append(f"{shown[index].name:{names}}", "bold" if index == 0 else "")
                mark = board.killed_frames[index] if board.killed_frames else -1
                text.append_text(timeline(shown[index], cells, mark))
        text.append("\n")
    if len(shown) < len(board.tracks):
        text.append(f"and {len(board.tracks) - len(shown)} more\n", "bright_black")


def timeline(track: Track, cells: int, mark: int = -1) -> Text:
    """A recording in ``cells`` characters: their height is the probability of speech.

    ``mark`` is the frame at which the server was killed.
    """
    text = Text()
    marked = mark * cells // track.frames if mark >= 0 else -1
    for cell in range(cells):
        start = cell * track.frames // cells
        end = max(start + 1, (cell + 1) * track.frames // cells)
        part = track.answers[start:end]
        if cell == marked:
            text.append(MARK, "bold red")
        elif not part:
            text.append(" ")
        else:
            mean = sum(part) / len(part)
            # Squared, because pauses are short: even a cell of four seconds shows them.
            shade = SHADES[min(len(SHADES) - 1, int(mean * mean * len(SHADES)))]
            text.append(shade, SPEECH if mean >= THRESHOLD else SILENCE)
    return text
