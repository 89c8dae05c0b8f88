"""The gate: any runtime, rows together against rows alone."""

import numpy as np
import pytest

from legato.core.types import Signature, StateSpec, TensorSpec, UpdateRule
from legato.runtimes.base import StepResult
from legato.runtimes.gate import check

X = TensorSpec("x", "float32", (1, 3))
Y = TensorSpec("y", "float32", (1, 3))
STATE = StateSpec("state", "state", "next", "float32", (1, 3))


class Numpy:
    """A runtime made of one function from (inputs, state) to (outputs, next state)."""

    def __init__(self, function, states=(STATE,), inputs=(X,), outputs=(Y,)):
        self.signature = Signature(inputs, outputs, tuple(states))
        self._function = function

    def step(self, batch):
        return StepResult(*self._function(batch.inputs, batch.state))

    def sequence_ended(self, correlation_id, reason):
        pass

    def close(self):
        pass


def add(inputs, state):
    total = inputs["x"] + state["state"]
    return {"y": total}, {"state": total}


def judge(runtime, **options):
    return check(runtime, np.random.default_rng(0), **options)


def test_independent_rows_pass_bit_for_bit():
    """A sum of a row and its state is the same in any company."""
    verdict = judge(Numpy(add))

    assert verdict.ok
    assert verdict.max_difference == 0
    assert "bit for bit" in verdict.why


def test_a_mean_over_the_batch_is_caught():
    """A row that depends on its neighbours may not share a call; the tensor is named."""

    def centre(inputs, state):
        y = inputs["x"] - inputs["x"].mean(axis=0, keepdims=True)
        return {"y": y}, {"state": state["state"]}

    verdict = judge(Numpy(centre))

    assert not verdict.ok
    assert verdict.ran
    assert verdict.worst == "y"
    assert "influence one another" in verdict.why


def test_a_runtime_may_write_over_what_it_gave():
    """Outputs are valid until the next call only; the gate keeps copies."""
    memory = {}

    def reuse(inputs, state):
        total = inputs["x"] + state["state"]
        # One array for all calls, of the largest size so far: what was given before changes.
        kept = memory.setdefault("kept", np.zeros((3, 3), np.float32))
        kept[: len(total)] = total
        return {"y": kept[: len(total)]}, {"state": kept[: len(total)]}

    verdict = judge(Numpy(reuse))

    assert verdict.ok
    assert verdict.max_difference == 0


def test_influence_through_the_state_alone_is_caught():
    """Outputs of one step prove nothing: the states are compared as well."""

    def leak(inputs, state):
        mixed = state["state"] + inputs["x"].max(axis=0, keepdims=True)
        return {"y": inputs["x"]}, {"state": mixed}

    verdict = judge(Numpy(leak))

    assert not verdict.ok
    assert verdict.worst == "state"


def test_a_counter_read_from_the_first_row_is_caught():
    """Counters of one age are alike in all rows, so rows of several ages are compared too."""
    count = StateSpec("count", "count", "next", "int64", (1, 1))

    def first_counts_for_all(inputs, state):
        return {"y": inputs["x"] * state["count"][:1]}, {"count": state["count"] + 1}

    verdict = judge(Numpy(first_counts_for_all, states=(count,)))

    assert not verdict.ok
    assert verdict.worst == "y"


def test_rows_in_another_order_are_caught():
    """A model that answers row 0 with row 2 mixes sequences up."""

    def reverse(inputs, state):
        return {"y": inputs["x"][::-1]}, {"state": state["state"]}

    assert not judge(Numpy(reverse)).ok


def test_last_bits_may_differ_within_the_tolerance():
    """Batched arithmetic may round another way; the bound is relative."""

    def jitter(inputs, state):
        noise = 1e-6 * (inputs["x"].shape[0] - 1)
        return {"y": inputs["x"] * (1 + noise)}, {"state": state["state"]}

    close, strict = judge(Numpy(jitter)), judge(Numpy(jitter), tolerance=1e-7)

    assert close.ok
    assert 0 < close.max_difference < 1e-5
    assert not strict.ok


