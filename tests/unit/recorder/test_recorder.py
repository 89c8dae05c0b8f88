"""What a recording holds, when it begins, and what it does when the disk is too slow."""

from __future__ import annotations

import threading

import pytest

from doubles import FAIL_ROW, chain_of, state_of
from legato.archive.sequence import unpack
from legato.core.errors import ClientError, ConfigError
from legato.core.types import SequenceKey
from legato.recorder.frames import (
    BEGIN,
    LOST,
    MAGIC,
    STEP,
    RecordingError,
    digests,
    read,
    whole_size,
)
from legato.recorder.recorder import Recorder
from legato.recorder.writer import Job, Writer
from legato.repository.config import ModelConfig

KEY = SequenceKey("m", 1)


def frames(path) -> list:
    with path.open("rb") as stream:
        return list(read(stream))


def told(path) -> list[tuple[int, int]]:
    """Kind and step of every frame."""
    return [(f.kind, f.facts.get("step", f.facts.get("lost"))) for f in frames(path)]


def test_a_recorded_model_writes_every_step(recorded) -> None:
    """The state at the beginning, then inputs, outputs and digests; failed steps are none."""
    recorded.steps(1, 5)
    recorded.ask(1, 6, FAIL_ROW)
    recorded.steps(1, 7)

    (path,) = recorded.files()
    begin, first, second = frames(path)

    assert told(path) == [(BEGIN, 0), (STEP, 1), (STEP, 2)]
    assert unpack(begin.blobs[0]).state.data[0] == bytes(16)
    assert begin.facts["digest"] == "d" * 16
    assert ["x", "int64", [1, 1]] in first.facts["inputs"]
    tensors = [*second.facts["inputs"], *second.facts["outputs"]]
    values = {name: blob for (name, *_), blob in zip(tensors, second.blobs, strict=True)}
    assert values["x"] == (7).to_bytes(8, "little")
    assert values["link"] == chain_of([5, 7])
    assert second.facts["states"] == digests(state_of([5, 7]))
    assert path.parent.name == "m"
    assert path.name == f"i-1-{recorded.stored(1)[0].incarnation.hex()}.rec"


def test_nothing_is_recorded_unless_asked_for(watched) -> None:
    """And an engine that nobody watches has no observers."""
    watched.steps(1, 5)

    assert watched.engine.commits.observers == []
    assert watched.files() == []


def test_a_recording_may_begin_in_mid_life(watched) -> None:
    """With the state at that moment; other sequences are left out; off is off."""
    watched.steps(1, 5, 6)
    watched.recorder.start(KEY)
    watched.steps(1, 7)
    watched.steps(2, 1)
    watched.recorder.stop(KEY)
    watched.steps(1, 8)

    (path,) = watched.files()

    assert told(path) == [(BEGIN, 2), (STEP, 3)]
    assert unpack(frames(path)[0].blobs[0]).state == state_of([5, 6])


def test_a_recording_goes_on_in_its_file(watched) -> None:
    """After a pause, with the state at hand; a torn end is cut off first."""
    watched.recorder.start(KEY)
    watched.steps(1, 5)
    watched.recorder.stop(KEY)
    watched.steps(1, 6)
    (path,) = watched.files()
    watched.writer.inner._forget(path)
    with path.open("ab") as stream:
        stream.write(b"half a frame")

    watched.recorder.start(KEY)
    watched.steps(1, 7)

    assert told(path) == [(BEGIN, 0), (STEP, 1), (BEGIN, 2), (STEP, 3)]


def test_each_incarnation_has_its_file(recorded) -> None:
    """A restart begins another."""
    recorded.steps(1, 5)
    recorded.ask(1, 6, start=True)
    recorded.ask("a/b", 1, start=True)

    assert len(recorded.files()) == 3
    assert all(told(path) == [(BEGIN, 0), (STEP, 1)] for path in recorded.files())


def test_names_of_files_stay_inside_the_folder(tmp_path) -> None:
    """Whatever models and ids are called, and however long they are."""
    recorder = Recorder(None, tmp_path)
    for model in ("..", ".", "a.b", "ü" * 200):
        for cid in (7, "..", "../x", "a" * 200, "\x00"):
            path = recorder.file_of(SequenceKey(model, cid), bytes(16))
            assert path.parent.parent == tmp_path / "recordings"
            assert max(len(part) for part in path.parts[-2:]) < 255
            assert ".." not in path.parts


def test_steps_that_the_disk_cannot_follow_are_counted(recorded) -> None:
    """They are answered all the same; the file tells the loss and begins anew."""
    recorded.steps(1, 5)
    recorded.writer.full = True
    recorded.steps(1, 6, 7)
    lost = recorded.recorder.track(KEY).lost
    recorded.writer.full = False
    recorded.steps(1, 8)

    (path,) = recorded.files()

    assert recorded.state(1) == state_of([5, 6, 7, 8])
    assert lost == 2
    assert told(path) == [(BEGIN, 0), (STEP, 1), (LOST, 2), (BEGIN, 3), (STEP, 4)]
    assert (recorded.recorder.track(KEY).steps, recorded.recorder.track(KEY).lost) == (2, 2)


def test_what_has_ended_is_followed_no_more(recorded) -> None:
    """Nothing is kept of it in memory."""
    recorded.steps(1, 5)
    recorded.ask(1, 6, end=True)

    assert recorded.recorder.track(KEY) is None
    assert told(recorded.files()[0])[-1] == (STEP, 2)


