"""A server to measure: ``legato serve`` as anybody would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

SOURCE = Path(__file__).resolve().parent.parent / "src"
_STOP_S = 20


class ServerFailedError(Exception):
    """The server did not start; the message ends with what it said."""


class Server:
    """A context manager; inside it the server is ready.

    Attributes:
        address: Where it listens.
        pid: The process that serves.
    """

    def __init__(self, models: Path, arguments: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="legato-bench-")
        self._log = Path(self._folder.name) / "log"
        self._command = [
            sys.executable, "-m", "legato", "serve", str(models), *arguments,
            "--port", "0", "--announce", "json",
        ]  # fmt: skip
        if "memory" not in arguments:
            self._command += ["--data", str(Path(self._folder.name) / "data")]
        self._process: subprocess.Popen[str] | None = None
        self._said = ""
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
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            self.__exit__(None, None, None)
            raise ServerFailedError(f"the server does not start:\n{self._said}")
        ready = json.loads(line)["ready"]
        self.address, self.pid = f"127.0.0.1:{ready['ports'][0]}", ready["pid"]
        return self

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
