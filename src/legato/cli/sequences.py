"""``legato sequences``: see, branch, move, record and replay the sequences of a server."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from legato.cli import sequences_view as view
from legato.cli.sequences_client import Remote, model_path, sequence_path, typed
from legato.core.errors import ClientError, ConfigError
from legato.settings import parse_size, server_address

command = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="See, branch, move, record and replay sequences.",
    epilog="An ID of digits is a number and any other a text; i:7 and s:7 say which is meant.",
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help="Model name.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Id of the sequence: 7, ann, i:7, s:7.")]
Server = Annotated[
    str | None, typer.Option(help="Where the server is.  [LEGATO_SERVER or 127.0.0.1:8000]")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Exported = Annotated[Path, typer.Argument(help="A file that 'export' wrote.")]
Snapshot = Annotated[str | None, typer.Option(help="Of this snapshot, not of now.")]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_REFRESH_BYTES = 1 << 18


def _remote(server: str | None) -> Remote:
    return Remote(server_address(server))


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*([\d.]+)\s*([a-z]*)\s*", text)
    if found is None or found[2] not in _UNITS:
        raise typer.BadParameter(f"'{text}' is no duration; write 90, 90s, 5m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]


def _bytes(text: str | None) -> Any:
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _print(answer: Any, shown: Any, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        view.console().print(shown)


@command.command("list")
def list_sequences(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Of this model.")] = None,
    *,
    min_age: Annotated[str | None, typer.Option(help="At least this old: 90s, 5m, 2h.")] = None,
    max_age: Annotated[str | None, typer.Option(help="At most this old.")] = None,
    min_idle: Annotated[str | None, typer.Option(help="Idle at least this long.")] = None,
    max_idle: Annotated[str | None, typer.Option(help="Idle at most this long.")] = None,
    min_state: Annotated[str | None, typer.Option(help="State of at least: 512, 4K, 1M.")] = None,
    max_state: Annotated[str | None, typer.Option(help="State of at most.")] = None,
    min_step: Annotated[int | None, typer.Option(help="At least this many steps.")] = None,
    max_step: Annotated[int | None, typer.Option(help="At most this many steps.")] = None,
    dialect: Annotated[str | None, typer.Option(help="Opened in this protocol.")] = None,
    resident: Annotated[
        bool | None, typer.Option("--resident/--parked", help="State in memory, or not.")
    ] = None,
    id_prefix: Annotated[str | None, typer.Option(help="Ids that begin so.")] = None,
    most: Annotated[int, typer.Option("--limit", help="Rows at most; 0 = all.")] = 100,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """List live sequences, oldest first."""
    query = {
        "min_age_s": _seconds(min_age),
        "max_age_s": _seconds(max_age),
        "min_idle_s": _seconds(min_idle),
        "max_idle_s": _seconds(max_idle),
        "min_bytes": _bytes(min_state),
        "max_bytes": _bytes(max_state),
        "min_step": min_step,
        "max_step": max_step,
        "dialect": dialect,
        "residence": None if resident is None else "resident" if resident else "parked",
        "id_prefix": id_prefix,
    }
    path = f"{model_path(model)}/sequences" if model else "/sequences"
    # One more than shown, to know whether there are more.
    wanted = most + 1 if most else 0
    rows = list(_remote(server).pages(path, query, "sequences", wanted))
    more = bool(most) and len(rows) > most
    rows = rows[:most] if more else rows
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    view.console().print(view.sequences(rows) if rows else "no live sequences")
    if more:
        view.console().print("... and more; --limit 0 shows all")


@command.command()
def show(model: Model, correlation_id: Id, as_json: Json = False, server: Server = None) -> None:
    """Describe a sequence: live, or what became of it."""
    answer = _remote(server).call("GET", sequence_path(model, correlation_id))
    _print(answer, view.description(answer), as_json=as_json)


@command.command()
def end(
    model: Model,
    correlation_id: Id,
    reason: Annotated[str, typer.Option(help="ended, cancelled or evicted.")] = "ended",
    incarnation: Annotated[str | None, typer.Option(help="Only this incarnation.")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """End a sequence without a step."""
    query = {"reason": reason, "incarnation": incarnation}
    answer = _remote(server).call("DELETE", sequence_path(model, correlation_id), query)
    _print(answer, f"{answer['status']} at step {answer['step']}", as_json=as_json)


@command.command()
def snapshot(
    model: Model,
    correlation_id: Id,
    name: Annotated[str | None, typer.Option(help="Its name.  [step-N]")] = None,
    at_step: Annotated[int | None, typer.Option(help="Only if it is at this step.")] = None,
    ttl: Annotated[str | None, typer.Option(help="Kept so long.  [until deleted]")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the one of this name.")] = False,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Freeze the state of a sequence under a name, or delete such a snapshot."""
    path = sequence_path(model, correlation_id) + "/snapshots"
    if delete:
        if not name:
            raise typer.BadParameter("--delete needs --name")
        answer = _remote(server).call("DELETE", f"{path}/{quote(name, safe='')}")
        _print(answer, f"snapshot {name} is deleted", as_json=as_json)
        return
    fields = {"name": name, "at_step": at_step, "ttl_s": _seconds(ttl)}
    answer = _remote(server).call("POST", path, fields=fields)
    made = answer["snapshot"]
    _print(answer, f"snapshot {made['name']} of step {made['step']}", as_json=as_json)


