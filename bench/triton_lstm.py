"""Measures what Triton's sequence users run: an LSTM of 64 units whose state the server keeps.

The model repository is written as Triton's documentation writes it (implicit state, the
``oldest`` strategy) and served by ``legato triton``. When ``LEGATO_BENCH_TRITON`` names a
``tritonserver`` command, that serves the very same folder and is measured in turns with
Legato, by the same load generator.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper

from bare import BareLoop
from legato.bench.generator import Generator
from legato.bench.load import Load
from legato.bench.target import Target
from models import Model
from server import Server, ServerFailedError, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from legato.bench.result import Result

NAME, UNITS = "lstm64", 64
SEQUENCES = (1, 8, 32, 128)
GOALS = {"stream": 53.0, "unary": 76.0}
GOAL_AT = 32
WARM_UP_S, BACK_TO_SPEED_S, BARE_S = 0.6, 0.15, 0.35
START_S = 60.0
CONFIG = f"""\
name: "{NAME}"
backend: "onnxruntime"
max_batch_size: 128
input [ {{ name: "INPUT" data_type: TYPE_FP32 dims: [ {UNITS} ] }} ]
output [ {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ {UNITS} ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
sequence_batching {{
  max_sequence_idle_microseconds: 60000000
  oldest {{ max_candidate_sequences: 1024 }}
  state [
    {{ input_name: "H_IN" output_name: "H_OUT" data_type: TYPE_FP32 dims: [ {UNITS} ]
       initial_state {{ name: "h" data_type: TYPE_FP32 dims: [ {UNITS} ] zero_data: true }} }},
    {{ input_name: "C_IN" output_name: "C_OUT" data_type: TYPE_FP32 dims: [ {UNITS} ]
       initial_state {{ name: "c" data_type: TYPE_FP32 dims: [ {UNITS} ] zero_data: true }} }}
  ]
}}
"""
ALONE = ("--allow-http=false", "--allow-metrics=false", "--store=memory")
_OURS = "Legato"


@dataclass(frozen=True)
class Row:
    """What one load on one server gave: medians of its windows, CPU in microseconds a step."""

    server: str
    transport: str
    sequences: int
    server_us: float
    low: float
    high: float
    bare_us: float
    mean_batch: float
    steps_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def build(path: Path) -> None:
    """Write the graph: one step of an LSTM, state of a row in and out."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", UNITS])

    random = np.random.default_rng(64)
    weights = {
        "W": random.uniform(-0.1, 0.1, (1, 4 * UNITS, UNITS)),
        "R": random.uniform(-0.1, 0.1, (1, 4 * UNITS, UNITS)),
    }
    known = [
        helper.make_tensor(name, TensorProto.FLOAT, array.shape, array.astype(np.float32).ravel())
        for name, array in weights.items()
    ]
    known.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    nodes = [
        *(
            helper.make_node("Unsqueeze", [name, "first"], [f"{name}_1"])
            for name in ("INPUT", "H_IN", "C_IN")
        ),
        helper.make_node(
            "LSTM",
            ["INPUT_1", "W", "R", "", "", "H_IN_1", "C_IN_1"],
            ["", "h", "c"],
            hidden_size=UNITS,
        ),
        helper.make_node("Squeeze", ["h", "first"], ["H_OUT"]),
        helper.make_node("Squeeze", ["c", "first"], ["C_OUT"]),
        helper.make_node("Identity", ["H_OUT"], ["OUTPUT"]),
    ]
    graph = helper.make_graph(
        nodes,
        NAME,
        [value(name) for name in ("INPUT", "H_IN", "C_IN")],
        [value(name) for name in ("OUTPUT", "H_OUT", "C_OUT")],
        known,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


MODEL = Model(
    "",
    "",
    lambda rows: dict.fromkeys(
        ("INPUT", "H_IN", "C_IN"),
        np.random.default_rng(7).uniform(-1, 1, (rows, UNITS)).astype(np.float32),
    ),
    "an LSTM of 64 units",
)


def install(repository: Path, idle_s: int = 60) -> Path:
    """Write the model repository; return the model's file.

    Args:
        repository: An empty folder.
        idle_s: Idle seconds after which a sequence is over.
    """
    file = repository / NAME / "1" / "model.onnx"
    file.parent.mkdir(parents=True)
    build(file)
    config = CONFIG.replace("60000000", str(idle_s * 1_000_000))
    (repository / NAME / "config.pbtxt").write_text(config, encoding="utf-8")
    return file


class LegatoServer(Server):
    """``legato triton`` on the repository; a context manager like its base."""

    def __init__(self, repository: Path, arguments: Sequence[str] = ALONE) -> None:
        super().__init__(repository, ("--store", "memory"))
        (self._port,) = free_ports(1)
        self._command = [
            sys.executable, "-m", "legato", "triton", f"--model-repository={repository}",
            f"--grpc-port={self._port}", "--grpc-address=127.0.0.1", "--announce=json",
            "--log-info=false", *arguments,
        ]  # fmt: skip

    def await_ready(self) -> None:
        """Wait as the base does; the port is the one that was asked for."""
        super().await_ready()
        self.address = f"127.0.0.1:{self._port}"


class ForeignServer:
    """A ``tritonserver`` on the repository; inside it the server is ready."""

    def __init__(self, command: str, repository: Path) -> None:
        ports = free_ports(3)
        self.address = f"127.0.0.1:{ports[1]}"
        self.pid = 0
        self._command = [
            *shlex.split(command), f"--model-repository={repository}",
            f"--http-port={ports[0]}", f"--grpc-port={ports[1]}", f"--metrics-port={ports[2]}",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            with grpc.insecure_channel(self.address) as channel:
                try:
                    grpc.channel_ready_future(channel).result(1.0)
                except grpc.FutureTimeoutError:
                    continue
            with contextlib.suppress(Exception), contextlib.closing(Target(self.address, NAME)):
                return self
            time.sleep(0.2)
        self.__exit__(None, None, None)
        raise ServerFailedError(f"{shlex.join(self._command)} was not ready after {START_S:g} s")

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def measure(
    repository: Path, windows: int, window_s: float, sequences: Sequence[int] = SEQUENCES
) -> list[Row]:
    """Measure every load on every server there is.

    Args:
        repository: An empty folder.
        windows: How many windows of each load on each server,
        window_s: each of so many seconds.
        sequences: Sequences in flight.
    """
    file = install(repository)
    rows = []
    with contextlib.ExitStack() as opened:
        servers: dict[str, Any] = {_OURS: opened.enter_context(LegatoServer(repository))}
        command = os.environ.get("LEGATO_BENCH_TRITON")
        if command:
            servers["Triton"] = opened.enter_context(ForeignServer(command, repository))
        for transport in GOALS:
            for count in sequences:
                found = _beside(servers, file, transport, count, windows, window_s)
                rows += found
                print("\n".join(_told(row) for row in found), flush=True)
    return rows


def _beside(
    servers: Mapping[str, Any],
    file: Path,
    transport: str,
    sequences: int,
    windows: int,
    window_s: float,
) -> list[Row]:
    bare = BareLoop(MODEL, file, sequences)
    with contextlib.ExitStack() as opened:
        generators = {
            name: opened.enter_context(
                _generator(server, sequences, streaming=transport == "stream")
            )
            for name, server in servers.items()
        }
        found = _turns(generators, bare, windows, window_s)
    return [_row(name, transport, sequences, *found[name]) for name in servers]


@contextlib.contextmanager
def _generator(server: Any, sequences: int, *, streaming: bool) -> Iterator[Generator]:
    with contextlib.closing(Target(server.address, NAME)) as target:
        first = 1 + (sequences * 2 + streaming) * 2**32
        load = Load(
            server.address, NAME, sequences=sequences, streaming=streaming, first_id=first
        )  # fmt: skip
        with Generator(load, target, server.pid) as generator:
            generator.go()
            generator.pause(WARM_UP_S)
            generator.hold()
            yield generator


def _turns(
    generators: dict[str, Generator], bare: BareLoop, windows: int, window_s: float
) -> dict[str, tuple[list[Result], list[float]]]:
    found: dict[str, tuple[list[Result], list[float]]] = {name: ([], []) for name in generators}
    for _ in range(windows):
        for name, generator in generators.items():
            generator.go()
            generator.pause(BACK_TO_SPEED_S)
            found[name][0].append(generator.measure(window_s))
            generator.hold()
            found[name][1].append(bare.microseconds(BARE_S))
    return found


def _row(
    server: str, transport: str, sequences: int, results: list[Result], bares: list[float]
) -> Row:
    nan = float("nan")
    cpu = [result.server_us or nan for result in results]
    median = statistics.median
    return Row(
        server,
        transport,
        sequences,
        median(cpu),
        min(cpu),
        max(cpu),
        median(bares),
        median([result.mean_batch or nan for result in results]),
        median([result.steps_per_s for result in results]),
        median([result.latency_ms["p50"] for result in results]),
        median([result.latency_ms["p99"] for result in results]),
        sum(result.failed for result in results),
    )


def _told(row: Row) -> str:
    return (
        f"{row.server:7} {row.transport:6} {row.sequences:4}  {row.server_us:6.1f} us/step "
        f"({row.low:.1f} .. {row.high:.1f})  batch {row.mean_batch:.1f}  "
        f"{row.steps_per_s:,.0f} steps/s  p99 {row.p99_ms:.2f} ms  failed {row.failed}"
    )


def section(figures: Mapping[str, Any]) -> str:
    """Return the section of the page."""
    rows = [Row(**row) for row in figures["rows"]]
    if any(row.server != _OURS for row in rows):
        beside = "Triton ran beside it, on the same folder, in turns, under the same load."
    else:
        beside = (
            "No Triton was at hand; `LEGATO_BENCH_TRITON=tritonserver make bench-triton` measures "
            "one beside Legato, on the same folder, in turns, under the same load."
        )
    about = (
        f"An LSTM of {UNITS} units in a Triton model repository (ONNX Runtime, implicit state, "
        f"`oldest`), served by `legato triton` on the memory store. {beside} Medians of "
        f"{figures['windows']} windows of {figures['window_s']:g} s; "
        f"{sum(row.failed for row in rows)} steps failed. Load average {figures['load']}. "
        "Repeat it with `make bench-triton`."
    )
    goals = "\n".join(_goal(rows, transport, limit) for transport, limit in GOALS.items())
    table = "\n".join(
        f"| {row.server} | {row.transport} | {row.sequences} | **{row.server_us:.1f}** "
        f"| {row.low:.1f} .. {row.high:.1f} | {row.bare_us:.2f} | {row.mean_batch:.1f} "
        f"| {row.steps_per_s:,.0f} | {row.p50_ms:.2f} | {row.p99_ms:.2f} |"
        for row in rows
    )
    return (
        f"## Triton's sequence users: an LSTM of {UNITS} units\n\n{about}\n\n"
        f"| promise | limit | measured | kept |\n| --- | --- | --- | --- |\n{goals}\n\n"
        "| server | transport | sequences | server CPU us/step | (range) | bare us/step "
        "| mean batch | steps/s | p50 ms | p99 ms |\n"
        f"| --- | --- {'| ---: ' * 8}|\n{table}"
    )


def _goal(rows: list[Row], transport: str, limit: float) -> str:
    (row,) = (
        row
        for row in rows
        if (row.server, row.transport, row.sequences) == (_OURS, transport, GOAL_AT)
    )
    kept = "yes" if row.server_us < limit else "**no**"
    what = "streamed step" if transport == "stream" else "unary call"
    return (
        f"| server CPU a {what}, {GOAL_AT} sequences | < {limit:g} us "
        f"| {row.server_us:.1f} us | {kept} |"
    )