def test_an_integer_that_differs_is_never_close():
    """A class label is right or wrong."""
    label = TensorSpec("label", "int64", (1, 1))

    def classify(inputs, state):
        rows = inputs["x"].shape[0]
        return {"label": np.full((rows, 1), rows, np.int64)}, {"state": state["state"]}

    verdict = judge(Numpy(classify, outputs=(label,)))

    assert not verdict.ok
    assert verdict.worst == "label"


def test_a_model_that_takes_one_row_only_does_not_run():
    """The verdict quotes the model, and says that it is not about numbers."""

    def single(inputs, state):
        if inputs["x"].shape[0] != 1:
            raise ValueError("one row, please")
        return add(inputs, state)

    verdict = judge(Numpy(single))

    assert not verdict.ok
    assert not verdict.ran
    assert "one row, please" in verdict.why


def test_a_wrong_row_count_does_not_run():
    """An output without a row for each sequence cannot be split."""

    def squash(inputs, state):
        return {"y": inputs["x"][:1]}, {"state": state["state"]}

    verdict = judge(Numpy(squash))

    assert not verdict.ok
    assert not verdict.ran


def test_a_model_that_refuses_made_up_rows_is_not_judged_well():
    """What could not be tried is not called safe."""

    def refuse(inputs, state):
        raise ValueError("no such word")

    verdict = judge(Numpy(refuse))

    assert not verdict.ok
    assert "no such word" in verdict.why


def test_an_open_dimension_is_given_a_size_that_runs():
    """Usual sizes are tried where the signature leaves one open."""
    seen = []

    def only_160(inputs, state):
        if inputs["x"].shape[1] != 160:
            raise ValueError("160 samples")
        seen.append(inputs["x"].shape)
        return {"y": inputs["x"].sum(axis=1, keepdims=True)}, {"state": state["state"]}

    open_ended = TensorSpec("x", "float32", (1, -1))
    verdict = judge(
        Numpy(only_160, inputs=(open_ended,), outputs=(TensorSpec("y", "float32", (1, 1)),))
    )

    assert verdict.ok
    assert (3, 160) in seen


@pytest.mark.parametrize("new_only", [True, False])
def test_growing_states_grow_alike_both_ways(new_only):
    """APPEND states are moved on as the engine does, whole or new entries only."""
    past = StateSpec(
        "past", "past", "present", "float32", (1, -1, 3),
        rule=UpdateRule.APPEND, axis=1, append_new_only=new_only,
    )  # fmt: skip
    lengths = []

    def attend(inputs, state):
        lengths.append(state["past"].shape[1])
        new = inputs["x"][:, None, :]
        whole = np.concatenate((state["past"], new), axis=1)
        return {"y": whole.sum(axis=1)}, {"past": new if new_only else whole}

    verdict = judge(Numpy(attend, states=[past]))

    assert verdict.ok
    assert max(lengths) == 3


def test_windows_and_constants_are_kept_both_ways():
    """WINDOW puts old samples in front; WRITE_ONCE is the client's value of the first step."""
    window = StateSpec("w", "x", None, "float32", (1, 2), rule=UpdateRule.WINDOW, axis=1, size=2)
    voice = StateSpec("voice", "voice", None, "float32", (1, 1), rule=UpdateRule.WRITE_ONCE)
    widths, voices = set(), []

    def listen(inputs, state):
        widths.add(inputs["x"].shape[1])
        voices.append(state["voice"].copy())
        return {"y": inputs["x"][:, :3] * state["voice"]}, {}

    inputs = (X, TensorSpec("voice", "float32", (1, 1), optional=True))
    verdict = judge(Numpy(listen, states=[window, voice], inputs=inputs))

    assert verdict.ok
    assert widths == {5}
    assert any(value.any() for value in voices)


def test_empty_values_are_kept_both_ways():
    """KEEP_IF_EMPTY leaves the old value where the model answers with nothing."""
    kept = StateSpec("m", "m", "n", "float32", (1, -1), rule=UpdateRule.KEEP_IF_EMPTY)
    shapes = []

    def remember(inputs, state):
        shapes.append(state["m"].shape)
        first = state["m"].shape[1] == 0
        rows = inputs["x"].shape[0]
        return {"y": inputs["x"]}, {
            "m": inputs["x"] if first else np.zeros((0, 3), "float32")[:rows]
        }

    verdict = judge(Numpy(remember, states=[kept]))

    assert verdict.ok
    assert (3, 3) in shapes
