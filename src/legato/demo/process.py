"""The real server, as a process of its own that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_S = 60.0
STOP_S = 20.0
_READY = re.compile(r"ready.*?(127\.0\.0\.1:\d+)")
_TAIL_LINES = 12


class ServerError(Exception):
    """The server did not start; the message ends with what it last said."""


class ServerProcess:
    """``legato serve`` on a folder of models, with its own process group.

    Args:
        arguments: What follows ``legato serve``, without the port.
        log: Everything it says is appended here.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._arguments = list(arguments)
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._pump: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def pid(self) -> int:
        """Process id; 0 when it does not run."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start, and wait until it is ready; on the port it had before, if it had one.

        Raises:
            ServerError: It ended, or was not ready in time.
        """
        port = self.address.rpartition(":")[2] or "0"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "legato", "serve", *self._arguments, "--port", port,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pump = asyncio.create_task(self._follow(self._process, ready))
        try:
            self.address = await asyncio.wait_for(ready, START_S)
        except (TimeoutError, ServerError) as error:
            self.kill()
            raise ServerError(f"the server did not become ready:\n{self.tail()}") from error

    def kill(self) -> None:
        """End it at once, and everything it started: SIGKILL, nothing is flushed."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until it is gone."""
        if self._process is not None:
            await self._process.wait()
            self._process = None
        if self._pump is not None:
            await self._pump

    async def stop(self) -> None:
        """Ask it to end (SIGTERM); kill it if it does not."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_S)
        except TimeoutError:
            pass
        finally:
            self.kill()  # whatever is left of its group
        await self.wait()

    def tail(self) -> str:
        """The last lines it said."""
        if not self._log.exists():
            return "(it said nothing)"
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_TAIL_LINES:])

    async def _follow(
        self, process: asyncio.subprocess.Process, ready: asyncio.Future[str]
    ) -> None:
        """Copy its output to the log, and find the ready line."""
        stdout = process.stdout
        if stdout is None:
            return
        with self._log.open("ab") as log:
            while line := await stdout.readline():
                log.write(line)
                log.flush()
                found = _READY.search(line.decode(errors="replace"))
                if found and not ready.done():
                    ready.set_result(found[1])
        if not ready.done():
            ready.set_exception(ServerError("it ended"))
