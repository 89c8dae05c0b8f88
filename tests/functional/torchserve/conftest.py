"""``legato torchserve`` as a person starts it, and plain clients of its protocols."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from tests.functional.conftest import SOURCE, Served

from legato.protocols.torchserve.gen import inference_pb2 as pb
from legato.protocols.torchserve.gen import management_pb2 as mpb

INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
TIMEOUT_S = 30

ADDER = '''
"""A running sum that speaks the convention of TorchServe handlers; no worker processes."""

import numpy as np

from legato.model import Input, Model, ModelError, Output, Result, State
from legato.runtimes.torchserve.exchange import unpack


class Adder(Model):
    inputs = (Input("data", "object", (1,)),)
    outputs = (Output("response", "object", (1,)), Output("meta", "object", (1,)))
    states = (State("sum", "int64", (1,)),)

    def step(self, batch):
        count = len(batch)
        total = batch.state["sum"].copy()
        response, meta = np.full((2, count), b"", object)
        failed = {}
        for at in range(count):
            meta[at] = b'{"status": 200, "phrase": "", "content_type": null, "headers": {}}'
            row = {part.name: part.value for part in unpack(batch.inputs["data"][at])}
            try:
                total[at] += int(row.get("data") or row.get("body") or b"0")
            except ValueError:
                failed[at] = ModelError("no number")
            response[at] = str(total[at]).encode()
        return Result({"response": response, "meta": meta}, {"sum": total}, failed)
'''
CONFIG = """
name: adder
entry: adder.py:Adder
options: {keys: {sequenceBatching: true, batchSize: 4}, workers: [1, 1]}
sequences: {max_live: %d, max_queued_steps: 10, idle_timeout_s: %g}
"""


def write_adder(store: Path, *, version="1", live=64, idle_s=60.0) -> Path:
    """Write a model of our own into a model store."""
    folder = store / ("adder" if version == "1" else f"adder-{version}")
    folder.mkdir(parents=True)
    (folder / "adder.py").write_text(ADDER)
    (folder / "model.yaml").write_text(CONFIG % (live, idle_s) + f'version: "{version}"\n')
    return folder


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Answer(NamedTuple):
    """What HTTP gave."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(method: str, url: str, body: bytes | None = None, **headers: str) -> Answer:
    """One HTTP request; underscores of header names stay as they are."""
    request = urllib.request.Request(url, body, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Answer(answer.status, found, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            found = {name.lower(): value for name, value in error.headers.items()}
            return Answer(error.code, found, error.read())


class Client:
    """A plain grpcio client: every call by its full name."""

    def __init__(self, inference: int, management: int, token: str = "") -> None:
        self.inference = grpc.insecure_channel(f"127.0.0.1:{inference}")
        self.management = grpc.insecure_channel(f"127.0.0.1:{management}")
        self.metadata = [("protocol", "gRPC"), ("session_id", "12345")]
        if token:
            self.metadata.append(("authorization", f"Bearer {token}"))

    def close(self) -> None:
        self.inference.close()
        self.management.close()

    def ping(self) -> str:
        call = self.inference.unary_unary(f"/{INFERENCE}/Ping")
        data = call(b"", timeout=TIMEOUT_S, metadata=self.metadata)
        return pb.TorchServeHealthResponse.FromString(data).health

    def predict(self, model: str, data: bytes, sequence: str = "", **more: bytes):
        call = self.inference.unary_unary(
            f"/{INFERENCE}/Predictions",
            request_serializer=pb.PredictionsRequest.SerializeToString,
            response_deserializer=pb.PredictionResponse.FromString,
        )
        message = self.message(model, data, sequence, **more)
        return call(message, timeout=TIMEOUT_S, metadata=self.metadata)

    def infer_stream(self, model: str, data: bytes, sequence: str = ""):
        call = self.inference.unary_stream(
            f"/{INFERENCE}/StreamPredictions",
            request_serializer=pb.PredictionsRequest.SerializeToString,
            response_deserializer=pb.PredictionResponse.FromString,
        )
        message = self.message(model, data, sequence)
        return call(message, timeout=TIMEOUT_S, metadata=self.metadata)

    def stream(self, requests, timeout: float = TIMEOUT_S):
        """StreamPredictions2."""
        call = self.inference.stream_stream(
            f"/{INFERENCE}/StreamPredictions2",
            request_serializer=pb.PredictionsRequest.SerializeToString,
            response_deserializer=pb.PredictionResponse.FromString,
        )
        return call(requests, timeout=timeout, metadata=self.metadata)

    def infer_stream2(self, model: str, sequence: str, *rows: bytes) -> list[str]:
        """As TorchServe's example client: everything at once, then as many answers."""
        answers = self.stream(iter([self.message(model, row, sequence) for row in rows]))
        return [
            a.status.message if a.HasField("status") else a.prediction.decode() for a in answers
        ]

    def message(self, model: str, data: bytes, sequence: str = "", **more: bytes):
        made = pb.PredictionsRequest(model_name=model, input={"data": data, **more})
        if sequence:
            made.sequence_id = sequence
        return made

    def manage(self, method: str, kind: str, **fields: Any) -> str:
        call = self.management.unary_unary(
            f"/{MANAGEMENT}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=mpb.ManagementResponse.FromString,
        )
        message = getattr(mpb, kind)(**fields)
        return call(message, timeout=TIMEOUT_S, metadata=self.metadata).msg


@dataclass
class TorchServe(Served):
    """``legato torchserve --foreground`` on free ports.

    ``folder`` is its working directory.
    """

    folder: Path = field(default_factory=Path)
    named: dict[str, int] = field(default_factory=dict)

    def url(self, api: str, path: str) -> str:  # type: ignore[override]
        return f"http://127.0.0.1:{self.named[api]}{path}"

    def get(self, api: str, path: str, **headers: str) -> Answer:
        return ask("GET", self.url(api, path), **headers)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        headers.setdefault("content-type", "application/octet-stream")
        return ask("POST", self.url("inference", path), body, **headers)

    def step(self, sequence: str, value: int, model: str = "adder", **headers: str) -> Answer:
        return self.post(
            f"/predictions/{model}", b"%d" % value, ts_request_sequence_id=sequence, **headers
        )

    def client(self, token: str = "") -> Client:
        return Client(self.named["grpc_inference"], self.named["grpc_management"], token)


def environment(folder: Path) -> dict[str, str]:
    """Variables of a server of its own: its pid file, its data."""
    return {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "TMPDIR": str(folder),
        "XDG_DATA_HOME": str(folder / "data"),
    }


def write_properties(folder: Path, **more: str) -> dict[str, int]:
    """Write config.properties with free ports, one of them as a URL; return the ports."""
    names = ("inference", "management", "metrics", "grpc_inference", "grpc_management")
    named = dict(zip(names, free_ports(5), strict=True))
    values = {f"{n}_address": f"http://127.0.0.1:{named[n]}" for n in names[:3]}
    values["grpc_inference_port"] = f"http://127.0.0.1:{named['grpc_inference']}"
    values["grpc_management_port"] = str(named["grpc_management"])
    text = "".join(f"{key}={value}\n" for key, value in {**values, **more}.items())
    (folder / "config.properties").write_text(text)
    return named


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "legato", "torchserve", *words]


def launch(folder: Path, *words: str, properties: dict[str, str] | None = None) -> TorchServe:
    """Start a server in a folder that has a model store, without waiting for it."""
    named = write_properties(folder, **(properties or {}))
    arguments = [
        "--start", "--foreground", "--announce", "json", "--model-store", "store",
        "--ts-config", "config.properties", *words,
    ]  # fmt: skip
    process = subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder),
    )
    served = TorchServe(process, folder=folder, named=named)
    served.follow()
    return served


@pytest.fixture(scope="module")
def torchserve(tmp_path_factory):
    """Return ``torchserve(*words, folder=..., properties=...)``: a ready server."""
    started: list[TorchServe] = []

    def start(*words: str, folder: Path | None = None, **options: Any) -> TorchServe:
        if folder is None:
            folder = tmp_path_factory.mktemp("ts")
            write_adder(folder / "store")
        if "--data" not in words:
            words = (*words, "--store", "memory")
        served = launch(folder, *words, **options)
        started.append(served)
        served.await_ready()
        return served

    yield start
    for served in started:
        served.close()
