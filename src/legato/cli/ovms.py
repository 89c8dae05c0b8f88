"""``legato ovms``: the command line of OpenVINO Model Server, as it is.

Its users change one word. Flags, defaults, checks and exit codes are its own; a few
flags are ours (they say where sequences are kept).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson
import typer

from legato import __version__
from legato.cli.serve import run
from legato.core.errors import ConfigError
from legato.repository.ovms import metric_names
from legato.settings import server_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTEXT: Final = {
    # All arguments are ours to read: their syntax is not that of this command line.
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
USAGE: Final = 64
"""Exit code of a wrong command line (EX_USAGE)."""
NEEDS_STATEFUL: Final = (
    "Setting low_latency_transformation, max_sequence_number and idle_sequence_cleanup require "
    "setting stateful flag for the model."
)
MOST_MESSAGE_BYTES: Final = 1024**3
_LOG_LEVELS = {
    "TRACE": "debug", "DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error",
}  # fmt: skip
_MOST_REST_WORKERS = 10_000
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")


class UsageError(Exception):
    """The command line is wrong; the text is what OpenVINO Model Server says."""


class Flag(NamedTuple):
    """One option.

    Attributes:
        kind: ``bool``, ``uint32``, ``uint64`` or ``text``.
        help: One line.
    """

    kind: str
    help: str


_MODEL: Final = {
    "batch_size": Flag("text", "rows of one request: a number"),
    "shape": Flag("text", "shape of one request, or a JSON object of shapes"),
    "layout": Flag("text", "layout, or a JSON object of layouts"),
    "mean": Flag("text", "refused: put it into the model"),
    "scale": Flag("text", "refused: put it into the model"),
    "color_format": Flag("text", "refused: put it into the model"),
    "precision": Flag("text", "refused: put it into the model"),
    "model_version_policy": Flag("text", "JSON object: all, latest or specific"),
    "nireq": Flag("uint32", "accepted: one call runs a whole batch"),
    "target_device": Flag("text", "device to compile for  [CPU]"),
    "plugin_config": Flag("text", "JSON object of the device plugin's properties"),
    "stateful": Flag("bool", "serve with sequences"),
    "idle_sequence_cleanup": Flag("bool", "idle sequences expire  [true]"),
    "low_latency_transformation": Flag("bool", "turn loops into state"),
    "max_sequence_number": Flag("uint32", "most live sequences of the model  [500]"),
    "sequence_timeout_seconds": Flag("uint32", "idle seconds after which a sequence expires"),
}
_SERVER: Final = {
    "help": Flag("bool", "show this and stop"),
    "version": Flag("bool", "show the version and stop"),
    "config_path": Flag("text", "config file with models"),
    "model_name": Flag("text", "name of the one model"),
    "model_path": Flag("text", "folder of the one model, with a subfolder for each version"),
    "port": Flag("uint64", "port for gRPC  [not opened]"),
    "rest_port": Flag("uint64", "port for REST  [not opened]"),
    "grpc_bind_address": Flag("text", "addresses for gRPC, with commas  [0.0.0.0]"),
    "rest_bind_address": Flag("text", "addresses for REST, with commas  [0.0.0.0]"),
    "sequence_cleaner_poll_wait_minutes": Flag("uint32", "sequences expire after twice that  [5]"),
    "file_system_poll_wait_seconds": Flag("uint32", "seconds between looks at files  [1]"),
    "cache_dir": Flag("text", "where OpenVINO keeps compiled models"),
    "cpu_extension": Flag("text", "library with further operations"),
    "log_level": Flag("text", "TRACE, DEBUG, INFO, WARNING or ERROR  [INFO]"),
    "metrics_enable": Flag("bool", "offer ovms_... metrics beside our own"),
    "metrics_list": Flag("text", "which of them, with commas  [the usual ones]"),
    "grpc_workers": Flag("uint32", "accepted"),
    "rest_workers": Flag("uint32", "accepted"),
    "grpc_max_threads": Flag("uint32", "accepted"),
    "grpc_memory_quota": Flag("uint64", "accepted"),
    "grpc_channel_arguments": Flag("text", "accepted"),
    "custom_node_resources_cleaner_interval_seconds": Flag("uint32", "accepted"),
    "log_path": Flag("text", "file to write the log to, beside standard error"),
    "trace_path": Flag("text", "accepted"),
}
_OURS: Final = {
    "data": Flag("text", "folder to keep sequences in  [in the user's data]"),
    "store": Flag("text", "log, sqlite, or memory to keep nothing  [log]"),
    "durability": Flag("text", "what a reply survives: process or disk  [process]"),
    "max_resident_state": Flag("text", "idle state kept in memory  [1G]"),
    "keep_ends": Flag("text", "seconds that the end of a sequence is known  [600]"),
    "drain_timeout": Flag("text", "seconds that stopping waits for steps in flight  [30]"),
    "log_form": Flag("text", "auto, json or console  [auto]"),
    "announce": Flag("text", "how to say that it is ready: text or json  [text]"),
}
FLAGS: Final = {**_SERVER, **_MODEL, **_OURS}
_SUB_OPTIONS = ("low_latency_transformation", "max_sequence_number", "idle_sequence_cleanup")
_NOT_BESIDE_CONFIG = (
    "batch_size", "shape", "nireq", "model_version_policy", "target_device", "plugin_config",
)  # fmt: skip
_REFUSED = ("mean", "scale", "color_format", "precision")
_LIMITS = {"uint32": 2**32, "uint64": 2**64}
_TRUE, _FALSE = ("1", "t", "true", "True", "TRUE", "T"), ("0", "f", "false", "False", "FALSE", "F")


def command(ctx: typer.Context) -> None:
    """Serve models as OpenVINO Model Server did, until told to stop.

    Takes its flags as they are; ``legato ovms --help`` lists them.
    """
    try:
        values = parse(ctx.args)
        if "help" in values or not ctx.args:
            print(overview())
            return
        if "version" in values:
            print(f"legato {__version__}")
            return
        check(values)
        for key in sorted(ignored(values)):
            sys.stderr.write(f"legato: --{key} has no effect beside --config_path\n")
        options = settings_of(values)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(USAGE) from None
    raise typer.Exit(
        asyncio.run(run(server_settings(options), as_json=values.get("announce") == "json"))
    )


def overview() -> str:
    """Return the list of flags."""
    parts = (("Server", _SERVER), ("The one model", _MODEL), ("Legato's own", _OURS))
    lines = ["legato ovms: serve models by the rules of OpenVINO Model Server", ""]
    for title, flags in parts:
        lines.append(f"{title}:")
        lines += [f"  --{name:<46} {flag.help}" for name, flag in flags.items()]
        lines.append("")
    return "\n".join(lines)


# -- syntax --------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value`` and ``--name=value``; a bool is true unless ``=`` says otherwise.

    Raises:
        UsageError: An argument is unknown, stands alone, or has no fitting value.
    """
    values: dict[str, Any] = {}
    unmatched: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, text = argument.removeprefix("--").partition("=")
        # Ours may be written with dashes, as elsewhere on our command line.
        ours = name.replace("-", "_")
        name = ours if ours in _OURS else "help" if argument == "-h" else name
        flag = FLAGS.get(name)
        if flag is None or not (argument.startswith("--") or argument == "-h"):
            unmatched.append(argument)
        elif flag.kind == "bool":
            values[name] = _value(name, flag, text if equals else "true")
        else:
            values[name] = _value(name, flag, text if equals else _next(name, waiting))
    if unmatched:
        raise UsageError(f"error parsing options - unmatched arguments: {', '.join(unmatched)}")
    return values


