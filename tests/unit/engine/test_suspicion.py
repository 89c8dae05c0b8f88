"""Which step crashes the process: notes, steps run alone, steps refused."""

from __future__ import annotations

import json
from types import SimpleNamespace

from legato.core.types import SequenceKey
from legato.engine.batch import BatchOutcome
from legato.engine.suspicion import QuarantinedError, Suspicion


def work(correlation_id: int | str, number: int = 1):
    """A step as a plan holds it."""
    sequence = SimpleNamespace(key=SequenceKey("m", correlation_id))
    return SimpleNamespace(sequence=sequence, number=number)


class Runner:
    """Runs plans, and reads the note while it does."""

    def __init__(self, note) -> None:
        self.note = note
        self.noted: list[list] = []
        self.plans: list[list] = []

    def __call__(self, plan) -> BatchOutcome:
        if self.note is not None and self.note.exists():
            self.noted.append(self.read())
        self.plans.append([one.sequence.key.correlation_id for one in plan])
        rows = [f"result of {one.sequence.key.correlation_id}" for one in plan]
        return BatchOutcome(rows, 0.5, 1)

    def read(self) -> list | None:
        text = self.note.read_text()
        return json.loads(text.partition("\n")[0]) if text else None


def test_what_runs_is_noted_while_it_runs(tmp_path) -> None:
    """And only then: a crash elsewhere must not blame it."""
    runner = Runner(tmp_path / "note")
    suspicion = Suspicion(tmp_path / "note", (), ())

    outcome = suspicion.run([work(7, 3), work("7")], runner)

    assert runner.noted == [[["m", 7, 3], ["m", "7", 1]]]
    assert runner.read() == []
    assert outcome.rows == ["result of 7", "result of 7"]


def test_suspects_run_alone_and_rows_keep_their_order(tmp_path) -> None:
    """Each is noted by itself, so the next crash names it."""
    runner = Runner(tmp_path / "note")
    suspicion = Suspicion(tmp_path / "note", [("m", 2, 1), ("m", 4, 1)], ())

    outcome = suspicion.run([work(at) for at in (1, 2, 3, 4)], runner)

    assert runner.plans == [[1, 3], [2], [4]]
    assert runner.noted[1:] == [[["m", 2, 1]], [["m", 4, 1]]]
    assert outcome.rows == [f"result of {at}" for at in (1, 2, 3, 4)]
    assert (outcome.compute_s, outcome.retried) == (1.5, 3)


def test_the_quarantined_step_is_refused_and_no_other(tmp_path) -> None:
    """Another step of the same sequence, or the same number of another, is run."""
    runner = Runner(None)
    suspicion = Suspicion(None, (), [("m", 2, 5)])

    outcome = suspicion.run([work(2, 5), work(2, 6), work("2", 5)], runner)

    assert isinstance(outcome.rows[0], QuarantinedError)
    assert "stays at step 4" in outcome.rows[0].message
    assert runner.plans == [[2, "2"]]


def test_steps_without_a_number_are_not_noted(tmp_path) -> None:
    """A model without state has no sequence that could be held back."""
    runner = Runner(tmp_path / "note")

    Suspicion(tmp_path / "note", (), ()).run([work(0, 0)], runner)

    assert runner.noted == [[]]


def test_after_a_while_nothing_is_noted_any_more(tmp_path) -> None:
    """The price is paid for a minute only; the note is left empty."""
    now = [0.0]
    runner = Runner(tmp_path / "note")
    suspicion = Suspicion(tmp_path / "note", (), (), watch_s=60.0, clock=lambda: now[0])
    suspicion.run([work(1)], runner)

    now[0] = 61.0
    suspicion.run([work(1)], runner)
    suspicion.run([work(1)], runner)

    assert runner.noted == [[["m", 1, 1]], [["m", 1, 1]], None]
    assert runner.read() is None
    assert len(runner.plans) == 3
