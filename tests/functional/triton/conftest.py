"""``legato triton``, started with tritonserver's own flags, and its clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tests.functional.conftest import SOURCE, Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT_S = 30


@dataclass
class Triton:
    """``legato triton`` on three free ports: HTTP, gRPC and metrics, as they were given."""

    served: Served

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.served.ports[0]}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.served.ports[1]}"

    @property
    def metrics(self) -> str:
        return f"127.0.0.1:{self.served.ports[2]}"

    def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask over HTTP; status and parsed answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.http}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    def client(self) -> triton_grpc.InferenceServerClient:
        """Return a client of its own connection."""
        return triton_grpc.InferenceServerClient(self.grpc)


def begin(repository: Path, *flags: str, **env: str) -> Triton:
    """Start ``legato triton`` without waiting for it; sequences are in memory unless said."""
    given = [f"--model-repository={repository}", *flags]
    if not any(word.startswith(("--store", "--data")) for word in given):
        given += ["--store", "memory"]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "legato", "triton", "--announce", "json",
            "--http-address=127.0.0.1", "--http-port=0", "--grpc-address", "127.0.0.1",
            "--grpc-port", "0", "--metrics-port=0", *given,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(SOURCE), **env},
    )  # fmt: skip
    made = Triton(Served(process))
    made.served.follow()
    return made


@pytest.fixture(scope="module")
def triton() -> Iterator[Callable[..., Triton]]:
    """Return ``triton(repository, *flags)``: a ready server, stopped after the module."""
    started: list[Triton] = []

    def triton(repository: Path, *flags: str, **options: Any) -> Triton:
        made = begin(repository, *flags, **options)
        started.append(made)
        made.served.await_ready()
        return made

    yield triton
    for made in started:
        made.served.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Triton]]:
    """Return ``start(repository, *flags, wait=True)``: a server, stopped after the test."""
    started: list[Triton] = []

    def start(repository: Path, *flags: str, wait: bool = True, **options: Any) -> Triton:
        made = begin(repository, *flags, **options)
        started.append(made)
        if wait:
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


def tensor(value: Any, name: str = "INPUT", kind: Any = triton_grpc, dtype: str = "FP32") -> Any:
    """Return an input with one row."""
    made = np.array([value if isinstance(value, list) else [value]],
                    object if dtype == "BYTES" else np.float32)  # fmt: skip
    given = kind.InferInput(name, list(made.shape), dtype)
    given.set_data_from_numpy(made)
    return given


def step(client: Any, model: str, value: Any, sequence: int | str, **options: Any) -> Any:
    """Take a step over gRPC; return the result."""
    return client.infer(
        model, [tensor(value)], sequence_id=sequence, client_timeout=TIMEOUT_S, **options
    )


def told(result: Any, name: str = "OUTPUT") -> Any:
    """Return the one row of an output: a number, or a list where there are several."""
    row = result.as_numpy(name)[0]
    return row.item() if row.size == 1 else row.tolist()