def _next(name: str, waiting: Iterator[str]) -> str:
    text = next(waiting, None)
    if text is None:
        raise UsageError(f"error parsing options: Option '{name}' is missing an argument")
    return text


def _value(name: str, flag: Flag, text: str) -> Any:
    if flag.kind == "text":
        return text
    if flag.kind == "bool" and text in (*_TRUE, *_FALSE):
        return text in _TRUE
    if flag.kind in _LIMITS and text.isascii() and text.isdigit():
        number = int(text)
        if number < _LIMITS[flag.kind]:
            return number
    del name
    raise UsageError(f"error parsing options: Argument '{text}' failed to parse")


# -- checks --------------------------------------------------------------------------------------


def check(values: dict[str, Any]) -> None:
    """Check what was given against each other, in the order of OpenVINO Model Server.

    Raises:
        UsageError: Something does not go together.
    """
    _check_models(values)
    _check_workers(values)
    _check_ports(values)
    level = values.get("log_level", "INFO")
    if level not in _LOG_LEVELS:
        raise UsageError(f"log_level should be one of: {', '.join(_LOG_LEVELS)}")
    if "cpu_extension" in values and not Path(values["cpu_extension"]).exists():
        raise UsageError(
            "File path provided as an --cpu_extension parameter does not exist in the filesystem: "
            + values["cpu_extension"]
        )
    config = "config_path" in values
    if not config and any(key in values for key in _SUB_OPTIONS) and not values.get("stateful"):
        raise UsageError(NEEDS_STATEFUL)


def ignored(values: dict[str, Any]) -> set[str]:
    """Return options of the one model that were given beside a config file."""
    return set(values) & set(_MODEL) if values.get("config_path") else set()


def _check_models(values: dict[str, Any]) -> None:
    one = [key for key in ("model_name", "model_path") if values.get(key)]
    if values.get("config_path"):
        if one:
            raise UsageError("Use either config_path or model_path with model_name")
        if any(key in values for key in _NOT_BESIDE_CONFIG):
            raise UsageError("Model parameters in CLI are exclusive with the config file")
        return
    if len(one) != 2:
        raise UsageError("Use config_path or model_path with model_name")
    for key in _REFUSED:
        if key in values:
            raise UsageError(f"{key} is not offered here: put it into the model itself")


