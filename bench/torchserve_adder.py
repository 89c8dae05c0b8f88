"""Measures TorchServe's trivial adder: steps/s and CPU per step over gRPC and REST.

A handler as in TorchServe's stateful example (an LRU of running sums), packed by
torch-model-archiver, is driven by lock-step clients: 1, 8 and 64 sequences, each sending its
next step when it has the answer to the last. Where ``LEGATO_BENCH_TORCHSERVE`` names a
``torchserve`` command, that runs beside Legato in the same session, on the same archive.
CPU is that of the server's whole process tree.

    make bench-torchserve    # python bench/torchserve_adder.py --output PAGE
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

SEQUENCES = (1, 8, 64)
WIRES = ("gRPC", "REST")
WARM_UP_S = 1.0
START_S = 120.0
LAST_ANSWERS_S = 30.0
PROMISED = 50 * 9.0
"""Steps a second of one lone client: fifty times TorchServe's nine."""
SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/StreamPredictions2"
_TICKS = os.sysconf("SC_CLK_TCK")

HANDLER = """
from lru import LRU

from ts.torch_handler.base_handler import BaseHandler


class Adder(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.sums = LRU(1000)
        self.initialized = True

    def handle(self, data, context):
        answers = []
        for index, row in enumerate(data):
            name = context.get_sequence_id(index)
            value = int(bytes(row.get("data") or row.get("body")).decode())
            self.sums[name] = self.sums.get(name, 0) + value
            answers.append(self.sums[name])
        return answers
"""
CONFIG = """
minWorkers: 1
maxWorkers: 1
batchSize: 64
sequenceBatching: true
sequenceMaxIdleMSec: 600000
maxNumSequence: 1000
maxSequenceJobQueueSize: 10
"""


@dataclass(frozen=True)
class Row:
    """What one load gave: medians of its windows."""

    server: str
    wire: str
    sequences: int
    steps_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


def pack(folder: Path) -> Path:
    """Make the archive; return the model store."""
    store = folder / "store"
    store.mkdir()
    (folder / "adder.py").write_text(HANDLER)
    (folder / "model-config.yaml").write_text(CONFIG)
    subprocess.run(
        [
            str(Path(sys.executable).with_name("torch-model-archiver")),
            *("--model-name", "adder", "--version", "1.0", "--handler", str(folder / "adder.py")),
            *("--config-file", str(folder / "model-config.yaml"), "--export-path", str(store)),
        ],
        check=True,
        capture_output=True,
    )
    return store


