"""States of different sizes share a model call, where the runtime takes them as they are."""

from __future__ import annotations

import numpy as np
import pytest

from legato.core.errors import ModelError, SignatureError
from legato.core.types import TORCHSERVE, Reply, Signature, StateRow, StateSpec, TensorSpec
from legato.engine.arena import StateLayout
from legato.runtimes.base import StepResult

RAGGED = StateSpec("s", "s", "s", "uint8", (1, -1), ragged=True)
FIXED = StateSpec("f", "f", "f", "float32", (1, 2))


def layout(*states: StateSpec) -> StateLayout:
    return StateLayout(Signature((), (), states))


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def test_rows_of_different_sizes_are_gathered_and_split() -> None:
    """Each row has its own shape before and after."""
    states = layout(FIXED, RAGGED)
    rows = [StateRow((bytes(8), blob), ((1, 2), (1, len(blob)))) for blob in (b"", b"abc")]

    gathered, _windows = states.gather(rows)
    following = {"f": gathered["f"], "s": objects(b"xy", b"")}
    after = states.split(following, rows, [False, False])

    assert gathered["s"].tolist() == [b"", b"abc"]
    assert [row.data[1] for row in after] == [b"xy", b""]
    assert [row.shapes for row in after] == [((1, 2), (1, 2)), ((1, 2), (1, 0))]
    assert all(states.fits(row) for row in after)


def test_only_other_shapes_keep_rows_apart() -> None:
    """A model of nothing else has one group."""
    growing = StateSpec("g", "g", "g", "float32", (1, -1))
    row = StateRow((b"abc", bytes(8)), ((1, 3), (1, 2)))

    assert layout(RAGGED, FIXED).uniform
    assert not layout(RAGGED, growing).uniform
    assert layout(RAGGED, growing).shapes_in_common(row) == ((1, 2),)


@pytest.mark.parametrize(
    "value", [objects(b"one"), objects(b"a", "text"), np.zeros((2, 3), np.uint8)]
)
def test_what_is_not_one_byte_string_a_row_is_refused(value) -> None:
    """The model's mistake is named, nothing is stored."""
    rows = [StateRow((b"",), ((1, 0),))] * 2

    with pytest.raises(SignatureError, match="2 byte strings"):
        layout(RAGGED).split({"s": value}, rows, [False, False])


class Counting:
    """Counts down from x, a part a call; its state is the list of what it was asked."""

    signature = Signature(
        (TensorSpec("x", "int64", (1, 1)),), (TensorSpec("y", "int64", (1, 1)),), (RAGGED,)
    )

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def step(self, batch):
        self.sizes.append(len(batch.rows))
        x = batch.inputs["x"].ravel().tolist()
        states, again, over = [], {}, []
        for at, (row, state) in enumerate(zip(batch.rows, batch.state["s"].tolist(), strict=True)):
            states.append(state + bytes([x[at]]))
            left = x[at] - row.parameters.get("legato_again", 0)
            if left > 1:
                again[at] = (b"%d" % left, {"left": left})
            if x[at] == 0:
                over.append(at)
        failed = {at: ModelError("nine") for at, value in enumerate(x) if value == 9}
        outputs = {"y": np.array(x, np.int64).reshape(-1, 1)}
        return StepResult(outputs, {"s": objects(*states)}, failed, again, over)

    def sequence_ended(self, correlation_id, reason):
        pass

    def close(self):
        pass


def send(h, cid: str, x: int, **options):
    return h.send(cid, inputs={"x": np.array([[x]], np.int64)}, dialect=TORCHSERVE, **options)


def test_parts_are_committed_steps_and_leave_in_order(make) -> None:
    """Whatever was asked meanwhile of the same sequence goes before the next part."""
    h = make(runtimes=Counting)
    h.load()
    seen: list[object] = []
    between: list[object] = []

    def part(body, meta):
        seen.append((body, meta, h.stored("a")[0].step))
        if not between:
            between.append(send(h, "a", 1))

    stream = send(h, "a", 4, partial=part)
    h.settle()

    assert [(body, step) for body, _meta, step in seen] == [(b"4", 1), (b"3", 3), (b"2", 4)]
    assert between[0].reply.step == 2
    assert stream.reply.step == 5
    assert h.state("a").data == (bytes([4, 1, 4, 4, 4]),)


def test_streams_share_calls_with_others(make) -> None:
    """Parts of one and steps of another run together."""
    h = make(runtimes=Counting)
    h.load()

    one, other = send(h, "a", 3), send(h, "b", 3)
    h.settle()

    assert isinstance(one.outcome, Reply)
    assert isinstance(other.outcome, Reply)
    assert h.runtime.sizes == [2, 2, 2]


def test_model_ends_a_sequence_by_itself(make) -> None:
    """Its record is a tombstone; the id begins anew."""
    h = make(runtimes=Counting)
    h.load()
    h.ask("a", inputs={"x": np.array([[1]], np.int64)}, dialect=TORCHSERVE)

    send(h, "a", 0)
    h.settle()
    again = send(h, "a", 1)
    h.settle()

    assert again.reply.step == 1
    assert h.state("a").data == (b"\x01",)


def test_failed_row_keeps_its_ragged_state(make) -> None:
    """As any failed row does."""
    h = make(runtimes=Counting)
    h.load()
    send(h, "a", 1)
    h.settle()

    failed = send(h, "a", 9)
    h.settle()

    assert failed.error.message == "nine"
    assert h.state("a").data == (b"\x01",)