def test_there_must_be_somewhere_to_write(make_engine) -> None:
    """A model that asks for it is refused at start, a call when it is made."""
    harness = make_engine()
    recorder = Recorder(harness.engine, None)
    harness.load()
    with pytest.raises(ClientError, match="--data"):
        recorder.start(KEY)
    recorder.watch_models()
    harness.load("n", record={"max_bytes": 5})

    with pytest.raises(ConfigError, match="model 'n' asks"):
        recorder.watch_models()


@pytest.fixture
def make_engine():
    from doubles import Harness

    made = []

    def make():
        made.append(Harness())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_model_says_how_it_is_recorded() -> None:
    """true, or a mapping with limits."""
    assert ModelConfig(name="m").recording.max_bytes == 1 << 30
    assert not ModelConfig(name="m").record
    assert ModelConfig(name="m", record=True).record is True
    assert ModelConfig(name="m", record={"max_bytes": 10}).recording.max_bytes == 10


# -- frames ------------------------------------------------------------------------------------


def test_a_cut_recording_is_read_up_to_the_cut(recorded) -> None:
    """At every byte: a prefix of the whole steps, never anything else."""
    recorded.steps(1, 5, 6, 7)
    (path,) = recorded.files()
    whole = path.read_bytes()
    expected = told(path)
    cut = path.with_suffix(".cut")

    for size in range(len(MAGIC), len(whole)):
        cut.write_bytes(whole[:size])
        found = told(cut)
        assert found == expected[: len(found)]
        assert whole_size(cut) <= size
    assert whole_size(path) == len(whole)


def test_a_damaged_recording_is_read_up_to_the_damage(recorded) -> None:
    """A flipped bit ends it; nothing behind it is believed."""
    recorded.steps(1, 5, 6)
    (path,) = recorded.files()
    whole, expected = path.read_bytes(), told(path)
    for at in range(len(MAGIC), len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        found = told(path)
        assert found == expected[: len(found)]
        assert len(found) < len(expected)


def test_another_file_is_no_recording(tmp_path) -> None:
    """It is said so, and not written to."""
    path = tmp_path / "x.rec"
    path.write_bytes(b"something else entirely")

    with pytest.raises(RecordingError):
        frames(path)
    with pytest.raises(RecordingError):
        whole_size(path)


# -- the writer's thread ------------------------------------------------------------------------


def job(path, pieces=(b"x",), nbytes=1, failed=lambda _problem: None, limit=0) -> Job:
    return Job(path, lambda: list(pieces), nbytes, failed, limit)


def test_the_writer_is_bounded(tmp_path) -> None:
    """By bytes and by number; what waits is written in order all the same."""
    gate = threading.Event()
    held = Job(tmp_path / "a", lambda: [b"1"] if gate.wait(30) else [], 10, lambda _: None)
    writer = Writer(most_bytes=100, most_jobs=3)

    taken = [
        writer.put(held), writer.put(job(tmp_path / "a", [b"2"], 60)),
        writer.put(job(tmp_path / "a", [b"3"], 60)), writer.put(job(tmp_path / "a", [b"4"], 1)),
        writer.put(job(tmp_path / "a", [b"5"], 1)),
    ]  # fmt: skip
    gate.set()
    flushed = writer.flush()
    again = writer.put(job(tmp_path / "a", [b"6"], 60))
    writer.close()

    assert taken == [True, True, False, True, False]
    assert (flushed, again) == (True, True)
    assert (tmp_path / "a").read_bytes() == MAGIC + b"1246"


def test_trouble_with_one_file_does_not_stop_the_others(tmp_path) -> None:
    """A folder in the way, a limit, a step that no frame can hold: told, and no more."""
    (tmp_path / "a").mkdir()
    told_of = []
    writer = Writer()

    def fails(name):
        return lambda problem: told_of.append((name, problem))

    def breaks():
        raise TypeError("no frame can hold it")

    writer.put(job(tmp_path / "a", failed=fails("a")))
    writer.put(job(tmp_path / "b", [b"x" * 50], failed=fails("b"), limit=20))
    writer.put(Job(tmp_path / "c", breaks, 1, fails("c")))
    writer.put(job(tmp_path / "d"))
    writer.close()

    assert [name for name, _problem in told_of] == ["a", "b", "c"]
    assert "limit of 20 bytes" in told_of[1][1]
    assert (tmp_path / "b").read_bytes() == MAGIC
    assert (tmp_path / "d").read_bytes() == MAGIC + b"x"


def test_a_recording_that_failed_says_why(recorded) -> None:
    """And counts what it misses; steps go on."""
    recorded.steps(1, 5)
    recorded.recorder.track(KEY).problem = "the disk is full"
    recorded.steps(1, 6)

    track = recorded.recorder.track(KEY)

    assert (track.steps, track.lost, track.problem) == (1, 1, "the disk is full")
    recorded.recorder.start(KEY)
    recorded.steps(1, 7)
    assert told(recorded.files()[0])[-2:] == [(BEGIN, 2), (STEP, 3)]


def test_many_files_are_written_with_few_open(tmp_path) -> None:
    """What was closed is opened again, at its end."""
    writer = Writer()
    for piece in (b"1", b"2"):
        for name in range(100):
            writer.put(job(tmp_path / str(name), [piece]))
        assert writer.flush()
    few = len(writer._files)
    writer.close()

    assert few <= 64
    # Pieces that are no frames are cut off when a file is opened again: only whole ones count.
    assert {path.read_bytes() for path in tmp_path.iterdir()} <= {MAGIC + b"2", MAGIC + b"12"}
