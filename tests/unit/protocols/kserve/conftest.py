"""Stand-ins for the engine and for calls: no sockets, no threads, no clock."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from legato.core.errors import CancelledStepError, ServerError, UnknownModelError
from legato.core.types import (
    OutputHeader,
    Reply,
    Signature,
    StateSpec,
    Step,
    TensorSpec,
)
from legato.engine.statistics import ModelStatistics
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.rpc.service import Status
from legato.repository.config import ModelConfig

ACCUMULATOR = Signature(
    inputs=(TensorSpec("INPUT", "float32", (1, 1)),),
    outputs=(TensorSpec("OUTPUT", "float32", (1, 1)),),
    states=(StateSpec("SUM", "SUM", "SUM_OUT", "float32", (1, 1)),),
    platform="onnxruntime_onnx",
)
HEADERS = (OutputHeader("OUTPUT", "float32", (1, 1)),)


class FakeEngine:
    """Keeps what it is given until the test answers; or answers by itself."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()
        self.cancelled: list[Step] = []
        self.counted: list[tuple[str, str]] = []
        self.decoupled: set[str] = set()
        self.unloaded: set[str] = set()
        self.answer: Any = None  # outcome given at once, where set
        self.handles = {"accumulator": served("accumulator", ACCUMULATOR)}

    def submit(self, step: Step) -> None:
        self.steps.append(step)
        if self.answer is not None:
            step.done(self.answer)

    def cancel(self, step: Step) -> None:
        self.cancelled.append(step)
        step.done(CancelledStepError())

    def refused(self, name: str, error: ServerError) -> None:
        self.counted.append((name, error.code))

    def model(self, name: str, version: str = "") -> Any:
        handle = self.handles.get(name)
        if handle is None or version not in ("", handle.version):
            raise UnknownModelError(name, version)
        return handle

    def models(self) -> list[Any]:
        return list(self.handles.values())


def served(name: str, signature: Signature, **options: Any) -> Any:
    return SimpleNamespace(
        name=name,
        version="1",
        config=ModelConfig(name=name, **options),
        signature=signature,
        statistics=ModelStatistics(),
        ready=True,
    )


class FakeCall:
    """Keeps what is sent."""

    def __init__(self, metadata: dict[str, str] | None = None) -> None:
        self.path = "/inference.GRPCInferenceService/ModelInfer"
        self.metadata = metadata or {}
        self.deadline: float | None = None
        self.sent: list[bytes] = []
        self.status: Any = None
        self.text = ""
        self.trailers: dict[str, str] = {}
        self.paused = 0
        self.resumed = 0
        self.congested = False

    @property
    def closed(self) -> bool:
        return self.status is not None

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: Any = Status.OK, message: str = "", trailers: Any = ()) -> None:
        if self.status is None:
            self.status, self.text, self.trailers = status, message, dict(trailers)

    def pause(self) -> None:
        self.paused += 1

    def resume(self) -> None:
        self.resumed += 1

    def stream_replies(self) -> list[pb.ModelStreamInferResponse]:
        return [pb.ModelStreamInferResponse.FromString(message) for message in self.sent]

    def ids(self) -> list[str]:
        return [reply.infer_response.id for reply in self.stream_replies()]


def make_request(
    sequence: int | str | None = 7, request_id: str = "", model: str = "accumulator", **flags: Any
) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=model, id=request_id)
    if isinstance(sequence, str):
        message.parameters["sequence_id"].string_param = sequence
    elif sequence is not None:
        message.parameters["sequence_id"].int64_param = sequence
    for key, value in flags.items():
        field = "bool_param" if isinstance(value, bool) else "int64_param"
        setattr(message.parameters[key], field, value)
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(b"\0\0\x80\x3f")
    return message


def make_reply(step: int = 1, **more: Any) -> Reply:
    return Reply(HEADERS, (b"\0\0\0\x40",), 7, step, "1", **more)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def call() -> FakeCall:
    return FakeCall()


@pytest.fixture
def kit() -> Any:
    """The helpers above, for tests that need to make several."""
    return SimpleNamespace(
        Engine=FakeEngine,
        Call=FakeCall,
        request=make_request,
        reply=make_reply,
        served=served,
        signature=ACCUMULATOR,
    )
