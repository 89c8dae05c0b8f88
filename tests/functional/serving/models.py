"""Models and calls for tests of the server as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.protocols.kserve.gen import kserve_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

SERVICE = "/inference.GRPCInferenceService"
TIMEOUT_S = 20

COUNTER = '''
import time
import numpy as np
from legato.model import Batch, Input, Model, Output, Result, State

class Counter(Model):
    """Counts the steps of a sequence; takes as long as it is told."""

    inputs = [Input("sleep_ms", "int32", (1, 1))]
    outputs = [Output("count", "int64", (1, 1))]
    states = [State("seen", "int64", (1, 1))]

    def step(self, batch):
        time.sleep(float(batch.inputs["sleep_ms"].max()) / 1000)
        seen = batch.state["seen"] + 1
        return Result({"count": seen}, {"seen": seen})
'''


def write_counter(folder: Path, name: str = "counter") -> Path:
    """Write a model that counts and can be slow; return its folder."""
    home = folder / name
    home.mkdir()
    # A step that is told to be slow must not hold up the event loop because others were fast.
    config = "runtime: python\nentry: counter.py:Counter\nexecution: thread\n"
    (home / "model.yaml").write_text(config)
    (home / "counter.py").write_text(COUNTER)
    return home


def request(sequence: int, sleep_ms: int = 0, **flags: bool) -> pb.ModelInferRequest:
    """Make a step of the counter."""
    made = pb.ModelInferRequest(model_name="counter")
    made.parameters["sequence_id"].int64_param = sequence
    for name, value in flags.items():
        made.parameters[f"sequence_{name}"].bool_param = value
    tensor = made.inputs.add(name="sleep_ms", datatype="INT32", shape=[1, 1])
    tensor.contents.int_contents.append(sleep_ms)
    return made


def infer(channel: grpc.Channel, made: pb.ModelInferRequest) -> int:
    """Run a step and return the count."""
    return count(caller(channel)(made, timeout=TIMEOUT_S))


def caller(channel: grpc.Channel) -> grpc.UnaryUnaryMultiCallable:
    return channel.unary_unary(
        f"{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


def count(answer: pb.ModelInferResponse) -> int:
    return int.from_bytes(answer.raw_output_contents[0], "little")
