"""What runs inside Envoy: the app, and the serving process's end of the control channel.

The channel is a socket that carries one JSON object a line. This end says
``{"ready": [...], "store": {...}}`` or ``{"error": "..."}`` once, and ``{"drained": true}`` after
it was told ``{"drain": seconds}``. When the other end goes, so does this process.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.app import App
from legato.observe.log import get_logger
from legato.settings import child_settings

if TYPE_CHECKING:
    from legato.app import Server
    from legato.settings import ChildSettings

log = get_logger()

_PR_SET_PDEATHSIG = 1
_LAST_WORDS_S = 5.0


class Control:
    """The supervisor, as this process sees it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def started(self, server: Server) -> None:
        """Say what is served, and take orders from now on."""
        channel = self._open()
        if channel is None:
            return
        channel.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=channel)
        self._task = asyncio.create_task(self._obey(server, reader, writer), name="legato-control")
        _write(writer, {"ready": server.describe(), "store": server.describe_store()})

    def failed(self, problem: str) -> None:
        """Say why nothing is served."""
        channel = self._open()
        if channel is not None:
            channel.sendall(_line({"error": problem}))
            # All is said; what Envoy adds when its filter does not load only hides it.
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 2)

    def _open(self) -> socket.socket | None:
        number = child_settings().control_fd
        if self._socket is None and number is not None:
            os.set_inheritable(number, False)
            self._socket = socket.socket(fileno=number)
        return self._socket

    async def _obey(
        self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while line := await reader.readline():
            order = json.loads(line)
            if "drain" in order:
                log.info("draining", timeout_s=order["drain"])
                _write(writer, {"drained": await server.drain(order["drain"])})
        log.warning("supervisor_gone")
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, os._exit, 1)
        os.kill(os.getpid(), signal.SIGTERM)  # Envoy's own way to stop; it runs our shutdown


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(_line(message))


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, where it can."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _settings() -> ChildSettings:
    _die_with_parent()
    return child_settings()


app = App(_settings, Control())
