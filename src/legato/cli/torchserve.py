"""``legato torchserve``: the command line of TorchServe, as it is.

Its users change one word. Flags, files and exit codes are its own; a few flags are ours
(they say where sequences are kept).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from legato import __version__
from legato.cli.pidfile import PidFile
from legato.cli.serve import run
from legato.core.errors import ConfigError
from legato.protocols.torchserve.handler_metrics import FILE_NAME as METRICS_FILE
from legato.protocols.torchserve.tokens import FILE_NAME, Tokens
from legato.repository import ts_properties
from legato.repository.ts_properties import Address, Properties
from legato.settings import environment, server_settings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.settings import ServerSettings

CONTEXT: Final = {
    # All arguments are ours to read: their syntax is not that of this command line.
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
COMPATIBLE: Final = "0.12.0"
PID_FILE: Final = ".model_server.pid"
_WORDS: Final = "legato\0torchserve"  # as a process has them in its command line
_STOP_S: Final = 60.0
_TRUE: Final = "true"
_NOT_SERVED: Final = {"workflow_store": "workflows", "plugins_path": "plug-ins"}


def parser() -> argparse.ArgumentParser:
    """Return TorchServe's flags, and ours."""
    made = argparse.ArgumentParser(prog="legato torchserve", description="TorchServe's server")
    add = made.add_argument
    add("-v", "--version", action="store_true", help="show the version and stop")
    act = made.add_mutually_exclusive_group()
    act.add_argument("--start", action="store_true", help="start the server (the default)")
    act.add_argument("--stop", action="store_true", help="stop the server")
    add("--ts-config", type=Path, metavar="FILE", help="config.properties")
    add("--model-store", type=Path, metavar="DIR", help="folder of archives")
    # '--model' stands in TorchServe's own README, where it is refused as ambiguous.
    add("--models", "--model", nargs="+", metavar="[NAME=]LOC", help="what to load, or 'all'")
    add("--foreground", action="store_true", help="do not return before the end")
    add("--no-config-snapshots", "--ncs", action="store_true", help="keep no snapshots")
    add("--disable-token-auth", "--dt", action="store_true", help="ask nobody for a key")
    add("--enable-model-api", action="store_true", help="clients may register models")
    for flag in ("--workflow-store", "--log-config", "--cpp-log-config"):
        add(flag, metavar="PATH", help="accepted")
    add("--plugins-path", "--ppath", metavar="PATH", help="accepted")
    ours = made.add_argument_group("Legato's own")
    ours.add_argument("--data", metavar="DIR", help="folder to keep sequences in")
    ours.add_argument("--store", help="log, sqlite, or memory to keep nothing")
    ours.add_argument("--durability", help="what a reply survives: process or disk")
    ours.add_argument("--legato-port", type=int, help="a port for all other protocols")
    ours.add_argument("--log-level", help="debug, info, warning, error")
    ours.add_argument("--announce", default="text", choices=["text", "json"])
    return made


def command(ctx: typer.Context) -> None:
    """Serve models as TorchServe did.

    Takes its flags as they are; ``legato torchserve --help`` lists them.
    """
    arguments = parser().parse_args(ctx.args)
    pid_file = PidFile(Path(tempfile.gettempdir()) / PID_FILE, _WORDS)
    if arguments.version:
        print(f"TorchServe Version is {COMPATIBLE} (Legato {__version__})")
    elif arguments.stop:
        raise typer.Exit(_stop(pid_file))
    else:
        try:
            raise typer.Exit(_start(arguments, ctx.args, pid_file))
        except ConfigError as error:
            sys.stderr.write(f"{error.problem if error.key.startswith('--') else error}\n")
            raise typer.Exit(1) from None


def _stop(pid_file: PidFile) -> int:
    if not pid_file.path.exists():
        print("TorchServe is not currently running.")
        return 0
    if pid_file.running() is None:
        print("TorchServe already stopped.")
    elif pid_file.stop(_STOP_S):
        print("TorchServe has stopped.")
    else:
        print(f"TorchServe did not stop within {_STOP_S:g} s.")
        return 1
    pid_file.remove()
    return 0


def _start(arguments: argparse.Namespace, words: Sequence[str], pid_file: PidFile) -> int:
    if pid_file.running() not in (None, os.getpid()):
        print("TorchServe has already started, please use torchserve --stop to stop TorchServe.")
        return 1
    variables = environment()
    values = configured(arguments, variables, Path.cwd())
    if "model_store" not in values:
        print("Missing mandatory parameter --model-store")
        return 1
    settings = settings_of(arguments, values, variables)
    for line in passed_over(arguments, values):
        sys.stderr.write(f"WARNING {line}\n")
    if not arguments.foreground:
        return _detach(words, pid_file, variables)
    key_file = settings.torchserve.get("key_file") if settings.torchserve else None
    if key_file is not None:
        minutes = Properties.read(values).number("token_expiration_min", 60)
        Tokens(Path(key_file), minutes, time.time).create()
    pid_file.write(os.getpid())
    try:
        return asyncio.run(run(settings, as_json=arguments.announce == "json"))
    finally:
        pid_file.remove(os.getpid())
        if key_file is not None:
            Path(key_file).unlink(missing_ok=True)


