"""DTLN: two recurrent networks with signal processing around them, as one model.

Audio comes in blocks of 128 samples (8 ms at 16 kHz). Each block completes a window of
512: the first network masks its spectrum, the second one refines the samples, and the
overlapping windows are added up. Four tensors are carried from block to block.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from legato.model import Batch, Input, Model, Output, Result, State

BLOCK, WINDOW = 128, 512


class Denoiser(Model):
    """Removes noise from speech; the output lags 384 samples behind."""

    inputs = (Input("noisy", "float32", (1, BLOCK)),)
    outputs = (Output("clean", "float32", (1, BLOCK)),)
    states = (
        State("heard", "float32", (1, WINDOW)),
        State("mask", "float32", (1, 2, 128, 2)),
        State("refine", "float32", (1, 2, 128, 2)),
        State("overlap", "float32", (1, WINDOW)),
    )

    def load(self, options: Mapping[str, Any]) -> None:
        """Open both networks."""
        session = ort.SessionOptions()
        session.intra_op_num_threads = self.threads
        self.stages = [
            ort.InferenceSession(with_free_batch(self.folder / options[stage]), session)
            for stage in ("stage_1", "stage_2")
        ]

    def step(self, batch: Batch) -> Result:
        """Clean one block of every row."""
        rows, state = len(batch), batch.state
        heard = np.concatenate([state["heard"][:, BLOCK:], batch.inputs["noisy"]], axis=1)
        spectrum = np.fft.rfft(heard)
        loudness = np.abs(spectrum).astype(np.float32).reshape(rows, 1, -1)
        mask, mask_state = self.stages[0].run(None, {"input_2": loudness, "input_3": state["mask"]})
        masked = np.fft.irfft(spectrum * mask[:, 0]).astype(np.float32)
        refined, refine_state = self.stages[1].run(
            None, {"input_4": masked.reshape(rows, 1, -1), "input_5": state["refine"]}
        )
        overlap = np.pad(state["overlap"][:, BLOCK:], ((0, 0), (0, BLOCK))) + refined[:, 0]
        return Result(
            {"clean": overlap[:, :BLOCK]},
            {"heard": heard, "mask": mask_state, "refine": refine_state, "overlap": overlap},
        )


def with_free_batch(path: Path) -> bytes:
    """Let a graph that was exported for one row take any number of rows.

    Sound here because no operator of these two graphs mixes rows: only the declared
    sizes and the targets of two reshapes say 1.
    """
    model = onnx.load(path)
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "rows"
    del model.graph.value_info[:]
    targets = {node.input[1] for node in model.graph.node if node.op_type == "Reshape"}
    for constant in model.graph.initializer:
        if constant.name in targets:
            shape = numpy_helper.to_array(constant).copy()
            shape[0] = -1
            constant.CopyFrom(numpy_helper.from_array(shape, constant.name))
    return model.SerializeToString()
