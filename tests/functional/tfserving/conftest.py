"""A real server, started with OpenVINO Model Server's own flags, and clients of several makes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from tests.functional.conftest import SOURCE, Served
from tests.models import openvino_models as models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT_S = 20
ID, CONTROL = "sequence_id", "sequence_control_input"


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass
class Ovms:
    """``legato ovms`` on two free ports."""

    served: Served
    grpc_port: int
    rest_port: int
    rest_host: str = "127.0.0.1"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def url(self) -> str:
        return f"http://{self.rest_host}:{self.rest_port}"

    def metrics(self) -> str:
        """The page that Prometheus reads."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.read().decode()

    def live(self, model: str) -> int:
        """Live sequences of a model, by the metric: asking them would keep them alive."""
        return self.metrics_of("legato_sequences_live", model)

    def metrics_of(self, name: str, model: str) -> int:
        """A metric of a model."""
        for line in self.metrics().splitlines():
            if line.startswith(f"{name}{{") and f'model="{model}"' in line:
                return int(float(line.rpartition(" ")[2]))
        raise AssertionError("no such metric")

    def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask over HTTP; status and parsed answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def begin(
    *arguments: object,
    ports: tuple[int, int] | None = None,
    rest_host: str = "127.0.0.1",
    **env: str,
) -> Ovms:
    """Start ``legato ovms`` without waiting for it; sequences are in memory unless said."""
    grpc_port, rest_port = ports or free_ports(2)
    given = [str(argument) for argument in arguments]
    if not any(word.startswith(("--store", "--data")) for word in given):
        given += ["--store", "memory"]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "legato", "ovms", *given, "--announce", "json",
            "--port", str(grpc_port), "--grpc_bind_address", "127.0.0.1",
            "--rest_port", str(rest_port), f"--rest_bind_address={rest_host}",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
    )  # fmt: skip
    made = Ovms(Served(process), grpc_port, rest_port, rest_host)
    made.served.follow()
    return made


@pytest.fixture(scope="module")
def ovms() -> Iterator[Callable[..., Ovms]]:
    """Return ``ovms(*flags)``: a ready server, stopped after the module."""
    started: list[Ovms] = []

    def ovms(*arguments: object, **options: Any) -> Ovms:
        made = begin(*arguments, **options)
        started.append(made)
        made.served.await_ready()
        return made

    yield ovms
    for made in started:
        made.served.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Ovms]]:
    """Return ``start(*flags)``: a ready server, stopped after the test."""
    started: list[Ovms] = []

    def start(*arguments: object, **options: Any) -> Ovms:
        made = begin(*arguments, **options)
        started.append(made)
        made.served.await_ready()
        return made

    yield start
    for made in started:
        made.served.close()


def until(condition: Callable[[], Any], what: str, seconds: float = TIMEOUT_S) -> None:
    """Wait for something that takes a moment."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.05)


# -- models -----------------------------------------------------------------------------------


def save(folder: Path, name: str, made: Any, version: int = 1) -> Path:
    """Write a version of a model; return the model's folder."""
    home = folder / name / str(version)
    home.mkdir(parents=True)
    models.save(made, home)
    return folder / name


def write_config(path: Path, *entries: dict[str, Any], **top: Any) -> Path:
    """Write a config file, whole at once."""
    whole = {"model_config_list": [{"config": entry} for entry in entries], **top}
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(whole))
    beside.replace(path)
    return path


# -- a client made from the field numbers ---------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def part(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(data: bytes) -> list[tuple[int, Any]]:
    """Take a message apart: (field number, bytes or number)."""
    found, at = [], 0

    def read() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        tag = read()
        if tag & 7 == 0:
            found.append((tag >> 3, read()))
        else:
            size = read()
            found.append((tag >> 3, data[at : at + size]))
            at += size
    return found


def tensor(dtype: int, shape: tuple[int, ...] | None, field: int, data: bytes) -> bytes:
    """Write a TensorProto: type, shape, and data in one field."""
    made = varint(1 << 3) + varint(dtype)
    if shape is not None:
        dims = [part(2, varint(1 << 3) + varint(size)) for size in shape]
        made += part(2, b"".join(dims))
    return made + (part(field, data) if data else b"")


def content(array: Any) -> bytes:
    """Write an array as ``tensor_content``."""
    array = np.asarray(array)
    number = {"float32": 1, "int32": 3, "int64": 9, "uint32": 22, "uint64": 23}[array.dtype.name]
    return tensor(number, array.shape, 4, array.tobytes())


def uint64(value: int, shape: tuple[int, ...] | None = (1,)) -> bytes:
    return tensor(23, shape, 17, varint(value))


def uint32(value: int, shape: tuple[int, ...] | None = (1,)) -> bytes:
    return tensor(22, shape, 16, varint(value))


def predict_request(model: str, inputs: dict[str, bytes], version: int = 0) -> bytes:
    spec = part(1, model.encode())
    if version:
        spec += part(2, varint(1 << 3) + varint(version))
    entries = [part(2, part(1, name.encode()) + part(2, data)) for name, data in inputs.items()]
    return part(1, spec) + b"".join(entries)


