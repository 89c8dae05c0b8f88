"""Running recordings again: equal to the last bit, or the first difference is shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles import ChainRuntime, state_of
from legato.core.errors import ConfigError, ModelError
from legato.core.types import SequenceKey
from legato.recorder import replay as module
from legato.recorder.frames import STEP, RecordingError, encode, read
from legato.recorder.replay import Replay
from legato.repository.config import ModelConfig
from legato.runtimes.base import StepResult

KEY = SequenceKey("m", 1)


class Odd(ChainRuntime):
    """The same model, but for the input 7: it answers, remembers or fails otherwise."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def step(self, batch):
        result = super().step(batch)
        if int(batch.inputs["x"].ravel()[0]) != 7:
            return result
        if self.how == "fails":
            raise ModelError("seven")
        outputs, state = dict(result.outputs), dict(result.state)
        if self.how == "answers":
            count = outputs["count"].copy()
            count[1, 0] = -count[1, 0]
            outputs["count"] = count
        if self.how == "remembers":
            state["chain"] = state["chain"] ^ np.uint8(1)
        if self.how == "reshapes":
            outputs["link"] = outputs["link"][:, :8]
        return StepResult(outputs, state)


@pytest.fixture
def model(monkeypatch, tmp_path):
    """Makes replays find a model without files."""

    def use(runtime=None, digest="d" * 16, **config) -> None:
        found = [ModelConfig(**{"name": "m", **config})]
        monkeypatch.setattr(module, "load_paths", lambda _paths: found)
        monkeypatch.setattr(module.registry, "build", lambda _config: runtime or ChainRuntime())
        monkeypatch.setattr(module, "content_digest", lambda _config: digest)

    use()
    return use


def record(recorded, *xs, cid=1):
    recorded.steps(cid, *xs)
    return next(path for path in recorded.files() if f"-{cid}-" in path.name)


def run(path, tmp_path):
    return Replay(path, tmp_path).run()


def test_the_same_model_gives_the_same_steps(recorded, model, tmp_path) -> None:
    """Outputs and states; the end of the sequence as well."""
    path = record(recorded, 5, 6, 7)
    recorded.ask(1, 8, end=True)

    outcome = run(path, tmp_path)

    assert (outcome.steps, outcome.first, outcome.last) == (4, 1, 4)
    assert outcome.difference is None
    assert (outcome.missing, outcome.torn, outcome.key) == ([], 0, KEY)


@settings(max_examples=20)
@given(sent=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 99)), min_size=1, max_size=20))
def test_steps_that_shared_batches_are_equal_alone(recorded_kind, tmp_path_factory, sent) -> None:
    """However sequences were mixed, each replays by itself."""
    folder = tmp_path_factory.mktemp("recorded")
    harness = recorded_kind(folder)
    harness.load(record=True)
    harness.recorder.watch_models()
    for cid in (1, 2, 3):
        harness.send(cid, 0, start=True)
    for cid, x in sent:
        harness.send(cid, x)
    harness.settle()
    harness.recorder.close()
    harness.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_paths", lambda _paths: [ModelConfig(name="m")])
        patch.setattr(module.registry, "build", lambda _config: ChainRuntime())
        patch.setattr(module, "content_digest", lambda _config: "d" * 16)
        outcomes = [run(path, folder) for path in harness.files()]

    assert [outcome.difference for outcome in outcomes] == [None] * 3
    assert sum(outcome.steps for outcome in outcomes) == len(sent) + 3


@pytest.mark.parametrize(
    ("how", "what", "tensor", "index", "values"),
    [
        ("answers", "output", "count", (1, 0), ("3.0", "-3.0")),
        ("remembers", "state", "chain", (), None),
        ("fails", "error", "", (), ("the step was applied", "seven")),
        ("reshapes", "layout", "", (), None),
    ],
)
def test_the_first_difference_is_shown(
    recorded, model, tmp_path, how, what, tensor, index, values
) -> None:
    """Step, tensor, place and both values; what came before was equal."""
    path = record(recorded, 5, 6, 7, 8)
    model(Odd(how), digest="e" * 16)

    outcome = run(path, tmp_path)

    found = outcome.difference
    assert (outcome.steps, found.step, found.what) == (2, 3, what)
    assert (found.tensor, found.index) == (tensor, index)
    assert values in (None, (found.recorded, found.replayed))
    assert (outcome.recorded_digest, outcome.digest) == ("d" * 16, "e" * 16)
    assert found.elements == (2 if how == "answers" else 0)


def test_a_recording_from_mid_life_starts_from_its_own_state(watched, model, tmp_path) -> None:
    """What came before it is not needed."""
    watched.steps(1, 5, 6)
    watched.recorder.start(KEY)
    watched.steps(1, 7)

    outcome = run(watched.files()[0], tmp_path)

    assert (outcome.steps, outcome.first, outcome.difference) == (1, 3, None)


def test_missing_steps_and_torn_ends_are_told(recorded, model, tmp_path) -> None:
    """The rest is compared all the same."""
    path = record(recorded, 5)
    recorded.writer.full = True
    recorded.steps(1, 6, 7)
    recorded.writer.full = False
    recorded.steps(1, 8)
    with path.open("ab") as stream:
        stream.write(b"torn")

    outcome = run(path, tmp_path)

    assert (outcome.steps, outcome.missing, outcome.torn) == (2, ["steps 2 to 3"], 4)
    assert outcome.difference is None


def test_progress_is_told_in_bytes(recorded, model, tmp_path) -> None:
    """Up to the size of the file."""
    path = record(recorded, 5, 6)
    seen = []

    Replay(path, tmp_path).run(seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == path.stat().st_size


def test_what_cannot_be_run_is_refused(recorded, model, tmp_path) -> None:
    """No recording, an empty one, one without a beginning, no model, another model's states."""
    path = record(recorded, 5, 6)
    other = tmp_path / "other.rec"

    with pytest.raises(ConfigError, match="not where it was recorded"):
        Replay(path, tmp_path / "nowhere").run()
    with pytest.raises(RecordingError, match="cannot be read"):
        run(tmp_path / "nowhere.rec", tmp_path)
    other.write_bytes(b"junk and more junk")
    with pytest.raises(RecordingError, match="no recording"):
        run(other, tmp_path)
    other.write_bytes(b"LEGATOREC1\n")
    with pytest.raises(RecordingError, match="nothing"):
        run(other, tmp_path)
    with path.open("rb") as stream:
        begin, first, second = list(read(stream))
    other.write_bytes(b"LEGATOREC1\n" + b"".join(encode(STEP, first.facts, first.blobs)))
    with pytest.raises(RecordingError, match="does not begin"):
        run(other, tmp_path)
    pieces = [
        *encode(begin.kind, begin.facts, begin.blobs),
        *encode(STEP, second.facts, second.blobs),
    ]
    other.write_bytes(b"LEGATOREC1\n" + b"".join(pieces))
    with pytest.raises(RecordingError, match="step 2 follows step 0"):
        run(other, tmp_path)


def test_the_states_of_the_doubles_are_what_was_replayed(recorded, model, tmp_path) -> None:
    """The replay ends where the sequence is."""
    path = record(recorded, 5, 6)
    replay = Replay(path, tmp_path)

    replay.run()

    assert replay._state == state_of([5, 6]) == recorded.state(1)
