"""Exported programs: buffers that they change are state, and rows share calls."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.models import torch_models as models  # noqa: E402

from legato.core.errors import ConfigError  # noqa: E402

RNG = np.random.default_rng(3)


def rows(ids, shape):
    return {i: {"x": RNG.standard_normal(shape).astype(np.float32)} for i in ids}


def compare(load, sequences, module, shape, path, output="output_0"):
    """Run sequences that come and go in batches of many sizes, and private copies beside them."""
    runtime, private = sequences(load(path)), models.Private(module)
    worst = 0.0
    for step in range(12):
        ids = RNG.permutation(7)[: 1 + step % 7].tolist()
        sent = rows(ids, shape)
        got = runtime.step(sent)
        for i in ids:
            data = sent[i]["x"]
            want = private.step(i, data)
            want = want[output] if isinstance(want, dict) else want
            worst = max(worst, float(np.abs(got[i][output].ravel() - want.numpy().ravel()).max()))
    return runtime.runtime, worst


def test_mutated_buffers_are_state(load, tmp_path):
    """What the graph signature says is changed is carried; other buffers stay weights."""
    path = models.export(models.seeded(models.Recurrent), tmp_path, torch.zeros(1, 8))

    signature = load(path).signature

    assert [(s.name, s.dtype, s.shape) for s in signature.states] == [
        ("h", "float32", (1, 1, 16)),
        ("count", "int64", (1,)),
    ]
    assert [spec.name for spec in signature.inputs] == ["x"]
    assert [spec.name for spec in signature.outputs] == ["y", "seen"]


@pytest.mark.parametrize("output", ["y", "seen"])
def test_rows_side_by_side_answer_as_private_copies(load, sequences, tmp_path, output):
    """A program of ordinary operations takes many rows as it is, though exported for one."""
    module = models.seeded(models.Recurrent)
    path = models.export(module, tmp_path, torch.zeros(1, 8))

    runtime, worst = compare(load, sequences, module, (1, 8), path, output)

    assert runtime.form.mode == "native"
    assert runtime.signature.batching
    assert worst < 1e-5


def test_a_program_that_fixes_its_shapes_runs_under_vmap(load, sequences, tmp_path):
    """``view(1, -1)`` forbids rows side by side; vmap hides them from the graph."""
    module = models.seeded(models.Convolution)
    path = models.export(module, tmp_path, torch.zeros(1, 2, 5))

    runtime, worst = compare(load, sequences, module, (1, 2, 5), path)

    assert runtime.form.mode == "vmap"
    assert "torch.vmap" in runtime.signature.why
    assert worst < 1e-5


def test_rows_that_influence_one_another_are_not_put_side_by_side(load, sequences, tmp_path):
    """The gate sees the maximum taken over all rows, and vmap keeps them apart."""
    module = models.seeded(models.Normed)
    path = models.export(module, tmp_path, torch.zeros(1, 4))

    runtime, worst = compare(load, sequences, module, (1, 4), path)

    assert runtime.form.mode == "vmap"
    assert worst < 1e-5


def test_a_position_is_each_rows_own(load, sequences, tmp_path):
    """Sequences of one age would not show that the first row's position serves all."""
    module = models.seeded(models.Positioned)
    path = models.export(module, tmp_path, torch.zeros(1, 2))

    runtime, worst = compare(load, sequences, module, (1, 2), path)

    assert runtime.form.mode == "vmap"
    assert worst < 1e-5


def test_a_model_without_batches_gets_an_axis_for_rows(load, sequences, tmp_path):
    """Vectors in and a number out: clients send one row, and several share a call."""
    module = models.seeded(models.Flat)
    path = models.export(module, tmp_path, torch.zeros(4))
    runtime, private = sequences(load(path)), models.Private(module)

    for _ in range(4):
        sent = rows(range(5), (1, 4))
        got = runtime.step(sent)
        for i, row in sent.items():
            np.testing.assert_allclose(
                got[i]["output_0"], private.step(i, row["x"][0]).reshape(1), atol=1e-5
            )
    assert runtime.runtime.signature.batching
    assert any("got one in front" in note for note in runtime.runtime.findings.notes)


def test_a_shape_without_rows_in_the_config_is_kept(load, tmp_path):
    """Who says the model's own shape sends it, and rows then share no call."""
    path = models.export(models.seeded(models.Flat), tmp_path, torch.zeros(4))

    signature = load(path, inputs={"x": {"shape": [4]}}).signature

    assert signature.inputs[0].shape == (4,)
    assert not signature.batching
    assert "'x' has no axis for rows" in signature.why


def test_a_state_argument_is_paired_by_its_name_and_shape(load, tmp_path):
    """Outputs of programs have no names: one called state takes the only output like it."""
    path = models.export(
        models.seeded(models.Explicit), tmp_path, torch.zeros(1, 8), torch.zeros(1, 16)
    )

    runtime = load(path)

    assert [(s.input, s.output) for s in runtime.signature.states] == [("state", "output_1")]
    assert "only this output has its shape" in runtime.findings.why["state"]


def test_a_tuple_of_states_is_paired_as_a_whole(load, tmp_path):
    """An LSTM's two states look alike; their places in the tuple tell them apart."""
    state = (torch.zeros(1, 16), torch.zeros(1, 16))
    path = models.export(models.seeded(models.Pair), tmp_path, torch.zeros(1, 8), state)

    signature = load(path).signature

    assert [(s.input, s.output) for s in signature.states] == [
        ("hx_0", "output_1_0"),
        ("hx_1", "output_1_1"),
    ]


def test_an_input_that_is_changed_in_place_is_state(load, sequences, tmp_path):
    """What a program does to its argument is that argument's next value."""
    path = models.export(models.Writes(), tmp_path, torch.zeros(1, 2), torch.zeros(1, 2))
    runtime = sequences(load(path))

    first = runtime.step({1: {"x": np.float32([[1, 2]])}, 2: {"x": np.float32([[4, 8]])}})
    second = runtime.step({1: {"x": np.float32([[0, 0]])}})

    np.testing.assert_array_equal(first[2]["output_0"], [[8, 16]])
    np.testing.assert_array_equal(second[1]["output_0"], [[1, 2]])


def test_an_open_batch_is_found(load, tmp_path):
    """A program exported with a dynamic batch needs no loosening."""
    batch = torch.export.Dim("batch")
    path = models.export(
        models.seeded(models.Explicit), tmp_path, torch.zeros(2, 8), torch.zeros(2, 16),
        dynamic_shapes=({0: batch}, {0: batch}),
    )  # fmt: skip

    signature = load(path).signature

    assert signature.batching
    assert signature.inputs[0].shape == (1, 8)


@pytest.mark.parametrize(("batching", "together"), [("off", False), ("force", True)])
def test_the_config_decides_over_the_gate(load, tmp_path, batching, together):
    """Batching can be switched off, and forced."""
    path = models.export(models.seeded(models.Recurrent), tmp_path, torch.zeros(1, 8))

    signature = load(path, batching=batching).signature

    assert signature.batching is together


def test_a_damaged_file_is_refused_in_a_sentence(load, tmp_path):
    """The error names the file and says how to write one."""
    path = models.export(models.seeded(models.Flat), tmp_path, torch.zeros(4))
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(ConfigError, match=r"model\.pt2: .*is no PyTorch file"):
        load(path)
