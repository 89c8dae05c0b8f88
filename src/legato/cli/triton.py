"""``legato triton``: the command line of Triton Inference Server, as it is.

Its users change one word. Flags, defaults and exit codes are its own; a few flags are
ours (they say where sequences are kept). Flags about things that do not exist here, such as
thread counts, are accepted and do nothing; flags that would make a server safer and cannot be
kept here are refused.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import typer

from legato import __version__
from legato.cli.serve import run
from legato.settings import server_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONTEXT: Final = {
    # All arguments are ours to read: their syntax is not that of this command line.
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
USAGE: Final = 1
"""Exit code of a wrong command line, and of a start that failed."""
MOST_MESSAGE_BYTES: Final = 1024**3
ANY_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - its default


class UsageError(Exception):
    """The command line is wrong."""


class Flag(NamedTuple):
    """One option.

    Attributes:
        kind: ``bool``, ``number``, ``text``, ``list`` (may be given again), ``word`` (takes no
            value) or ``refused``.
        help: One line; for ``refused``, what to do instead.
    """

    kind: str
    help: str = "accepted, changes nothing here"


_MODELS: Final = {
    "model-repository": Flag("list", "folder of model folders; may be given again"),
    "model-store": Flag("list", "the same"),
    "model-control-mode": Flag("text", "none, explicit or poll  [none]"),
    "load-model": Flag("list", "explicit: model to load at the start, or '*'; may be given again"),
    "repository-poll-secs": Flag("number", "poll: seconds between looks at files  [15]"),
    "model-config-name": Flag("text", "read <model>/configs/<name>.pbtxt where it is there"),
    "disable-auto-complete-config": Flag("word", "configs must be complete"),
    "strict-model-config": Flag("bool", "the same, with a value  [false]"),
    "exit-on-error": Flag("bool", "stop if a model cannot be loaded at the start  [true]"),
    "strict-readiness": Flag("bool", "ready means that all models are  [true]"),
    "backend-config": Flag("list"),
    "backend-directory": Flag("text"),
    "repoagent-directory": Flag("text"),
    "model-load-thread-count": Flag("number"),
    "model-load-retry-count": Flag("number"),
    "model-load-gpu-limit": Flag("list"),
    "host-policy": Flag("list"),
    "model-namespacing": Flag("bool", "true is not offered here  [false]"),
}
_SERVER: Final = {
    "help": Flag("word", "show this and stop"),
    "version": Flag("word", "show the version and stop"),
    "id": Flag("text"),
    "exit-timeout-secs": Flag("number", "seconds that stopping waits for steps in flight  [30]"),
    "allow-http": Flag("bool", "open the HTTP port  [true]"),
    "http-address": Flag("text", f"address for HTTP  [{ANY_ADDRESS}]"),
    "http-port": Flag("number", "port for HTTP  [8000]"),
    "http-max-input-size": Flag("number", "largest request"),
    "allow-grpc": Flag("bool", "open the gRPC port  [true]"),
    "grpc-address": Flag("text", f"address for gRPC  [{ANY_ADDRESS}]"),
    "grpc-port": Flag("number", "port for gRPC  [8001]"),
    "allow-metrics": Flag("bool", "open the port for metrics  [true]"),
    "metrics-address": Flag("text", "address for metrics  [that for HTTP]"),
    "metrics-port": Flag("number", "port for metrics  [8002]"),
    "allow-client-shm": Flag("bool", "clients may give tensors in shared memory  [false]"),
    "log-verbose": Flag("number", "1 and more: log everything  [0]"),
    "log-info": Flag("bool", "log what happens  [true]"),
    "log-warning": Flag("bool", "log warnings  [true]"),
    "log-error": Flag("bool"),
    "log-format": Flag("text"),
    "log-file": Flag("text", "write the log there"),
}
_ACCEPTED: Final = {
    **dict.fromkeys(
        """
        reuse-http-port reuse-grpc-port allow-gpu-metrics allow-cpu-metrics
        enable-peer-access
        """.split(),
        Flag("bool"),
    ),
    **dict.fromkeys(
        """
        http-thread-count http-header-forward-pattern grpc-header-forward-pattern
        grpc-infer-thread-count grpc-infer-allocation-pool-size grpc-max-response-pool-size
        grpc-infer-response-compression-level grpc-keepalive-time grpc-keepalive-timeout
        grpc-keepalive-permit-without-calls grpc-http2-max-pings-without-data
        grpc-http2-min-recv-ping-interval-without-data grpc-http2-max-ping-strikes
        grpc-max-connection-age grpc-max-connection-age-grace metrics-interval-ms
        trace-file trace-level trace-rate trace-count trace-log-frequency rate-limit
        pinned-memory-pool-byte-size cuda-virtual-address-size response-cache-byte-size
        min-supported-compute-capability buffer-manager-thread-count cache-directory
        """.split(),
        Flag("text"),
    ),
    **dict.fromkeys(
        "metrics-config trace-config cache-config rate-limit-resource cuda-memory-pool-byte-size"
        .split(),
        Flag("list"),
    ),
}  # fmt: skip
_TLS = "put a proxy that ends TLS in front, and leave this out"
_RESTRICTED = "put a proxy that restricts calls in front, and leave this out"
_REFUSED: Final = {
    "grpc-use-ssl": Flag("refused", _TLS),
    "grpc-use-ssl-mutual": Flag("refused", _TLS),
    "grpc-server-cert": Flag("refused", _TLS),
    "grpc-server-key": Flag("refused", _TLS),
    "grpc-root-cert": Flag("refused", _TLS),
    "grpc-restricted-protocol": Flag("refused", _RESTRICTED),
    "http-restricted-api": Flag("refused", _RESTRICTED),
    "allow-sagemaker": Flag("refused", "leave it out: SageMaker's paths are not served here"),
    "allow-vertex-ai": Flag("refused", "leave it out: Vertex AI's paths are not served here"),
}
_OURS: Final = {
    "data": Flag("text", "folder to keep sequences in  [in the user's data]"),
    "store": Flag("text", "log, sqlite, or memory to keep nothing  [log]"),
    "durability": Flag("text", "what a reply survives: process or disk  [process]"),
    "max-resident-state": Flag("text", "idle state kept in memory  [1G]"),
    "keep-ends": Flag("text", "seconds that the end of a sequence is known  [600]"),
    "stream-order": Flag("text", "answers of a stream: in order within a 'sequence', or as "
                         "'request'ed, as Triton  [sequence]"),
    "log-form": Flag("text", "auto, json or console  [auto]"),
    "announce": Flag("text", "how to say that it is ready: text or json  [text]"),
}  # fmt: skip
FLAGS: Final = {**_SERVER, **_MODELS, **_ACCEPTED, **_REFUSED, **_OURS}
_TRUE, _FALSE = ("true", "1"), ("false", "0")
_PORTS = (("http", 8000), ("grpc", 8001), ("metrics", 8002))
_MODES = ("none", "explicit", "poll")


def command(ctx: typer.Context) -> None:
    """Serve models as Triton Inference Server did, until told to stop.

    Takes its flags as they are; ``legato triton --help`` lists them.
    """
    try:
        values = parse(ctx.args)
        if "help" in values:
            print(overview())
            return
        if "version" in values:
            print(f"legato {__version__}")
            return
        options = settings_of(values)
    except UsageError as error:
        sys.stderr.write(f"legato triton: {error}\n")
        raise typer.Exit(USAGE) from None
    raise typer.Exit(
        asyncio.run(run(server_settings(options), as_json=values.get("announce") == "json"))
    )


def overview() -> str:
    """Return the list of flags."""
    parts = (
        ("Server", _SERVER), ("Models", _MODELS), ("Legato's own", _OURS),
        ("Accepted, without effect here", _ACCEPTED), ("Refused", _REFUSED),
    )  # fmt: skip
    lines = ["legato triton: serve model repositories of Triton Inference Server", ""]
    for title, flags in parts:
        lines.append(f"{title}:")
        lines += [f"  --{name:<46} {flag.help}" for name, flag in flags.items()]
        lines.append("")
    return "\n".join(lines)


# -- syntax --------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value`` and ``--name=value``; the last one counts, lists keep all.

    Raises:
        UsageError: An argument is unknown or refused, stands alone, or has no fitting value.
    """
    values: dict[str, Any] = {}
    waiting = iter(arguments)
    for argument in waiting:
        written, equals, text = argument.partition("=")
        name = "help" if argument == "-h" else written.removeprefix("--").replace("_", "-")
        flag = FLAGS.get(name)
        if flag is None or not (argument.startswith("--") or argument == "-h"):
            raise UsageError(
                f"unrecognized option '{argument}'\n  fix: 'legato triton --help' lists what there "
                "is"
            )
        if flag.kind == "word":
            if equals:
                raise UsageError(f"option '--{name}' doesn't allow an argument")
            values[name] = True
            continue
        value = _value(name, flag, text if equals else _next(name, waiting))
        if flag.kind == "list":
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    return values


