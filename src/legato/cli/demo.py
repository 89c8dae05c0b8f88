"""``legato demo``: see the whole thing work, on real speech."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from legato.demo.assets import AssetError
from legato.demo.process import StartFailedError
from legato.demo.run import Options, run
from legato.demo.streams import StreamError

FOLDER = Path("demo-output")


def command(
    streams: Annotated[int, typer.Option(min=1, max=512, help="Concurrent sequences.")] = 32,
    frames: Annotated[
        int, typer.Option(min=0, help="Chunks of 32 ms a stream sends; 0 = the whole minute.")
    ] = 0,
    kill: Annotated[
        bool,
        typer.Option("--kill/--no-kill", help="Kill the server half way (SIGKILL), and go on."),
    ] = True,
    store: Annotated[
        str, typer.Option(help="Where steps are committed: log, sqlite or memory.")
    ] = "log",
    output: Annotated[
        Path, typer.Option(help="Folder for the picture, the model folder and the server's log.")
    ] = FOLDER,
    assets: Annotated[
        Path | None, typer.Option(help="Folder with model and recording, instead of the cache.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="A line a second instead of the live view.")
    ] = False,
) -> None:
    """Serve a real voice-activity model and follow many streams of real speech at once.

    Half way the server is killed and started again; every stream goes on where it was. At
    the end the speech that was found is compared with the model package's own answer.
    """
    if store == "memory" and kill:
        raise typer.BadParameter("a killed server forgets what it kept in memory: add --no-kill")
    options = Options(streams, frames, kill, store, output, assets, plain)
    console = Console()
    try:
        code = asyncio.run(run(options, console))
    except* (AssetError, StartFailedError, StreamError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        console.print(
            f"demo failed: {error}",
            style="bold red",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        code = 1
    raise typer.Exit(code)
