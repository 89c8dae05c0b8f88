"""The real server, as a process of its own whose serving part can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_S = 60.0
STOP_S = 20.0
_LINE_BYTES = 1024 * 1024
_TAIL_LINES = 12


class StartFailedError(Exception):
    """The server did not start; the message ends with what it last said."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A serving process.

    Attributes:
        address: Where it listens.
        pid: Its process id; ``legato serve`` itself, which starts it again, has another.
    """

    address: str
    pid: int


class ServerProcess:
    """``legato serve``, as anybody would start it.

    Args:
        arguments: What follows ``legato serve``.
        log: What it says for people is written here.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._arguments = [*arguments, "--announce", "json"]
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._ready: asyncio.Queue[Ready | None] = asyncio.Queue()

    async def start(self) -> Ready:
        """Start it on a free port.

        Raises:
            StartFailedError: It ended, or was not ready in time.
        """
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "legato", "serve", *self._arguments, "--port", "0",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then stops the server
                limit=_LINE_BYTES,
            )  # fmt: skip
        self._following = asyncio.create_task(self._follow(self._process))
        return await self.ready()

    async def ready(self) -> Ready:
        """Wait for the next serving process: the first one, or the one after a kill.

        Raises:
            StartFailedError: ``legato serve`` ended, or it takes too long.
        """
        try:
            ready = await asyncio.wait_for(self._ready.get(), START_S)
        except TimeoutError:
            ready = None
        if ready is None:
            raise StartFailedError(f"the server is not ready:\n{self._tail()}")
        return ready

    async def stop(self) -> None:
        """Ask it to end (SIGTERM); kill it if it does not."""
        process = self._process
        if process is None or self._following is None:
            return
        if not self._following.done():  # its output ends when it does
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await self._following

    def _tail(self) -> str:
        """The last lines it said."""
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines or ["(it said nothing)"])

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Hear of each serving process, until there will be none."""
        while process.stdout is not None and (line := await process.stdout.readline()):
            said = _announced(line)
            if said is not None:
                self._ready.put_nowait(said)
        self._ready.put_nowait(None)


def _announced(line: bytes) -> Ready | None:
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        if isinstance(said, dict) and "ready" in said:
            ready = said["ready"]
            return Ready(f"{ready['host']}:{ready['ports'][0]}", ready["pid"])
    return None


def kill(ready: Ready) -> None:
    """SIGKILL: the process is gone at once, whatever it was doing, and flushes nothing."""
    os.kill(ready.pid, signal.SIGKILL)