class Failed(Exception):  # noqa: N818 - what a call came to
    """A call that ended with a status other than OK."""

    def __init__(self, status: int, text: str, trailers: dict[str, str]) -> None:
        super().__init__(f"{status}: {text}")
        self.status, self.text, self.trailers = status, text, trailers


class Plain:
    """A grpcio client that knows nothing but bytes and field numbers."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: str, data: bytes, **metadata: str) -> bytes:
        ask = self.channel.unary_unary(f"/tensorflow.serving.{method}")
        pairs = [(key.replace("_", "-"), value) for key, value in metadata.items()]
        try:
            answer, call = ask.with_call(data, timeout=TIMEOUT_S, metadata=pairs)
        except grpc.RpcError as error:
            trailers = dict(error.trailing_metadata() or ())
            raise Failed(error.code().value[0], error.details(), trailers) from None
        self.headers = dict(call.initial_metadata())
        return answer

    def predict(
        self, model: str, inputs: dict[str, bytes], version: int = 0, **metadata: str
    ) -> dict[str, Any]:
        """Run a step; outputs as arrays, the id as a number."""
        answer = self.call(
            "PredictionService/Predict", predict_request(model, inputs, version), **metadata
        )
        return read_answer(answer)

    def close(self) -> None:
        self.channel.close()


def read_answer(answer: bytes) -> dict[str, Any]:
    """Take a PredictResponse apart: outputs as arrays, the id as a number."""
    found: dict[str, Any] = {}
    for number, entry in fields(answer):
        if number == 1:
            pair = dict(fields(entry))
            found[pair[1].decode()] = _read_tensor(pair[2])
    return found


def _read_tensor(data: bytes) -> Any:
    found = dict(fields(data))
    dims = [dict(fields(dim)).get(1, 0) for number, dim in fields(found[2]) if number == 2]
    if found[1] == 23:
        assert 4 not in found, "the id must lie in uint64_val"
        (value,) = _numbers(found[17])
        assert dims == [1]
        return value
    return np.frombuffer(found.get(4, b""), np.float32).reshape(dims)


def _numbers(packed: bytes) -> list[int]:
    # Framed as fields of their own, so that one reader of numbers will do.
    return [fields(varint(1 << 3) + packed)[0][1]]


class Summator:
    """Steps sequences of the accumulator over gRPC or REST, one value a step."""

    def __init__(self, server: Ovms, wire: str, model: str = "summator") -> None:
        self.server, self.wire, self.model = server, wire, model
        self.plain = Plain(server.address)

    def step(
        self, value: Any = 1.0, name: int | None = None, control: int | None = None
    ) -> tuple[float, int]:
        """Return the sum so far and the id; raises Failed with the gRPC or HTTP status."""
        values = value if isinstance(value, list) else [value]
        if self.wire == "grpc":
            inputs = {"x": content(np.float32([values]))}
            if name is not None:
                inputs[ID] = uint64(name)
            if control is not None:
                inputs[CONTROL] = uint32(control)
            found = self.plain.predict(self.model, inputs)
            return float(found["y"][0, 0]), found[ID]
        given: dict[str, Any] = {"x": [values]}
        if name is not None:
            given[ID] = [name]
        if control is not None:
            given[CONTROL] = [control]
        status, body = self.server.rest(
            "POST", f"/v1/models/{self.model}:predict", {"inputs": given}
        )
        if status != 200:
            raise Failed(status, body["error"], {})
        (total,) = body["outputs"]["y"][0]
        (made,) = body["outputs"][ID]
        return total, made

    def send(self, value: float, name: int, control: int = 0) -> grpc.Future:
        """Send a step over gRPC, and do not wait for its answer."""
        ask = self.plain.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        inputs = {
            "x": content(np.float32([[value]])), ID: uint64(name), CONTROL: uint32(control),
        }  # fmt: skip
        return ask.future(predict_request(self.model, inputs), timeout=9 * TIMEOUT_S)

    def start(self, name: int | None = None, value: float = 1.0) -> tuple[float, int]:
        return self.step(value, name, 1)

    def end(self, name: int, value: float = 1.0) -> tuple[float, int]:
        return self.step(value, name, 2)

    def refused(self, *arguments: Any, **options: Any) -> tuple[int, str]:
        """Step, and return status and text of the refusal."""
        with pytest.raises(Failed) as caught:
            self.step(*arguments, **options)
        return caught.value.status, caught.value.text

    def close(self) -> None:
        self.plain.close()


@pytest.fixture(scope="session")
def kit() -> Any:
    """The helpers above, for tests that need several."""
    return SimpleNamespace(
        Plain=Plain, Summator=Summator, Failed=Failed, save=save, write_config=write_config,
        begin=begin, until=until, read_answer=read_answer, content=content, uint64=uint64,
        uint32=uint32, tensor=tensor, part=part,
        varint=varint, fields=fields, predict_request=predict_request, free_ports=free_ports,
        models=models, ID=ID, CONTROL=CONTROL,
    )  # fmt: skip


@pytest.fixture
def client() -> Iterator[Callable[..., Summator]]:
    """Return ``client(server)``: a client that is closed at the end."""
    made: list[Summator] = []

    def client(server: Ovms, wire: str = "grpc", model: str = "summator") -> Summator:
        made.append(Summator(server, wire, model))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture(params=["grpc", "rest"])
def wire(request) -> str:
    """Both transports."""
    return request.param
