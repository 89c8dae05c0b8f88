"""``legato serve``: serve models until told to stop."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from legato import __version__
from legato.serving.envoy import build_config, resolve
from legato.serving.supervisor import StartError, Supervisor
from legato.settings import ServerSettings, server_settings

if TYPE_CHECKING:
    from legato.serving.supervisor import Ready

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="Model files, folders with model.yaml, or folders of these."),
]


def command(
    models: Paths = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 = any free one.  [8000]")] = None,
    extra_port: Annotated[
        list[int] | None, typer.Option(help="A further port of the same server; repeatable.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder to keep sequences in; one server each.  [in the user's data]"),
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="log, sqlite, or memory to keep nothing.  [log]")
    ] = None,
    durability: Annotated[
        str | None,
        typer.Option(help="What a reply survives: 'process' its death, 'disk' power loss too."),
    ] = None,
    stream_order: Annotated[
        str | None,
        typer.Option(help="Replies of a stream: in order within a sequence, or as 'request'ed."),
    ] = None,
    max_message_bytes: Annotated[int | None, typer.Option(help="Largest request.")] = None,
    allow_client_shm: Annotated[
        str | None,
        typer.Option(help="'true': KServe clients may give tensors in shared memory.  [false]"),
    ] = None,
    max_resident_state: Annotated[
        str | None,
        typer.Option(help="Memory for idle sequences, as 512M or 2G; 0 = no limit.  [1G]"),
    ] = None,
    keep_ends: Annotated[
        float | None,
        typer.Option(help="Seconds that the end of a sequence is known, for late steps.  [600]"),
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds that stopping waits for steps in flight.  [30]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Envoy threads.  [1]")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_form: Annotated[str | None, typer.Option(help="auto, json or console.")] = None,
    announce: Annotated[
        str, typer.Option(help="How to say that it is ready: text or json.")
    ] = "text",
    print_envoy_config: Annotated[
        bool, typer.Option("--print-envoy-config", help="Show the configuration and stop.")
    ] = False,
) -> None:
    """Serve models over gRPC and HTTP on one port, until told to stop.

    SIGTERM or Ctrl-C finishes the steps in flight first; a second one stops at once.
    """
    settings = server_settings(
        {
            "models": models or None,
            "host": host,
            "port": port,
            "extra_ports": extra_port or None,
            "data": data,
            "store": store,
            "durability": durability,
            "stream_order": stream_order,
            "max_message_bytes": max_message_bytes,
            "allow_client_shm": allow_client_shm,
            "max_resident_state": max_resident_state,
            "keep_ends_s": keep_ends,
            "drain_timeout_s": drain_timeout,
            "workers": workers,
            "log_level": log_level,
            "log_form": log_form,
        }
    )
    if print_envoy_config:
        print(json.dumps(build_config(settings, resolve(settings.host), None), indent=2))
        return
    if not settings.models:
        raise typer.BadParameter("name at least one model file or folder", param_hint="MODELS")
    raise typer.Exit(asyncio.run(run(settings, as_json=announce == "json")))


async def run(settings: ServerSettings, *, as_json: bool) -> int:
    """Serve until stopped, say when it is ready; return the exit code."""

    def announce(ready: Ready) -> None:
        print(as_line(ready) if not as_json else _as_json(ready), flush=True)

    supervisor = Supervisor(settings, announce, _say)
    try:
        return await supervisor.run()
    except StartError as error:
        _say(str(error))
        return 1


def _say(sentence: str) -> None:
    sys.stderr.write(f"legato: {sentence}\n")
    sys.stderr.flush()


def _as_json(ready: Ready) -> str:
    return json.dumps({"ready": {name: getattr(ready, name) for name in ready.__slots__}})


def as_line(ready: Ready) -> str:
    """Return the one line that people wait for."""
    shown = ", ".join(_model(model) for model in ready.models[:_MOST_SHOWN]) or "no model"
    if len(ready.models) > _MOST_SHOWN:
        shown += f" and {len(ready.models) - _MOST_SHOWN} more"
    return (
        f"legato {__version__} is ready: serves {shown} on http+grpc {', '.join(ready.addresses)} "
        f"in {ready.seconds:.1f} s; {_store(ready.store)}"
    )


_SURVIVES = {"process": "survives the death of the process", "disk": "survives loss of power"}


def _store(store: dict[str, Any]) -> str:
    if store["folder"] is None:
        return "keeps sequences in memory only"
    count = store["sequences"]
    return (
        f"keeps {count} sequence{'' if count == 1 else 's'} in {store['folder']} "
        f"({store['kind']}, {store['level']}: {_SURVIVES[store['level']]})"
    )


_MOST_SHOWN = 5


def _model(model: dict[str, object]) -> str:
    states = model["states"]
    kind = "stateless" if not states else f"{states} state{'' if states == 1 else 's'}"
    batched = "batched" if model["batched"] else "one by one"
    return f"{model['name']} ({model['runtime']}, {kind}, {batched})"