def passed_over(arguments: argparse.Namespace, values: Mapping[str, str]) -> list[str]:
    """Say which flags and properties ask for what there is not."""
    said = []
    for name, what in _NOT_SERVED.items():
        flag = f"--{name.replace('_', '-')}"
        key = flag if getattr(arguments, name) else name if values.get(name) else ""
        if key:
            said.append(f"{key} is passed over: {what} are not served")
    return said


def _detach(words: Sequence[str], pid_file: PidFile, variables: Mapping[str, str]) -> int:
    """Start the server in the background and return at once, as TorchServe does."""
    folder = _log_folder(variables)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "ts_log.log").open("a") as log:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "legato", "torchserve", *words, "--foreground"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    pid_file.write(process.pid)
    return 0


# -- what was asked for ---------------------------------------------------------------


def configured(
    arguments: argparse.Namespace, variables: Mapping[str, str], here: Path
) -> dict[str, str]:
    """Return all properties: the file, flags over it, variables over both where they may.

    Raises:
        ConfigError: A file or folder is missing, or the file is wrong.
    """
    snapshots = None if arguments.no_config_snapshots else _snapshots(variables)
    file = ts_properties.find_file(variables, arguments.ts_config, snapshots, here)
    values: dict[str, str] = {}
    if file is not None:
        values = ts_properties.parse(file.read_text(), variables, str(file))
    if arguments.model_store is not None:
        values["model_store"] = str(arguments.model_store)
    if arguments.models:
        values["load_models"] = ",".join(arguments.models)
        values.pop(ts_properties.SNAPSHOT_KEY, None)
    elif ts_properties.SNAPSHOT_KEY in values:
        values.pop("load_models", None)
    values = ts_properties.overridden(values, variables)
    if arguments.disable_token_auth:
        values["disable_token_authorization"] = _TRUE
    if arguments.enable_model_api:
        values["enable_model_api"] = _TRUE
    if "model_store" in values:
        store = here / values["model_store"]
        if not store.is_dir():
            raise ConfigError(f"--model-store directory not found: {store}", key="--model-store")
        values["model_store"] = str(store)
    if values.get("metrics_config", "").strip():
        values["metrics_config"] = str(here / values["metrics_config"].strip())
    return values


def settings_of(
    arguments: argparse.Namespace, values: Mapping[str, str], variables: Mapping[str, str]
) -> ServerSettings:
    """Return how the server is set up.

    Raises:
        ConfigError: A property is impossible, or not served here.
    """
    properties = Properties.read(values)
    properties.declared_metrics()  # a wrong file is told here and not in a log
    metrics = Path.cwd() / variables.get("METRICS_LOCATION", "logs") / METRICS_FILE
    plain, tls, inner = _listening(properties)
    first, *others = plain
    keys = not properties.flag("disable_token_authorization")
    front: dict[str, Any] = {
        "properties": dict(values),
        "inner": inner,
        "model_store": values["model_store"],
        "key_file": str(Path.cwd() / FILE_NAME) if keys else None,
        "model_api": properties.flag("enable_model_api"),
        "metrics_log": str(metrics) if properties.logs_metrics else None,
        "snapshots": None if arguments.no_config_snapshots else str(_snapshots(variables)),
    }
    return server_settings(
        {
            "host": first.host,
            "port": first.port,
            "extra_ports": None if arguments.legato_port is None else (arguments.legato_port,),
            "extra_addresses": [(address.host, address.port) for address in others],
            "data": arguments.data,
            "store": arguments.store,
            "durability": arguments.durability,
            "log_level": arguments.log_level,
            "tls": tls,
            "torchserve": front,
        }
    )


def _listening(
    properties: Properties,
) -> tuple[list[Address], list[dict[str, Any]], dict[int, int]]:
    """Return addresses in the clear, those with TLS, and which port stands behind which of these.

    Raises:
        ConfigError: TLS wants files that are not there.
    """
    files = properties.certificate
    inner: dict[int, int] = {}
    plain, tls = [], []
    for address in properties.addresses:
        if files is None or not address.tls:
            plain.append(address)
            continue
        behind = _free_port()
        while behind in (*inner.values(), *(one.port for one in properties.addresses)):
            behind = _free_port()
        inner[address.port] = behind
        plain.append(Address("127.0.0.1", behind))
        certificate, key = files
        tls.append(
            {
                "host": address.host, "port": address.port, "inner": behind,
                "certificate": certificate, "key": key,
            }
        )  # fmt: skip
    return plain, tls, inner


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _log_folder(variables: Mapping[str, str]) -> Path:
    return Path.cwd() / variables.get("LOG_LOCATION", "logs")


def _snapshots(variables: Mapping[str, str]) -> Path:
    return _log_folder(variables) / "config"
