"""The demo from beginning to end: serve, stream, kill, compare, show."""

from __future__ import annotations

import asyncio
import functools
import gc
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.live import Live

from legato.demo import assets, picture, report, view
from legato.demo.audio import chunks, read_wav, recordings
from legato.demo.board import Board, Track
from legato.demo.check import Verdict, bare_answers
from legato.demo.meter import Meter
from legato.demo.process import Ready, ServerProcess, kill
from legato.demo.segments import FRAME, PUBLISHED, speech_segments
from legato.demo.streams import Stream

if TYPE_CHECKING:
    from rich.console import Console

    from legato.demo.audio import Samples

MODEL = "silero-vad"
FRAMES_PER_SECOND = 5

MANIFEST = f"""\
# Silero VAD 6.2.3: one recurrent state, and 64 samples of context that the graph wants
# before every chunk. The server keeps both.
name: {MODEL}
file: silero_vad.onnx
inputs:
  input: {{shape: [1, {FRAME}]}}
  sr: {{scalar: true, default: 16000}}
states:
  - {{input: state, output: stateN, shape: [2, 1, 128], batch_axis: 1}}
  - {{name: context, input: input, rule: window, axis: 1, size: 64}}
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        streams: Concurrent sequences.
        frames: Chunks each stream sends, 0 = its whole recording.
        kill: Kill the server half way.
        store: Where the server commits steps: ``log``, ``sqlite`` or ``memory``.
        output: Folder for the picture, the log and the model folder.
        assets: Folder with model and recording, ``None`` = the usual places.
        plain: A line a second instead of the live view.
    """

    streams: int
    frames: int
    kill: bool
    store: str
    output: Path
    assets: Path | None
    plain: bool


async def run(options: Options, console: Console) -> int:
    """Run the demo; 0 if every answer is as it should be, else 1.

    Raises:
        AssetError: Model or recording cannot be had.
        StartFailedError: The server does not start.
        StreamError: A stream cannot go on.
    """
    folders = assets.places(options.assets)
    model, recording = [
        await asyncio.to_thread(assets.fetch, asset, folders, console.print)
        for asset in (assets.MODEL, assets.SPEECH)
    ]
    speech = read_wav(recording)
    cut = [chunks(part, options.frames) for part in recordings(speech, options.streams)]
    board = Board([Track(f"stream-{i:02}", len(part)) for i, part in enumerate(cut)])
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="legato-demo-") as data:
        server = _server(options.output, model, options.store, Path(data))
        try:
            await _serve_and_stream(server, board, cut, options, console)
        finally:
            await server.stop()
    expected = await asyncio.to_thread(bare_answers, model, np.stack(cut))
    return _conclude(board, expected, speech, options, console)


def _server(output: Path, model: Path, store: str, data: Path) -> ServerProcess:
    """Write the model folder, as a user would, and name it to a server."""
    folder = output / "models" / MODEL
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, folder / "silero_vad.onnx")
    (folder / "model.yaml").write_text(MANIFEST, encoding="utf-8")
    arguments = [str(output / "models"), "--store", store]
    if store != "memory":
        arguments += ["--data", str(data)]
    return ServerProcess(arguments, output / "server.log")


async def _serve_and_stream(
    server: ServerProcess, board: Board, cut: list[Samples], options: Options, console: Console
) -> None:
    console.print(f"starting the server: legato serve {options.output / 'models'}")
    ready = await server.start()
    board.started = time.perf_counter()
    board.tell(board.started, f"server ready on {ready.address}, process {ready.pid}")
    gc.freeze()  # a collection of everything loaded so far would show up as latency
    try:
        async with asyncio.TaskGroup() as helpers:
            meter = Meter(MODEL, ready.address, board)
            helpers.create_task(meter.run())
            helpers.create_task(_show(board, options, console))
            if options.kill:
                helpers.create_task(_kill_half_way(server, ready, meter, board))
            await _stream(ready.address, board, cut)
            await meter.read()
            board.finished = time.perf_counter()
    finally:
        gc.unfreeze()


async def _stream(address: str, board: Board, cut: list[Samples]) -> None:
    async with asyncio.TaskGroup() as group:
        for track, part in zip(board.tracks, cut, strict=True):
            group.create_task(Stream(MODEL, track, part, board, address).run())
    now = time.perf_counter()
    board.tell(now, f"all {board.total:,} steps answered")


async def _kill_half_way(server: ServerProcess, ready: Ready, meter: Meter, board: Board) -> None:
    """SIGKILL in the middle of everything; `legato serve` starts a new process by itself."""
    await board.halfway.wait()
    await meter.read()
    kill(ready)
    now = time.perf_counter()
    board.killed(now)
    board.tell(now, f"kill -9 after {board.done:,} steps: process {ready.pid} is gone")
    meter.restarted()
    ready = await server.ready()
    board.tell(time.perf_counter(), f"serving again on the same port, process {ready.pid}")


async def _show(board: Board, options: Options, console: Console) -> None:
    """Keep people informed until the streams are through."""
    if options.plain or not console.is_terminal:
        say = functools.partial(console.print, highlight=False, soft_wrap=True)
        told = 0
        while not board.finished:
            await asyncio.sleep(1.0)
            for when, what in board.news[told:]:
                say(f"{when:6.1f} s  {what}")
            told = len(board.news)
            if not board.finished:
                say(view.line(board, time.perf_counter()))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not board.finished:
            await asyncio.sleep(1 / FRAMES_PER_SECOND)
            now = board.finished or time.perf_counter()
            live.update(view.screen(board, now, *console.size), refresh=True)


def _conclude(
    board: Board, expected: Samples, speech: Samples, options: Options, console: Console
) -> int:
    """Compare, print, draw."""
    samples = min(len(speech), board.tracks[0].frames * FRAME)
    whole = samples == len(speech)
    verdict = Verdict(
        found=speech_segments(board.tracks[0].answers, samples),
        published=list(PUBLISHED) if whole else speech_segments(expected[0].tolist(), samples),
        whole=whole,
        difference=float(np.abs(expected - [track.answers for track in board.tracks]).max()),
    )
    console.print(report.render(board, verdict))
    if picture.available():
        path = options.output / "timelines.png"
        picture.draw(path, board, speech, verdict.found, report.title(board, verdict))
        console.print(f"picture: {path}", highlight=False)
    else:
        console.print("no picture: matplotlib is not installed (pip install matplotlib)")
    return 0 if verdict.right else 1
