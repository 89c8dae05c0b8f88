"""Stand-ins for the engine, its catalog and calls: no sockets, no threads, no clock."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from legato.core.errors import UnknownModelError
from legato.core.types import OutputHeader, Reply, Signature, StateSpec, Step, TensorSpec
from legato.engine.catalog import Known, VersionState, VersionStateError
from legato.protocols.rpc.service import Status
from legato.protocols.tfserving.gen import tfserving_pb2 as pb

SUMMATOR = Signature(
    inputs=(TensorSpec("x", "float32", (1, 10)),),
    outputs=(TensorSpec("y", "float32", (1, 10)),),
    states=(StateSpec("sum", "sum", "next", "float32", (1, 10)),),
)
DUMMY = Signature(
    inputs=(TensorSpec("b", "float32", (1, 10)),), outputs=(TensorSpec("a", "float32", (1, 10)),)
)
SEQUENCE_ID, CONTROL = "sequence_id", "sequence_control_input"


class FakeEngine:
    """Keeps what it is given; answers at once where told what."""

    def __init__(self) -> None:
        self.steps: deque[Step] = deque()
        self.cancelled: list[Step] = []
        self.answer: Any = None
        self.full: Any = None

    def submit(self, step: Step) -> None:
        self.steps.append(step)
        if self.answer is not None:
            step.done(self.answer(step) if callable(self.answer) else self.answer)

    def cancel(self, step: Step) -> None:
        self.cancelled.append(step)

    def room(self, name: str) -> Any:
        return self.full


class FakeCatalog:
    """Knows two models and what became of versions of a third."""

    def __init__(self) -> None:
        self.models = {
            "summator": {"1": served("summator", SUMMATOR)},
            "dummy": {"1": served("dummy", DUMMY), "2": served("dummy", DUMMY, "2")},
        }
        self.states: dict[str, list[Known]] = {
            "gone": [Known("1", VersionState.RETIRED), Known("2", VersionState.FAILED, "broken")]
        }
        self.reloaded: Any = False
        self.lingering: list[Any] = []

    def find(self, name: str, version: str = "", *, lingering: bool = False) -> Any:
        if name in self.states:
            states = {known.version: known.state for known in self.states[name]}
            if version in states:
                raise VersionStateError(name, version, states[version])
            raise UnknownModelError(name, version or "?")
        found = self.models.get(name)
        if found is None:
            raise UnknownModelError(name)
        if version and version not in found:
            raise UnknownModelError(name, version)
        return found[version or max(found)]

    def others(self, name: str) -> list[Any]:
        return self.lingering

    def known(self, name: str) -> list[Known]:
        if name in self.states:
            return self.states[name]
        return [Known(version, VersionState.AVAILABLE) for version in self.models.get(name, {})]

    def names(self) -> list[str]:
        return sorted(self.models)

    async def reload(self) -> bool:
        if isinstance(self.reloaded, Exception):
            raise self.reloaded
        return self.reloaded


def served(name: str, signature: Signature, version: str = "1") -> Any:
    return SimpleNamespace(
        name=name, version=version, signature=signature, stateful=bool(signature.states)
    )


class FakeCounts:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, str, str, bool]] = []
        self.timed: list[tuple[str, str]] = []

    def count(self, method: str, name: str, version: str, *, ok: bool) -> None:
        self.counted.append((method, name, version, ok))

    def took(self, name: str, version: str, seconds: float) -> None:
        assert seconds >= 0
        self.timed.append((name, version))


class FakeCall:
    """Keeps what is sent."""

    def __init__(self, metadata: dict[str, str] | None = None) -> None:
        self.path = "/tensorflow.serving.PredictionService/Predict"
        self.metadata = metadata or {}
        self.deadline: float | None = None
        self.sent: list[bytes] = []
        self.headers: dict[str, str] = {}
        self.status: Any = None
        self.text = ""
        self.trailers: dict[str, str] = {}
        self.congested = False

    @property
    def closed(self) -> bool:
        return self.status is not None

    def binary_metadata(self, name: str) -> bytes | None:
        return None

    def set_header(self, name: str, value: str) -> None:
        self.headers[name] = value

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def finish(self, status: Any = Status.OK, message: str = "", trailers: Any = ()) -> None:
        if self.status is None:
            self.status, self.text, self.trailers = status, message, dict(trailers)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


def tensor(array: Any, **changes: Any) -> pb.TensorProto:
    """Write an array as ``tensor_content``."""
    from legato.protocols.tfserving.datatypes import number_of_numpy

    array = np.asarray(array)
    made = pb.TensorProto(dtype=number_of_numpy(array.dtype.name), tensor_content=array.tobytes())
    made.tensor_shape.SetInParent()
    for size in array.shape:
        made.tensor_shape.dim.add(size=size)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def values(
    field: str, *given: Any, shape: tuple[int, ...] = (1,), dtype: int = 0
) -> pb.TensorProto:
    """Write values in a typed field."""
    made = pb.TensorProto(dtype=dtype)  # type: ignore[arg-type]
    getattr(made, field).extend(given)
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def request(
    model: str = "summator", version: int = 0, **inputs: pb.TensorProto
) -> pb.PredictRequest:
    made = pb.PredictRequest()
    made.model_spec.name = model
    if version:
        made.model_spec.version.value = version
    for name, value in inputs.items():
        made.inputs[name].CopyFrom(value)
    return made


def start(id_: int = 0, **inputs: pb.TensorProto) -> pb.PredictRequest:
    """A right START of the summator, with other inputs where given."""
    made = {"x": tensor(np.ones((1, 10), np.float32)), CONTROL: values("uint32_val", 1)}
    if id_:
        made[SEQUENCE_ID] = values("uint64_val", id_)
    return request(**{**made, **inputs})


def reply(step: int = 1, name: int = 7, **more: Any) -> Reply:
    headers = (OutputHeader("y", "float32", (1, 10)),)
    return Reply(headers, (np.arange(10, dtype=np.float32).tobytes(),), name, step, "1", **more)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def catalog() -> FakeCatalog:
    return FakeCatalog()


@pytest.fixture
def counts() -> FakeCounts:
    return FakeCounts()


@pytest.fixture
def kit() -> Any:
    """The helpers above."""
    return SimpleNamespace(
        Call=FakeCall, tensor=tensor, values=values, request=request, start=start, reply=reply,
        served=served, SUMMATOR=SUMMATOR, DUMMY=DUMMY, SEQUENCE_ID=SEQUENCE_ID, CONTROL=CONTROL,
    )  # fmt: skip