class Server:
    """One server, Legato's or TorchServe's; inside the context it is ready.

    Attributes:
        name: For the table.
        inference, grpc: Ports.
        pid: Root of its process tree.
    """

    def __init__(self, name: str, command: list[str], store: Path) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="legato-bench-ts-")
        from server import free_ports

        self.inference, management, metrics, self.grpc, grpc_management = free_ports(5)
        properties = Path(self._folder.name) / "config.properties"
        properties.write_text(
            f"inference_address=http://127.0.0.1:{self.inference}\n"
            f"management_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\n"
            f"grpc_inference_port={self.grpc}\ngrpc_management_port={grpc_management}\n"
        )
        self._command = [
            *command, "--start", "--foreground", "--ncs", "--disable-token-auth",
            "--model-store", str(store), "--models", "adder.mar", "--ts-config", str(properties),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def __enter__(self) -> Self:
        folder = self._folder.name
        log = (Path(folder) / "log").open("wb")
        with log:
            self._process = subprocess.Popen(
                self._command,
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={
                    **os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": folder,
                    "XDG_DATA_HOME": str(Path(folder) / "data"),
                },
            )  # fmt: skip
        self.pid = self._process.pid
        until = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                said = (Path(folder) / "log").read_text(errors="replace")
                self.__exit__()
                raise SystemExit(f"{self.name} does not start:\n{said[-3000:]}")
            time.sleep(0.2)
        return self

    def _answers(self) -> bool:
        url = f"http://127.0.0.1:{self.inference}/predictions/adder"
        request = urllib.request.Request(url, b"1", {"content-type": "x/y"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - our own
                return answer.status == 200
        except OSError:
            return False

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._folder.cleanup()

    def cpu_s(self) -> float:
        """CPU seconds of all processes of the tree that live."""
        return sum(cpu for _pid, cpu in tree(self.pid))


def tree(root: int) -> Iterator[tuple[int, float]]:
    """Yield pid and CPU seconds of a process and all below it."""
    found: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(path.parent.name)] = (int(text[1]), (int(text[11]) + int(text[12])) / _TICKS)
    wanted = {root}
    while True:
        more = {pid for pid, (parent, _cpu) in found.items() if parent in wanted} - wanted
        if not more:
            break
        wanted |= more
    for pid in wanted & found.keys():
        yield pid, found[pid][1]


# -- loads --------------------------------------------------------------------------------


class Load:
    """Lock-step clients; counts steps and how long each took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.over = False

    async def run(self, step: Callable[[], Awaitable[int]]) -> None:
        """Send steps until it is over, and check each sum."""
        total = 0
        while not self.over:
            began = time.perf_counter()
            found = await step()
            self.seconds.append(time.perf_counter() - began)
            total += 1
            if found != total:
                raise SystemExit(f"a wrong answer: {found} is not {total}")


async def grpc_clients(load: Load, server: Server, names: list[str]) -> None:
    """One stream a sequence, all over one connection."""
    import grpc

    from legato.protocols.torchserve.gen import inference_pb2 as pb

    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc}") as channel:
        method = channel.stream_stream(SERVICE)

        async def client(name: str) -> None:
            call = method()
            request = pb.PredictionsRequest(model_name="adder", input={"data": b"1"})
            request.sequence_id = name
            data = request.SerializeToString()

            async def step() -> int:
                await call.write(data)
                answer = pb.PredictionResponse.FromString(await call.read())
                if answer.HasField("status"):
                    raise SystemExit(f"refused: {answer.status.message}")
                return int(answer.prediction)

            await load.run(step)
            await call.done_writing()

        await asyncio.gather(*map(client, names))


async def rest_clients(load: Load, server: Server, names: list[str]) -> None:
    """One connection a sequence, kept alive."""

    async def client(name: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.inference)
        data = (
            f"POST /predictions/adder HTTP/1.1\r\nHost: x\r\ncontent-type: x/y\r\n"
            f"ts_request_sequence_id: {name}\r\ncontent-length: 1\r\n\r\n1"
        ).encode()

        async def step() -> int:
            writer.write(data)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(size)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise SystemExit(f"refused: {body.decode()}")
            return int(body)

        await load.run(step)
        writer.close()

    await asyncio.gather(*map(client, names))


async def measure(server: Server, wire: str, sequences: int, windows: int, seconds: float) -> Row:
    """Run one load and take its windows."""
    load = Load()
    names = [f"{wire}-{sequences}-{at}" for at in range(sequences)]
    clients = grpc_clients if wire == "gRPC" else rest_clients
    running = asyncio.ensure_future(clients(load, server, names))
    await asyncio.wait({running}, timeout=WARM_UP_S)
    rates, costs, waits = [], [], []
    for _ in range(windows):
        load.seconds.clear()
        cpu, began = server.cpu_s(), time.perf_counter()
        await asyncio.wait({running}, timeout=seconds)
        passed = time.perf_counter() - began
        steps = len(load.seconds)
        rates.append(steps / passed)
        costs.append((server.cpu_s() - cpu) / max(1, steps) * 1e6)
        waits += load.seconds
        if running.done():
            break
    load.over = True
    await asyncio.wait({running}, timeout=LAST_ANSWERS_S)
    if running.done():
        running.result()
    else:  # a client waits for an answer that does not come
        running.cancel()
    if not waits:
        raise SystemExit(f"{server.name} answered nothing to {sequences} clients of {wire}")
    waits.sort()
    return Row(
        server.name, wire, sequences, statistics.median(rates), statistics.median(costs),
        waits[len(waits) // 2] * 1e3, waits[len(waits) * 99 // 100] * 1e3,
    )  # fmt: skip


# -- the report ---------------------------------------------------------------------------


def page(rows: list[Row], facts: dict[str, str]) -> str:
    """Return the page."""
    lines = [
        "# TorchServe's adder",
        "",
        "Written by `bench/torchserve_adder.py`, which says what is measured.",
        "",
        "| server | wire | sequences | steps/s | CPU us a step | p50 ms | p99 ms |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r.server} | {r.wire} | {r.sequences} | {r.steps_per_s:,.0f} | {r.cpu_us:,.0f} "
        f"| {r.p50_ms:.2f} | {r.p99_ms:.2f} |"
        for r in rows
    ]
    lone = min(r.steps_per_s for r in rows if r.server == "Legato" and r.sequences == 1)
    if all(r.server == "Legato" for r in rows):
        lines += ["", "TorchServe was not at hand (`LEGATO_BENCH_TORCHSERVE`) and was not run."]
    lines += [
        "",
        f"A lone client gets {lone / 9:.0f} times the nine steps a second that TorchServe gives",
        f"at default settings; at least {PROMISED / 9:.0f} times was promised.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    return "\n".join(lines)


def told(command: list[str]) -> str:
    """Return what a command says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip().rpartition(" ")[2] or "unknown"


def servers(store: Path) -> Iterator[Server]:
    """Yield Legato, and TorchServe where it is known."""
    yield Server("Legato", [sys.executable, "-m", "legato", "torchserve"], store)
    other = os.environ.get("LEGATO_BENCH_TORCHSERVE")
    if other:
        yield Server("TorchServe", shlex.split(other), store)


def main() -> int:
    """Measure, print, write; 1 if the promise is broken."""
    import machine

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of one window")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--output", type=Path, help="page to write")
    options = parser.parse_args()
    rows: list[Row] = []
    facts = machine.describe()
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as name:
        store = pack(Path(name))
        for wire, sequences in itertools.product(WIRES, SEQUENCES):
            # Each load has servers of its own: TorchServe starves where sequences of others live.
            for server in servers(store):
                with server:
                    row = asyncio.run(
                        measure(server, wire, sequences, options.windows, options.seconds)
                    )
                rows.append(row)
                print(
                    f"{row.server:10} {row.wire} {row.sequences:3} "
                    f"{row.steps_per_s:9,.0f} steps/s {row.cpu_us:8,.0f} us/step "
                    f"p50 {row.p50_ms:7.2f} ms  p99 {row.p99_ms:7.2f} ms",
                    flush=True,
                )
    rows.sort(key=lambda row: row.server)
    other = os.environ.get("LEGATO_BENCH_TORCHSERVE")
    if other:
        facts["TorchServe"] = told([*shlex.split(other), "--version"])
    facts["load average"] = f"{machine.load_average():.1f} at the end"
    if options.output is not None:
        options.output.write_text(page(rows, facts))
    lone = [r for r in rows if r.server == "Legato" and r.sequences == 1]
    return 0 if all(r.steps_per_s >= PROMISED for r in lone) else 1


if __name__ == "__main__":
    sys.exit(main())
