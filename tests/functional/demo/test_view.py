"""What people see: the live view, the plain line, the report."""

import io

import pytest
from rich.console import Console

from legato.demo import report, view
from legato.demo.board import Board, Server, Track
from legato.demo.check import Verdict
from legato.demo.segments import PUBLISHED, Segment


def board_of(streams, frames=100, answered=50):
    board = Board([Track(f"stream-{i:02}", frames) for i in range(streams)], started=10.0)
    for track in board.tracks:
        for _ in range(answered):
            board.answered(track, 1.0, 11.0, 0.002)
    return board


def shown(renderable, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize("size", [(80, 24), (130, 50), (60, 15), (200, 70)])
@pytest.mark.parametrize("streams", [1, 4, 32, 200])
def test_view_fits_the_terminal(size, streams):
    """No line is wider and no view is higher than the terminal."""
    board = board_of(streams)
    for index in range(9):
        board.tell(11.0, f"something happened {index}")

    lines = view.screen(board, 12.0, *size).plain.splitlines()

    assert len(lines) <= size[1]
    assert max(map(len, lines)) <= size[0]


def test_view_shows_every_stream_of_the_default_run_on_a_small_terminal():
    """32 streams fit into 80 by 24."""
    text = view.screen(board_of(32), 12.0, 80, 24).plain

    assert all(f"stream-{i:02}" in text for i in range(32))


def test_timeline_shows_speech_silence_the_kill_and_what_is_to_come():
    """Height is probability, the kill is marked, the rest is blank."""
    track = Track("a", 100, answers=[1.0] * 25 + [0.0] * 25 + [1.0] * 25)

    assert view.timeline(track, 4).plain == "█▁█ "
    assert view.timeline(track, 4, mark=30).plain == "█┃█ "


def test_line_tells_progress_speed_and_waiting_streams():
    """One line has what a log needs."""
    board = board_of(2)
    board.fill = 1.5
    board.tracks[0].waiting = True

    text = view.line(board, 12.0)

    assert "100 of 200 steps" in text
    assert "50 steps/s" in text
    assert "p50   2.0 ms" in text
    assert "1.5 sequences a call" in text
    assert "(1 streams wait for the server)" in text


def test_half_way_is_noticed_once_half_of_the_steps_are_answered():
    """The kill waits for this."""
    assert not board_of(2, answered=49).halfway.is_set()
    assert board_of(2, answered=50).halfway.is_set()


def test_pause_ends_with_the_first_answer_after_the_kill():
    """The time without answers is measured and told."""
    board = board_of(1)

    board.killed(20.0)
    board.answered(board.tracks[0], 0.5, 20.75, 0.001)
    board.answered(board.tracks[0], 0.5, 21.0, 0.001)

    assert board.paused_s == 0.75
    assert board.killed_frames == [50]
    assert [text for _when, text in board.news] == [
        "first answer 0.8 s after the kill: the streams go on"
    ]


def test_report_of_a_right_run_says_so():
    """Same segments, no difference."""
    board = board_of(2)
    board.finished = 20.0
    board.servers = [Server(200, 100, 0.2, 0.05)]

    text = shown(report.render(board, Verdict(list(PUBLISHED), list(PUBLISHED), True, 0.0)))

    assert "19 segments, 48.63" in text
    assert "every answer is as it should be" in text
    assert "2.0 sequences a call, 0.50 ms a call, 1.00 ms waiting a step" in text
    assert "DIFFER" not in text


@pytest.mark.parametrize(
    ("found", "difference", "words"),
    [
        ([*PUBLISHED[:-1]], 0.0, "one is missing"),
        ([Segment(32, 33248), *PUBLISHED[1:]], 0.0, "512 samples"),
        ([*PUBLISHED], 0.5, "5.0e-01 away"),
    ],
)
def test_report_of_a_wrong_run_shows_where(found, difference, words):
    """A missing or moved segment, or a wrong stream, cannot be overlooked."""
    board = board_of(2)
    board.finished, board.killed_at, board.killed_frames = 20.0, 12.0, [5, 5]

    verdict = Verdict(found, list(PUBLISHED), True, difference)
    text = shown(report.render(board, verdict))

    assert not verdict.right
    assert words in text
    assert "THE ANSWERS DIFFER" in text
    assert "none lost" not in text
