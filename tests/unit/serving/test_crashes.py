"""What the supervisor learns from crashes."""

from __future__ import annotations

import json
import signal

import pytest

from legato.serving.crashes import STORE_FAILED, Crashes

A, B = ("m", 7, 3), ("m", "7", 1)


def crash(crashes: Crashes, note, running, code: int = -signal.SIGSEGV) -> list[str]:
    """Let a process end that was running these steps."""
    note.write_text(json.dumps(running) + "\nleft over from a longer note")
    return list(crashes.ended(code))


def test_after_the_first_crash_the_next_process_takes_notes(tmp_path) -> None:
    """Before it, nothing is noted and nothing is known."""
    crashes = Crashes(tmp_path / "note")
    before = crashes.settings()

    said = list(crashes.ended(-signal.SIGABRT))

    assert (before.note, said) == (None, [])
    assert crashes.settings().note == tmp_path / "note"


def test_a_step_that_was_running_alone_is_quarantined(tmp_path) -> None:
    """It is named for people; ids keep their types."""
    crashes = Crashes(tmp_path / "note")

    (sentence,) = crash(crashes, tmp_path / "note", [B])

    assert crashes.settings().quarantined == (B,)
    assert "step 1 of sequence '7' of model 'm'" in sentence
    assert not (tmp_path / "note").exists()


def test_steps_that_were_running_together_are_suspects_until_one_is_found(tmp_path) -> None:
    """The guilty one is no suspect any more, the others may be."""
    crashes = Crashes(tmp_path / "note")

    crash(crashes, tmp_path / "note", [A, B])
    suspects = crashes.settings().suspects
    crash(crashes, tmp_path / "note", [B])

    assert suspects == (A, B)
    assert crashes.settings().suspects == (A,)
    assert crashes.settings().quarantined == (B,)


@pytest.mark.parametrize("code", [-signal.SIGKILL, -signal.SIGTERM, 0, STORE_FAILED, None])
def test_an_end_that_is_no_fault_of_a_step_teaches_nothing(tmp_path, code) -> None:
    """Killed from outside, stopped, or ended because of its store."""
    crashes = Crashes(tmp_path / "note")

    crash(crashes, tmp_path / "note", [A], code)

    assert crashes.settings().quarantined == ()
    assert crashes.settings().note is None


def test_a_note_that_cannot_be_read_names_nobody(tmp_path) -> None:
    """A crash in the middle of writing it must not harm the supervisor."""
    crashes = Crashes(tmp_path / "note")
    (tmp_path / "note").write_text('[["m", 7')

    assert list(crashes.ended(-signal.SIGSEGV)) == []
    assert crashes.settings().quarantined == ()
