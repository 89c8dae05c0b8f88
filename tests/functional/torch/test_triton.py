"""Triton's model repositories with its PyTorch backend: counted names, implicit state, controls."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra legato[torch]: make test-torch")

import tritonclient.grpc as client_of  # noqa: E402
from tests.functional.triton.conftest import begin  # noqa: E402
from tests.models import torch_models as models  # noqa: E402

CONFIG = """
name: "sum"
backend: "pytorch"
max_batch_size: MOST
input [ { name: "INPUT__0" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 2 ] } ]
sequence_batching {
  control_input [ {
    name: "START__2"
    control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ]
  } ]
  state [ { input_name: "STATE__1" output_name: "OUTPUT__1" data_type: TYPE_FP32 dims: [ 2 ] } ]
}
"""


@pytest.mark.parametrize("most", [8, 0])
def test_implicit_state_of_a_torchscript_model(tmp_path, most):
    """Sums of two interleaved sequences, one begun anew by START; batched and unbatched."""
    folder = tmp_path / "sum" / "1"
    folder.mkdir(parents=True)
    models.script(models.Accumulator(), folder)
    (tmp_path / "sum" / "config.pbtxt").write_text(CONFIG.replace("MOST", str(most)))
    served = begin(tmp_path)
    shape = [1, 2] if most else [2]
    got = []
    try:
        served.served.await_ready()
        client = served.client()
        for sequence, value, start in (
            (1, 1, True),
            (2, 10, True),
            (1, 2, False),
            (2, 20, False),
            (1, 5, True),
            (1, 6, False),
        ):
            tensor = client_of.InferInput("INPUT__0", shape, "FP32")
            tensor.set_data_from_numpy(np.full(shape, value, np.float32))
            result = client.infer("sum", [tensor], sequence_id=sequence, sequence_start=start)
            answer = result.as_numpy("OUTPUT__0")
            assert list(answer.shape) == shape
            got.append(answer.ravel()[0])
        config = client.get_model_config("sum", as_json=True)["config"]
        client.close()
    finally:
        served.served.close()

    assert got == [2, 20, 6, 60, 10, 22]
    assert (config["backend"], config["platform"]) == ("pytorch", "pytorch_libtorch")
