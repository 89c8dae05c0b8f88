"""A real server with real models, and the ways to reach its sequences."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "models"))

import grpc
import pytest
import tiny

from legato.protocols.sequences.gen import sequences_pb2 as pb

SOURCE = Path(__file__).resolve().parents[3] / "src"


@dataclass
class Client:
    """REST, gRPC and the terminal."""

    address: str

    def rest(self, method: str, path: str, body=None) -> tuple[int, object]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, data)
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        plain = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(raw) if plain else raw

    def step(self, cid, x: float, *, model: str = "acc", **parameters):
        """A step over KServe REST: the answer's first value, or the error's text."""
        body = {
            "parameters": {"sequence_id": cid, **parameters},
            "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [x] * 4}],
        }
        status, answer = self.rest("POST", f"/v2/models/{model}/infer", body)
        return answer["outputs"][0]["data"][0] if status == 200 else answer["error"]

    def rpc(self, method: str, request, answer):
        """A call of legato.v1.Sequences by a stock gRPC client."""
        with grpc.insecure_channel(self.address) as channel:
            call = channel.unary_unary(
                f"/legato.v1.Sequences/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            return call(request, timeout=30)

    def describe(self, cid: str):
        return self.rpc("Describe", pb.DescribeRequest(model="acc", id=cid), pb.DescribeResponse)

    def run(self, *arguments: object, code: int = 0) -> str:
        """``legato sequences ...``: what it printed."""
        ended = subprocess.run(
            [sys.executable, "-m", "legato", "sequences", *map(str, arguments)],
            env={
                **os.environ, "PYTHONPATH": str(SOURCE), "LEGATO_SERVER": self.address,
                "COLUMNS": "200",
            },
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.save(tiny.accumulator(), folder, "acc")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def server(serve, models, data):
    return serve(models / "acc.onnx", store="log", data=data, **{"max-resident-state": 5000})


@pytest.fixture
def client(server) -> Client:
    return Client(server.address)