@command.command()
def snapshots(
    model: Model,
    correlation_id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """List the snapshots of a sequence, or of a model."""
    base = sequence_path(model, correlation_id) if correlation_id else model_path(model)
    rows = list(_remote(server).pages(f"{base}/snapshots", {}, "snapshots", 0))
    _print(rows, view.snapshots(rows) if rows else "no snapshots", as_json=as_json)


@command.command()
def fork(
    model: Model,
    correlation_id: Id,
    target: Annotated[str, typer.Argument(metavar="NEW_ID", help="Id of the new sequence.")],
    snapshot: Snapshot = None,
    at_step: Annotated[int | None, typer.Option(help="Only if it is at this step.")] = None,
    ttl: Annotated[str | None, typer.Option(help="Idle limit of the new one.")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Make a second sequence that goes on from the state of this one."""
    fields = {
        "target": typed(target),
        "snapshot": snapshot,
        "at_step": at_step,
        "ttl_s": _seconds(ttl),
    }
    answer = _remote(server).call(
        "POST", sequence_path(model, correlation_id) + "/fork", fields=fields
    )
    _print(answer, _begins(answer["sequence"]), as_json=as_json)


@command.command()
def rollback(
    model: Model,
    correlation_id: Id,
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.")],
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Put a sequence back to one of its snapshots."""
    answer = _remote(server).call(
        "POST", sequence_path(model, correlation_id) + "/rollback", fields={"snapshot": snapshot}
    )
    _print(answer, _begins(answer["sequence"]), as_json=as_json)


@command.command()
def export(
    model: Model,
    correlation_id: Id,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    snapshot: Snapshot = None,
    server: Server = None,
) -> None:
    """Write a sequence to a safetensors file."""
    path = sequence_path(model, correlation_id) + "/export"
    data = _remote(server).call("GET", path, {"snapshot": snapshot})
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(output)) from None
    view.console().print(f"{output}: {view.size(len(data))}")


@command.command("import")
def import_sequence(
    model: Model,
    file: Exported,
    correlation_id: Annotated[str | None, typer.Option("--id", help="[the id in the file]")] = None,
    ttl: Annotated[str | None, typer.Option(help="Idle limit.  [that of the file]")] = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Make a sequence of a file."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from None
    query = {"id": typed(correlation_id) if correlation_id else None, "ttl_s": _seconds(ttl)}
    answer = _remote(server).call("POST", f"{model_path(model)}/sequences", query, file=data)
    _print(answer, _begins(answer["sequence"]), as_json=as_json)


@command.command()
def state(
    model: Model,
    correlation_id: Id,
    names: Annotated[str | None, typer.Option(help="Only these states, with commas.")] = None,
    snapshot: Snapshot = None,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Show the state tensors of a sequence."""
    query = {"names": names, "snapshot": snapshot}
    answer = _remote(server).call("GET", sequence_path(model, correlation_id) + "/state", query)
    if not as_json:
        view.console().print(f"step {answer['step']}")
    _print(answer, view.tensors(answer), as_json=as_json)


@command.command()
def record(
    model: Model,
    correlation_id: Id,
    off: Annotated[bool, typer.Option("--off", help="Stop recording.")] = False,
    as_json: Json = False,
    server: Server = None,
) -> None:
    """Write the steps of a sequence to a file in the server's data folder."""
    answer = _remote(server).call(
        "POST", sequence_path(model, correlation_id) + "/record", fields={"on": not off}
    )
    _print(answer, view.recording(answer["recording"]), as_json=as_json)


@command.command()
def replay(
    file: Annotated[Path, typer.Argument(help="A recording.")],
    model: Annotated[
        Path | None, typer.Option(help="Run this model.  [where it was recorded]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run the steps of a recording again and compare bit for bit; exit 1 on a difference."""
    from legato.recorder.replay import Replay

    replaying = Replay(file, model)
    # No refresh thread: it would take turns with the model. The bar moves between steps.
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        auto_refresh=False, transient=True, disable=as_json or not sys.stdout.isatty(),
    )  # fmt: skip
    drawn = 0

    try:
        with bar:
            task = bar.add_task("replaying", total=max(file.stat().st_size, 1))

            def progress(done: int) -> None:
                nonlocal drawn
                if done - drawn >= _REFRESH_BYTES:
                    drawn = done
                    bar.update(task, completed=done, refresh=True)

            outcome = replaying.run(progress)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(file)) from None
    except ClientError as error:
        raise ConfigError(str(error), file=str(file)) from None
    _print(view.replay_facts(outcome), view.replay(outcome), as_json=as_json)
    if outcome.difference is not None:
        raise typer.Exit(1)


def _begins(sequence: dict[str, Any]) -> str:
    return (
        f"{sequence['model']} / {view.shown_id(sequence['id'])} is at step {sequence['step']}; "
        f"step {sequence['step'] + 1} is next"
    )