def _check_workers(values: dict[str, Any]) -> None:
    cores = os.cpu_count() or 1
    if not 1 <= values.get("grpc_workers", 1) <= cores:
        raise UsageError(f"grpc_workers count should be from 1 to CPU core count : {cores}")
    if "rest_workers" in values:
        if not 2 <= values["rest_workers"] <= _MOST_REST_WORKERS:
            raise UsageError(f"rest_workers count should be from 2 to {_MOST_REST_WORKERS}")
        if not values.get("rest_port"):
            raise UsageError(
                "rest_workers is set but rest_port is not set. rest_port is required to start "
                "rest servers"
            )
    if values.get("metrics_enable") and not values.get("rest_port"):
        raise UsageError("rest_port setting is missing, metrics are enabled on rest port")
    if values.get("metrics_list") and not values.get("metrics_enable"):
        raise UsageError("metrics_enable setting is required, when metrics_list is given")
    _metrics(values)


def _check_ports(values: dict[str, Any]) -> None:
    for key in ("port", "rest_port"):
        if values.get(key, 0) > 65535:
            raise UsageError(f"{key} number out of range from 0 to 65535")
    port, rest_port = values.get("port", 0), values.get("rest_port", 0)
    if not port and not rest_port:
        raise UsageError("port and rest_port cannot both be unset")
    for key in ("rest_bind_address", "grpc_bind_address"):
        if key in values and not all(_is_address(text) for text in _addresses(values, key)):
            raise UsageError(f"{key} has invalid format: proper hostname or IP address expected.")
    if port == rest_port:
        raise UsageError("port and rest_port cannot have the same values")


def _addresses(values: dict[str, Any], key: str) -> list[str]:
    return [text.strip() for text in values.get(key, "0.0.0.0").split(",")]  # noqa: S104 - its default


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # Four numbers are meant as an address, and are none.
        return bool(_HOST.fullmatch(text)) and not re.fullmatch(r"[\d.]+", text)
    return True


def _metrics(values: dict[str, Any]) -> tuple[str, ...] | None:
    """Return which of Model Server's metrics are wanted; ``None`` = nothing was said."""
    if not values.get("metrics_enable"):
        return None
    listed = values.get("metrics_list", "")
    try:
        return metric_names([name.strip() for name in listed.split(",")] if listed else ())
    except ConfigError as error:
        raise UsageError(str(error)) from None


# -- what it comes to ----------------------------------------------------------------------------


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the server.

    Raises:
        UsageError: A value that should be JSON is not.
    """
    listen = [
        (address, values[port])
        for port, key in (("port", "grpc_bind_address"), ("rest_port", "rest_bind_address"))
        if values.get(port)
        for address in _addresses(values, key)
    ]
    (host, first), *others = listen
    config_path = values.get("config_path")
    ovms = {
        "config_path": str(Path(config_path).absolute()) if config_path else None,
        "model": None if config_path else model_of(values),
        "cleaner_minutes": values.get("sequence_cleaner_poll_wait_minutes", 5),
        "poll_s": values.get("file_system_poll_wait_seconds", 1),
        "cache_dir": values.get("cache_dir", ""),
        "cpu_extension": values.get("cpu_extension", ""),
        "metrics": _metrics(values),
        "rest": bool(values.get("rest_port")),
    }
    log_path = values.get("log_path")
    passed = {
        key: values.get(key)
        for key in ("data", "store", "durability", "max_resident_state", "log_form")
    }
    return {
        **passed,
        "host": host,
        "port": first,
        "extra_addresses": tuple(others) or None,
        "log_path": Path(log_path).absolute() if log_path else None,
        "log_level": _LOG_LEVELS[values.get("log_level", "INFO")],
        "drain_timeout_s": values.get("drain_timeout"),
        "keep_ends_s": values.get("keep_ends"),
        "max_message_bytes": MOST_MESSAGE_BYTES,
        "ovms": ovms,
    }


def model_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the one model as a config file would have it.

    Raises:
        UsageError: A value that should be JSON is not.
    """
    made: dict[str, Any] = {
        "name": values["model_name"],
        "base_path": str(Path(values["model_path"]).absolute()),
    }
    for key in ("target_device", "nireq", "stateful", *_SUB_OPTIONS, "sequence_timeout_seconds"):
        if key in values:
            made[key] = values[key]
    if "batch_size" in values:
        text = values["batch_size"]
        made["batch_size"] = int(text) if text.isdigit() else text
    for key in ("shape", "layout"):
        if key in values:
            text = values[key]
            made[key] = _json(key, text) if text.lstrip().startswith("{") else text
    for key in ("plugin_config", "model_version_policy"):
        if key in values:
            made[key] = _json(key, values[key])
    return made


def _json(key: str, text: str) -> Any:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{key} is no JSON object: {text}")
    return found
