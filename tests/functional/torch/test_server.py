"""``legato serve model.pt2``: Triton's own client, 32 sequences at once, and a crash between."""

import os
import queue
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

import tritonclient.grpc as triton  # noqa: E402
from tests.functional.conftest import start  # noqa: E402
from tests.models import torch_models as models  # noqa: E402

SEQUENCES, STEPS = 32, 20
WAIT_S = 60


def inputs(row):
    tensor = triton.InferInput("x", list(row.shape), "FP32")
    tensor.set_data_from_numpy(row)
    return [tensor]


def stream(address, model, rows, first=0):
    """Send ``rows[sequence, step]``, sequences ragged and interleaved, and collect answers."""
    answers = queue.Queue()
    client = triton.InferenceServerClient(address)
    rng = np.random.default_rng(1)
    sequences, steps = rows.shape[:2]
    turns = rng.permutation(np.repeat(np.arange(sequences), steps)).tolist()
    at = [first] * sequences
    try:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for sequence in turns:
            step = at[sequence]
            at[sequence] += 1
            client.async_stream_infer(
                model,
                inputs(rows[sequence, step - first]),
                request_id=f"{sequence} {step}",
                sequence_id=sequence + 1,
                sequence_start=step == 0,
            )
        got = {}
        for _ in turns:
            result, error = answers.get(timeout=WAIT_S)
            assert error is None, error
            place = tuple(map(int, result.get_response().id.split()))
            got[place] = {
                name: result.as_numpy(name)
                for name in (output.name for output in result.get_response().outputs)
            }
        client.stop_stream()
    finally:
        client.close()
    return got


def made_up(shape, steps=STEPS, seed=2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SEQUENCES, steps, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("module", "shape"),
    [(models.Recurrent, (1, 8)), (models.Convolution, (1, 2, 5))],
    ids=["native", "vmap"],
)
def test_32_interleaved_sequences_answer_as_32_private_copies(serve, tmp_path, module, shape):
    """Buffers of an exported program are each sequence's own, though rows share calls."""
    subject = models.seeded(module)
    path = models.export(subject, tmp_path, torch.zeros(shape), name="counting")
    rows = made_up(shape)

    got = stream(serve(path).address, "counting", rows)

    private = models.Private(subject)
    assert len(got) == SEQUENCES * STEPS
    for step in range(STEPS):
        for sequence in range(SEQUENCES):
            want = private.step(sequence, rows[sequence, step])
            want = want if isinstance(want, dict) else {"output_0": want}
            for name, value in want.items():
                np.testing.assert_allclose(got[sequence, step][name], value, atol=2e-5)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_buffers_outlive_the_server(tmp_path, how):
    """No acknowledged step is lost, and none is applied twice."""
    subject = models.seeded(models.Recurrent)
    path = models.export(subject, tmp_path, torch.zeros(1, 8), name="counting")
    rows = made_up((1, 8), 2 * 5)
    got = {}

    for life in range(2):
        served = start(path, data=tmp_path / "data")
        try:
            served.await_ready()
            mine = rows[:, 5 * life : 5 * life + 5]
            got |= stream(served.address, "counting", mine, first=5 * life)
            if how is signal.SIGKILL:
                os.kill(served.pid, how)
            else:
                served.stop(how)
        finally:
            served.close()

    private = models.Private(subject)
    for step in range(10):
        for sequence in range(SEQUENCES):
            want = private.step(sequence, rows[sequence, step])
            np.testing.assert_allclose(got[sequence, step]["y"], want["y"], atol=2e-5)
            assert got[sequence, step]["seen"] == step + 1


def test_hidden_attributes_outlive_the_server(tmp_path):
    """What a TorchScript module assigns to itself is as durable as declared state."""
    models.script(models.Attribute(), tmp_path)
    (tmp_path / "model.yaml").write_text(
        "name: hidden\nfile: model.pt\ninputs:\n  x: {shape: [1, 2]}\n"
    )
    rows = made_up((1, 2), 2 * 3)
    got = {}

    for life in range(2):
        served = start(tmp_path / "model.yaml", data=tmp_path / "data")
        try:
            served.await_ready()
            got |= stream(
                served.address, "hidden", rows[:, 3 * life : 3 * life + 3], first=3 * life
            )
            os.kill(served.pid, signal.SIGKILL)
        finally:
            served.close()

    private = models.Private(models.Attribute())
    for step in range(6):
        for sequence in range(SEQUENCES):
            want = private.step(sequence, rows[sequence, step])
            np.testing.assert_array_equal(got[sequence, step]["output_0"], want)


def test_metadata_names_pytorch_and_no_state(serve, tmp_path):
    """A client sees data inputs and outputs only, and the platform that Triton names."""
    path = models.export(
        models.seeded(models.Recurrent), tmp_path, torch.zeros(1, 8), name="counting"
    )
    client = triton.InferenceServerClient(serve(path).address)

    told = client.get_model_metadata("counting")
    client.close()

    assert told.platform == "pytorch_libtorch"
    assert [tensor.name for tensor in told.inputs] == ["x"]
    assert [tensor.name for tensor in told.outputs] == ["y", "seen"]
