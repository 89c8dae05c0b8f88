"""A real server, started as a person would start it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SOURCE = Path(__file__).resolve().parents[2] / "src"
STOP_S = 20


@dataclass
class Served:
    """``legato serve`` on free ports.

    ``lines`` and ``said`` are what it wrote on standard output and standard error;
    ``pid`` is the process that serves, ``process`` its supervisor.
    """

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    pid: int = 0
    ports: list[int] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    followers: list[threading.Thread] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.ports[0]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def errors(self) -> str:
        return "".join(self.said)

    def follow(self) -> None:
        for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.said)):
            thread = threading.Thread(target=self._copy, args=(stream, kept), daemon=True)
            thread.start()
            self.followers.append(thread)

    def _copy(self, stream, kept: list[str]) -> None:
        for line in stream:
            with self.news:
                kept.append(line)
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def await_ready(self, times: int = 1, timeout: float = 60) -> dict:
        """Wait for the ready line, or for the one after ``times - 1`` restarts."""

        def over() -> bool:
            return len(self.lines) >= times or self.process.poll() is not None

        with self.news:
            done = self.news.wait_for(over, timeout)
        assert done, f"not ready in time:\n{self.errors}"
        assert len(self.lines) >= times, f"it ended:\n{self.errors}"
        ready = json.loads(self.lines[times - 1])["ready"]
        self.pid, self.ports = ready["pid"], ready["ports"]
        return ready

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it ends by itself; return its exit code."""
        code = self.process.wait(STOP_S)
        for thread in self.followers:
            thread.join(STOP_S)
        return code

    def close(self) -> None:
        """Make sure that it is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.stop()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()


def start(
    *paths: Path | str, environment: Mapping[str, str] | None = None, **settings: object
) -> Served:
    """Start ``legato serve PATHS --name value ...`` without waiting for it.

    Sequences are kept in memory unless a setting says otherwise: never in the folder of
    the person who runs the tests.
    """
    if not {"data", "store"} & set(settings):
        settings["store"] = "memory"
    arguments = [sys.executable, "-m", "legato", "serve", *map(str, paths), "--announce", "json"]
    for name, value in {"port": 0, **settings}.items():
        for entry in value if isinstance(value, list | tuple) else [value]:
            arguments += [f"--{name.replace('_', '-')}", str(entry)]
    served = Served(
        subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE), **(environment or {})},
        )
    )
    served.follow()
    return served


@pytest.fixture(scope="session", autouse=True)
def a_folder_of_nobody(tmp_path_factory) -> Iterator[None]:
    """Whatever a test starts without naming a folder keeps its sequences in a temporary one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("xdg")))
        yield


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Served]]:
    """Return ``serve(*paths, **settings)``: a ready server, stopped after the module."""
    started: list[Served] = []

    def serve(*paths: Path | str, **settings: object) -> Served:
        served = start(*paths, **settings)
        started.append(served)
        served.await_ready()
        return served

    yield serve
    for served in started:
        served.close()
