"""What the demo says at its end."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from legato.demo.segments import FRAME, RATE, Segment, seconds

if TYPE_CHECKING:
    from rich.console import RenderableType

    from legato.demo.board import Board, Server
    from legato.demo.check import Verdict


def title(board: Board, verdict: Verdict) -> str:
    """One line about the run, for the picture."""
    text = (
        f"Silero VAD served by Legato: {len(board.tracks)} sequences at once, "
        f"{board.total:,} steps in {board.finished - board.started:.1f} s"
    )
    if board.killed_at:
        text += ", server killed half way"
    return text + (", every answer exact" if verdict.right else ", ANSWERS DIFFER")


def render(board: Board, verdict: Verdict) -> RenderableType:
    """The whole report."""
    return Group(
        "",
        _segments(verdict),
        "",
        _table(_facts(board, verdict)),
        "",
        Text(
            "every answer is as it should be" if verdict.right else "THE ANSWERS DIFFER",
            "bold green" if verdict.right else "bold red",
        ),
    )


def _table(facts: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="bold", no_wrap=True)
    table.add_column()
    for name, value in facts:
        table.add_row(name, value)
    return table


def _segments(verdict: Verdict) -> Table:
    """Served segments beside the right ones."""
    other = "silero-vad's own answer" if verdict.whole else "the bare model"
    table = Table(
        title="Speech in the reference recording, in seconds",
        title_justify="left",
        box=None,
        padding=(0, 2),
    )
    table.add_column("", justify="right", style="bright_black")
    table.add_column("through Legato", justify="right")
    table.add_column(other, justify="right")
    table.add_column("difference", justify="right")
    for number, (found, published) in enumerate(
        zip_longest(verdict.found, verdict.published), start=1
    ):
        same = found == published
        table.add_row(
            str(number), _span(found), _span(published), _difference(found, published),
            style="" if same else "bold red",
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "",
        f"{len(verdict.found)} segments, {seconds(verdict.found):.2f}",
        f"{len(verdict.published)} segments, {seconds(verdict.published):.2f}",
        "none" if verdict.found == verdict.published else "see above",
        style="bold",
    )
    return table


def _span(segment: Segment | None) -> str:
    return f"{segment.start / RATE:6.3f} - {segment.end / RATE:6.3f}" if segment else "missing"


def _difference(found: Segment | None, published: Segment | None) -> str:
    if found is None or published is None:
        return "one is missing"
    off = max(abs(found.start - published.start), abs(found.end - published.end))
    return f"{off} samples"


def _facts(board: Board, verdict: Verdict) -> list[tuple[str, str]]:
    """Name and value of everything else worth telling."""
    median, worst = board.percentiles()
    took = board.finished - board.started
    audio = board.total * FRAME / RATE
    exact = f"{board.total:,} answers, " + (
        f"at most {verdict.difference:.1e} away from the bare model's, run without a server"
        if verdict.difference
        else "every one equal to the bare model's, run without a server"
    )
    speed = (
        f"{took:.1f} s for {audio / 60:.0f} minutes of audio: {board.total / took:,.0f} steps/s, "
        f"{audio / took:,.0f} times real time"
    )
    facts = [
        ("all streams", exact),
        ("speed", speed),
        ("latency", f"p50 {median * 1e3:.1f} ms, p99 {worst * 1e3:.1f} ms, seen by the clients"),
    ]
    if board.killed_at:
        facts.append(("crash", _crash(board, verdict)))
    for index, server in enumerate(board.servers):
        name = "server" if index == 0 else "server again"
        facts.append((name, _server(server)))
    return facts


def _crash(board: Board, verdict: Verdict) -> str:
    resent = sum(track.resent for track in board.tracks)
    replayed = sum(track.replayed for track in board.tracks)
    return (
        f"killed (SIGKILL) after {sum(board.killed_frames):,} steps, first answer "
        f"{board.paused_s:.1f} s later; {resent} steps were sent again: {replayed} had been "
        f"committed and got their stored answer, {resent - replayed} ran then"
        + ("; none lost, none applied twice" if verdict.right else "")
    )


def _server(server: Server) -> str:
    if not server.calls:
        return "no numbers"
    return (
        f"{server.steps:,} steps in {server.calls:,} model calls: {server.fill:.1f} sequences a "
        f"call, {server.compute_s / server.calls * 1e3:.2f} ms a call, "
        f"{server.queue_s / server.steps * 1e3:.2f} ms waiting a step"
    )
