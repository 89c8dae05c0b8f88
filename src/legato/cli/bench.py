"""``legato bench``: measure a KServe v2 server that serves sequences."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from legato.bench.load import (
    Check,
    Data,
    Load,
    LoadError,
    parse_address,
    parse_range,
    parse_shape,
    parse_value,
)
from legato.bench.run import run
from legato.bench.show import table
from legato.bench.target import Target

if TYPE_CHECKING:
    from legato.bench.result import Result

Output = Annotated[Path | None, typer.Option(help="Write the figures there, as JSON.")]


def command(
    url: Annotated[str, typer.Argument(help="host:port of the server's gRPC (grpcs:// for TLS).")],
    *,
    model: Annotated[str, typer.Option(help="Model to step.")],
    version: Annotated[str, typer.Option(help="Its version; the server's default if empty.")] = "",
    sequences: Annotated[int, typer.Option(min=1, help="Sequences in flight.")] = 32,
    length: Annotated[int, typer.Option(min=1, help="Steps of a sequence.")] = 20,
    spread: Annotated[
        float, typer.Option(min=0, max=1, help="Share by which lengths vary around that.")
    ] = 0.2,
    streaming: Annotated[
        bool, typer.Option("--streaming/--unary", help="Streams, or a call for every step.")
    ] = True,
    per_stream: Annotated[int, typer.Option(min=1, help="Sequences that share a stream.")] = 1,
    rate: Annotated[
        float, typer.Option(min=0, help="Steps a second in all; 0 = as fast as answers come.")
    ] = 0.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of load before that.")] = 1.0,
    steps: Annotated[
        int, typer.Option(min=0, help="Measure so many steps instead of seconds.")
    ] = 0,
    id_range: Annotated[
        str, typer.Option(help="first:last; ids are reused. Default: ids not used before.")
    ] = "",
    text_ids: Annotated[bool, typer.Option("--text-ids", help="Send ids as strings.")] = False,
    numbered: Annotated[
        bool, typer.Option("--numbered", help="Send step numbers (exactly once; Legato only).")
    ] = False,
    data: Annotated[Data, typer.Option(help="Contents of the tensors.")] = Data.RANDOM,
    check: Annotated[
        Check, typer.Option(help="Hold answers against sums; auto = for accumulators.")
    ] = Check.AUTO,
    shape: Annotated[
        list[str] | None, typer.Option(help="NAME:SIZE,SIZE of an input with open dimensions.")
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option(help="NAME=NUMBER that fills an input, as in sr=16000.")
    ] = None,
    leave_out: Annotated[
        list[str] | None, typer.Option(help="Input that is not sent (the server has a default).")
    ] = None,
    pid: Annotated[
        int, typer.Option(min=0, help="The server's process: its CPU per step is measured.")
    ] = 0,
    processes: Annotated[
        int, typer.Option(min=0, help="Processes that make the load; 0 = half of the cores.")
    ] = 0,
    channels: Annotated[int, typer.Option(min=1, help="Connections of each of them.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    output: Output = None,
) -> None:
    """Put a server of sequences under load and measure it.

    Works with every server that speaks KServe v2 over gRPC with Triton's sequence parameters.
    Sums of what each sequence has sent are held against the answers of accumulators: exit
    code 1 if one is wrong, if a step failed, or if there was no answer at all.
    """
    console = Console(stderr=as_json)
    try:
        address, secure = parse_address(url)
        first_id, ids = parse_range(id_range) if id_range else (_unused_ids(), 2**40)
        target = Target(address, model, version, secure=secure)
        load = Load(
            address,
            model,
            secure=secure,
            version=version,
            sequences=sequences,
            length=length,
            spread=spread,
            streaming=streaming,
            per_stream=per_stream,
            rate=rate,
            steps=steps,
            first_id=first_id,
            ids=ids,
            text_ids=text_ids,
            numbered=numbered,
            data=data,
            check=target.check(check, data),
            shapes=dict(parse_shape(text) for text in shape or ()),
            values=dict(parse_value(text) for text in value or ()),
            left_out=tuple(leave_out or ()),
            processes=processes or _half_of_the_cores(sequences),
            channels=channels,
        )
        result = run(load, target, console, seconds=seconds, warm_up_s=warm_up, pid=pid)
    except LoadError as error:
        console.print(
            f"bench: {error}", style="bold red", highlight=False, markup=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    _tell(load, result, console, as_json=as_json, output=output)
    raise typer.Exit(1 if result.wrong or result.failed or not result.steps else 0)


def _unused_ids() -> int:
    """Return a first id that no earlier run is likely to have used."""
    return int.from_bytes(os.urandom(2)) * 2**40 + 1


def _half_of_the_cores(sequences: int) -> int:
    return max(1, min(sequences, 8, (os.cpu_count() or 2) // 2))


def _tell(
    load: Load, result: Result, console: Console, *, as_json: bool, output: Path | None
) -> None:
    figures = json.dumps(
        {"load": asdict(load), "result": result.as_dict()}, indent=2, default=_name
    )
    if output is not None:
        output.write_text(figures + "\n", encoding="utf-8")
    if as_json:
        print(figures)
    else:
        console.print(table(load, result), highlight=False)
    if result.wrong:
        console.print(
            f"{result.wrong:,} of {result.steps:,} answers are wrong: the server mixes up states",
            style="bold red",
            highlight=False,
        )


def _name(value: Any) -> Any:
    """Return the JSON form of what json does not know: an enum's name."""
    return value.value if isinstance(value, Check | Data) else str(value)
