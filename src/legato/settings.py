"""How one server is set up: the only place that reads the environment.

Options of the command line win over ``LEGATO_*`` variables (``LEGATO_PORT=9000``,
lists with commas), those over the defaults here. The serving process gets the
result as one variable of JSON.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "LEGATO_"
CHILD_VARIABLE = "LEGATO_CHILD"
SERVER_VARIABLE = "LEGATO_SERVER"
_LISTS = ("models", "extra_ports")
_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_size(value: object) -> object:
    """Read ``512M`` or ``2G`` (powers of 1024, with or without ``B``) as bytes.

    Raises:
        ValueError: It is no size.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    unit = text[-1:] if text[-1:] in _UNITS else ""
    try:
        return int(float(text.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        raise ValueError("a size is a number of bytes, or one with K, M, G or T") from None


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
StepName = tuple[str, int | str, int]
"""A step of a sequence: model, correlation id, number."""


class TlsAddress(BaseModel):
    """Where TLS is spoken.

    Attributes:
        host, port: Address to listen on.
        inner: Loopback port that what was said goes to in the clear.
        certificate: PEM file with the certificate, and those that it was signed with.
        key: PEM file with its private key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: Port
    inner: Port
    certificate: Path
    key: Path


class ServerSettings(BaseModel):
    """What ``legato serve`` was asked for.

    Attributes:
        models: Files and folders to serve.
        host: Address to listen on; loopback unless said otherwise.
        port: Port of every protocol; 0 = any free one.
        extra_ports: Further ports of the same server.
        extra_addresses: Further addresses to listen on, each with its port.
        tls: Addresses whose clients speak TLS, each in front of one of the others on loopback.
        ovms: What ``legato ovms`` was asked for, see :class:`legato.repository.ovms.Options`.
        triton: What ``legato triton`` was asked for, see
            :class:`legato.repository.triton.options.Options`.
        torchserve: What ``legato torchserve`` was asked for, see
            :class:`legato.protocols.torchserve.front.Options`.
        data: Folder of the store; ``None`` only for ``memory``.
        store: Where committed state lives.
        durability: What an acknowledged step survives: death of the process or of the machine.
        log_level, log_form: See :func:`legato.observe.log.configure`.
        log_path: File that the log goes to as well.
        stream_order: Replies of a KServe stream: in order within a sequence, or within
            the stream (as Triton does).
        max_message_bytes: Largest request.
        allow_client_shm: KServe clients on this machine may give tensors in shared memory.
        drain_timeout_s: How long stopping waits for steps in flight.
        max_resident_state: Bytes of memory for idle sequences; 0 = no limit.
        keep_ends_s: How long it is known of an ended sequence what became of it.
        segment_size: Bytes of a file of the log store; smaller ones give room back sooner.
        longest_restart_delay_s: Longest wait before a serving process that died is
            started again.
        workers: Envoy threads that move bytes; Python has one of its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: Port = 8000
    extra_ports: tuple[Port, ...] = ()
    extra_addresses: tuple[tuple[str, Port], ...] = ()
    tls: tuple[TlsAddress, ...] = ()
    ovms: dict[str, Any] | None = None
    triton: dict[str, Any] | None = None
    torchserve: dict[str, Any] | None = None
    data: Path | None = None
    store: Literal["memory", "log", "sqlite"] = "log"
    durability: Literal["process", "disk"] = "process"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_form: Literal["auto", "json", "console"] = "auto"
    log_path: Path | None = None
    stream_order: Literal["sequence", "request"] = "sequence"
    max_message_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=2**31 - 1)
    allow_client_shm: bool = False
    drain_timeout_s: float = Field(default=30.0, ge=0)
    max_resident_state: Size = 1024**3
    keep_ends_s: float = Field(default=600.0, ge=0)
    segment_size: Annotated[Size, Field(ge=64 * 1024, le=2**31)] = 256 * 1024**2
    longest_restart_delay_s: float = Field(default=5.0, gt=0)
    workers: int = Field(default=1, ge=1, le=64)


class CrashSettings(BaseModel):
    """What a process started after a crash should know of it.

    Attributes:
        note: File to say in which steps are being run; ``None`` = the crash was none
            that a step can cause.
        suspects: Steps that were running together when a process crashed.
        quarantined: Steps that crashed it alone; they are not run again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    note: Path | None = None
    suspects: tuple[StepName, ...] = ()
    quarantined: tuple[StepName, ...] = ()


class ChildSettings(BaseModel):
    """What the serving process gets from its supervisor.

    Attributes:
        server: The settings.
        control_fd: Inherited socket to the supervisor; ``None`` = there is none.
        restarts: How often this process was started again after it had died.
        died: How the process before this one ended; "" = this is the first.
        crash: Set after a crash.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: ServerSettings
    control_fd: int | None = None
    restarts: int = 0
    died: str = ""
    crash: CrashSettings = CrashSettings()


def from_environment(options: Mapping[str, Any], environment: Mapping[str, str]) -> ServerSettings:
    """Merge options (``None`` = not given) with ``LEGATO_*`` variables and defaults.

    Raises:
        ConfigError: A value is not possible; names the option or variable.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ServerSettings.model_fields:
        variable = PREFIX + name.upper()
        if options.get(name) is not None:
            values[name], sources[name] = options[name], "--" + name.replace("_", "-")
        elif environment.get(variable):
            text = environment[variable]
            values[name] = text.split(",") if name in _LISTS else text
            sources[name] = variable
    try:
        settings = ServerSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise ConfigError(
            f"{first['msg']}, got {first['input']!r}", key=sources.get(name, name)
        ) from error
    if settings.store == "memory":
        return settings
    folder = settings.data or default_folder(environment) / f"sequences-{settings.store}"
    return settings.model_copy(update={"data": folder.absolute()})


def default_folder(environment: Mapping[str, str]) -> Path:
    """Return this user's folder: ``$XDG_DATA_HOME/legato`` or ``~/.local/share/legato``.

    Raises:
        ConfigError: This user has no home.
    """
    base = environment.get("XDG_DATA_HOME", "")
    if base.startswith("/"):  # the rule says to pass over relative ones
        return Path(base) / "legato"
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        raise ConfigError(
            "there is no home folder to keep sequences in",
            key="--data",
            fix="give a folder with --data, or keep nothing with --store memory",
        )
    return Path(home) / ".local" / "share" / "legato"


def server_settings(options: Mapping[str, Any]) -> ServerSettings:
    """Return the settings for these command line options in this environment."""
    return from_environment(options, os.environ)


def environment() -> dict[str, str]:
    """Return a copy of the environment, for files and commands that name its variables."""
    return dict(os.environ)


def server_address(option: str | None) -> str:
    """Return where the server is that a command talks to."""
    return option or os.environ.get(SERVER_VARIABLE) or "127.0.0.1:8000"


def child_settings() -> ChildSettings:
    """Return what the supervisor left for this process.

    Raises:
        ConfigError: This process was not started by ``legato serve``.
    """
    text = os.environ.get(CHILD_VARIABLE)
    if not text:
        raise ConfigError(
            "the app is not started by a supervisor", key=CHILD_VARIABLE, fix="use 'legato serve'"
        )
    return ChildSettings.model_validate_json(text)


def child_environment(child: ChildSettings, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the serving process: ours, ``extra``, and its settings."""
    # TBB, which OpenVINO brings, loads hwloc past Envoy's allocator and dies, unless it is
    # told that allocators are watched; a user's own model may import it, too.
    tbb = {"TBB_ENABLE_SANITIZERS": "1"}
    return {**os.environ, **tbb, **extra, CHILD_VARIABLE: child.model_dump_json()}
