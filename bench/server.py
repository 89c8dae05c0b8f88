"""A server to measure: ``legato serve`` as anybody would start it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SOURCE = Path(__file__).resolve().parent.parent / "src"
_STOP_S = 20


class ServerFailedError(Exception):
    """The server did not start; the message ends with what it said."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Server:
    """A context manager; inside it the server is ready.

    Attributes:
        address: Where it listens.
        pid: The process that serves.
        ready: All that it said when it was ready.
        data: Where it keeps sequences, unless in memory.
    """

    def __init__(self, models: Path, arguments: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="legato-bench-")
        self._log = Path(self._folder.name) / "log"
        self._command = [
            sys.executable, "-m", "legato", "serve", str(models), *arguments,
            "--port", "0", "--announce", "json",
        ]  # fmt: skip
        self.data = Path(self._folder.name) / "data"
        if "memory" not in arguments:
            self._command += ["--data", str(self.data)]
        self._process: subprocess.Popen[str] | None = None
        self._said = ""
        self.ready: dict[str, Any] = {}
        self.address = ""
        self.pid = 0

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            process = subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is for the bench, which then stops the server
                env={**os.environ, "PYTHONPATH": str(SOURCE)},
            )
        self._process = process
        self.await_ready()
        return self

    def await_ready(self) -> None:
        """Wait until it says that it serves; it does so again after each death.

        Raises:
            ServerFailedError: It ended instead.
        """
        output = self._process.stdout if self._process is not None else None
        line = output.readline() if output is not None else ""
        if not line:
            self.__exit__(None, None, None)
            raise ServerFailedError(f"the server does not start:\n{self._said}")
        self.ready = json.loads(line)["ready"]
        self.address, self.pid = f"127.0.0.1:{self.ready['ports'][0]}", self.ready["pid"]

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._said = self._log.read_text(errors="replace")
        self._folder.cleanup()
