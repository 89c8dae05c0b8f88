"""States that stay on the device: what is committed stays the truth."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

from tests.models import torch_models as models  # noqa: E402

from legato.core.types import StateRow, StateSpec  # noqa: E402
from legato.engine.batch import Batcher, BatchRow, RowResult  # noqa: E402
from legato.runtimes.base import RowInfo  # noqa: E402
from legato.runtimes.torch.program import pack_bytes, unpacked  # noqa: E402
from legato.runtimes.torch.resident import Resident  # noqa: E402

SPECS = (StateSpec("h", "h", "n", "float32", (1, 2)), StateSpec("c", "c", "d", "int64", (2, 1), 1))


def made(*numbers):
    """Tensors of a call's next states, and the rows that they became."""
    h = torch.tensor([[n, n + 0.5] for n in numbers], dtype=torch.float32)
    c = torch.tensor([list(numbers), [10 * n for n in numbers]])
    rows = [
        StateRow((h[at].numpy().tobytes(), c[:, at].numpy().tobytes()), ((1, 2), (2, 1)))
        for at in range(len(numbers))
    ]
    return {"h": h, "c": c}, rows


def numbers_of(gathered):
    assert gathered["c"].shape == (2, len(gathered["h"]))
    assert (gathered["c"][1] == 10 * gathered["c"][0]).all()
    assert (gathered["h"][:, 0] == gathered["c"][0]).all()
    return gathered["c"][0].tolist()


def test_the_same_rows_get_the_very_tensors():
    """A batch that goes on together copies nothing."""
    resident = Resident(SPECS, "cpu")
    tensors, rows = made(1, 2, 3)
    resident.keep(tensors, rows)

    gathered = resident.gather(rows)

    assert gathered["h"] is tensors["h"]
    assert resident.uploads == 0


def test_rows_of_several_calls_and_of_none_are_laid_in_order():
    """What is on the device is picked there, and only the rest is uploaded."""
    resident = Resident(SPECS, "cpu")
    (first, one), (second, two), (_, new) = made(1, 2, 3), made(4, 5), made(6, 7)
    resident.keep(first, one)
    resident.keep(second, two)

    gathered = resident.gather([new[0], two[1], one[2], one[0], new[1], two[0]])

    assert numbers_of(gathered) == [6, 5, 3, 1, 7, 4]
    assert resident.uploads == 2


def test_a_row_that_only_looks_like_another_is_uploaded():
    """Identity tells, not value: a row read from the store may stand for another history."""
    resident = Resident(SPECS, "cpu")
    tensors, rows = made(1)
    resident.keep({name: value + 100 for name, value in tensors.items()}, rows)

    gathered = resident.gather([copy.copy(StateRow(*rows[0]))])

    assert numbers_of(gathered) == [1]
    assert resident.uploads == 1


def test_a_row_that_is_needed_again_is_uploaded():
    """A step that was not committed begins from the same row once more."""
    resident = Resident(SPECS, "cpu")
    tensors, rows = made(1, 2)
    resident.keep(tensors, rows)

    resident.gather(rows)
    again = resident.gather(rows)

    assert numbers_of(again) == [1, 2]
    assert resident.uploads == 2


def test_memory_is_bounded():
    """The oldest calls are forgotten, which costs an upload and nothing else."""
    resident = Resident(SPECS, "cpu", limit=3 * 24)
    kept = [made(n) for n in range(1, 6)]
    for tensors, rows in kept:
        resident.keep(tensors, rows)

    gathered = resident.gather([rows[0] for _, rows in kept])

    assert numbers_of(gathered) == [1, 2, 3, 4, 5]
    assert resident.uploads == 2


@pytest.mark.parametrize("name", ["Recurrent", "Convolution"])
def test_steps_through_the_engine_answer_as_private_copies(load, tmp_path, name):
    """Ragged batches, some steps run twice from the same row as after a failed commit."""
    module = models.seeded(getattr(models, name))
    shape = {"Recurrent": (1, 8), "Convolution": (1, 2, 5)}[name]
    path = models.export(module, tmp_path, torch.zeros(shape))
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    exported = load(path, options={"resident": True})
    own = load(name, options={"resident": True}, file=tmp_path / "weights.pt",
               inputs={"x": {"shape": list(shape)}})  # fmt: skip
    rng = np.random.default_rng(8)

    for runtime in (exported, own):
        batcher, private, held, uploads = Batcher(runtime.signature), models.Private(module), {}, 0
        for _ in range(10):
            ids = rng.permutation(6)[: rng.integers(1, 7)].tolist()
            uploads += len(set(ids) - held.keys())
            sent = {i: rng.standard_normal(shape).astype(np.float32) for i in ids}
            rows = [
                BatchRow(
                    {"x": sent[i]},
                    held.setdefault(i, batcher.states.initial({})),
                    RowInfo(i, 1, start=False, end=False, parameters={}),
                )
                for i in ids
            ]
            if rng.random() < 0.3:
                batcher.run(runtime, rows)
                uploads += len(ids)
            for i, result in zip(ids, batcher.run(runtime, rows).rows, strict=True):
                assert isinstance(result, RowResult)
                held[i] = result.state
                want = private.step(i, sent[i])
                want = want["y"] if isinstance(want, dict) else want
                got = np.frombuffer(result.data[0], np.float32)
                np.testing.assert_allclose(got, want.numpy().ravel(), atol=1e-5)
        assert runtime.resident.uploads == uploads


def test_states_stay_off_the_device_by_default_on_cpu(load, tmp_path):
    """There is nothing to save where the device is the host."""
    path = models.export(models.seeded(models.Recurrent), tmp_path, torch.zeros(1, 8))

    assert load(path).resident is None


def test_results_of_several_dtypes_cross_in_one_piece():
    """What another device gives comes over in one transfer, each tensor where it belongs."""
    given = [
        torch.randn(3, 5),
        torch.tensor([True, False, True]),
        torch.arange(6).reshape(2, 3).T,
        torch.zeros(0, 4),
        torch.tensor(2.5, dtype=torch.float64),
        torch.ones(3, dtype=torch.float16),
    ]

    arrays = unpacked(pack_bytes(given), given)

    for array, tensor in zip(arrays, given, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
        assert array.dtype == tensor.numpy().dtype