def _next(name: str, waiting: Iterator[str]) -> str:
    text = next(waiting, None)
    if text is None:
        raise UsageError(f"option '--{name}' requires an argument")
    return text


def _value(name: str, flag: Flag, text: str) -> Any:
    if flag.kind == "refused":
        if text.lower() in _FALSE:
            return False
        raise UsageError(f"'--{name}' is not offered here\n  fix: {flag.help}")
    if flag.kind == "bool":
        if text.lower() not in (*_TRUE, *_FALSE):
            raise UsageError(f"'--{name}' must be true or false, not '{text}'")
        return text.lower() in _TRUE
    if flag.kind == "number":
        if not (text.isascii() and text.isdigit()):
            raise UsageError(f"'--{name}' must be a number, not '{text}'")
        return int(text)
    return text


# -- what it comes to ----------------------------------------------------------------------------


def settings_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the server.

    Raises:
        UsageError: Something does not go together.
    """
    (host, port), *others = _listen(values)
    passed = {
        name.replace("-", "_"): values.get(name)
        for name in ("data", "store", "durability", "max-resident-state", "log-form",
                     "stream-order", "allow-client-shm")
    }  # fmt: skip
    log_file = values.get("log-file")
    return {
        **passed,
        "host": host,
        "port": port,
        "extra_addresses": tuple(others) or None,
        "log_level": _log_level(values),
        "log_path": Path(log_file).absolute() if log_file else None,
        "drain_timeout_s": values.get("exit-timeout-secs", 30),
        "keep_ends_s": values.get("keep-ends"),
        "max_message_bytes": values.get("http-max-input-size", MOST_MESSAGE_BYTES),
        "triton": options_of(values),
    }


def options_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return how the repositories are served; see ``legato.repository.triton.options``.

    Raises:
        UsageError: Something does not go together.
    """
    folders = [*values.get("model-repository", ()), *values.get("model-store", ())]
    if not folders:
        raise UsageError(
            "failed to create server: --model-repository must be specified\n"
            "  fix: name the folder that holds a folder for each model"
        )
    remote = next((folder for folder in folders if "://" in folder), None)
    if remote is not None:
        raise UsageError(
            f"--model-repository {remote} is not on this machine\n"
            "  fix: copy the models here, or mount the bucket"
        )
    mode = values.get("model-control-mode", "none")
    if mode not in _MODES:
        raise UsageError(f"--model-control-mode must be one of {', '.join(_MODES)}, not '{mode}'")
    load = values.get("load-model", [])
    if load and mode != "explicit":
        raise UsageError("--load-model can only be specified when --model-control-mode=explicit")
    if values.get("model-namespacing"):
        raise UsageError(
            "'--model-namespacing' is not offered here\n  fix: give models other names"
        )
    strict = values.get("strict-model-config", False) or "disable-auto-complete-config" in values
    poll_s = values.get("repository-poll-secs", 15)
    if mode == "poll" and not poll_s:
        mode = "none"
    return {
        "repositories": [str(Path(folder).absolute()) for folder in folders],
        "mode": mode,
        "load": load,
        "poll_s": poll_s or 15,
        "exit_on_error": values.get("exit-on-error", True),
        "strict_readiness": values.get("strict-readiness", True),
        "auto_complete": not strict,
        "config_name": values.get("model-config-name", ""),
    }


def _listen(values: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the addresses to listen on; one of them at least."""
    found: list[tuple[str, int]] = []
    for name, usual in _PORTS:
        if not values.get(f"allow-{name}", True):
            continue
        base = values.get("http-address", ANY_ADDRESS) if name == "metrics" else ANY_ADDRESS
        port = values.get(f"{name}-port", usual)
        if port > 65535:
            raise UsageError(f"--{name}-port must be at most 65535, not {port}")
        address = (values.get(f"{name}-address", base), port)
        if port and address in found:
            raise UsageError(f"--{name}-port {port} is taken by another of the server's own ports")
        found.append(address)
    if not found:
        raise UsageError("there is nothing to listen on: allow HTTP, gRPC or metrics")
    return found


def _log_level(values: dict[str, Any]) -> str:
    if values.get("log-verbose", 0):
        return "debug"
    if values.get("log-info", True):
        return "info"
    return "warning" if values.get("log-warning", True) else "error"
