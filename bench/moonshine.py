"""Measures what a token of Moonshine's decoder costs, and what a growing cache costs.

First the whole way: sequences move on together, a token a step, over one gRPC stream,
for states in memory and in the log. Beside it, in the same run, a loop over bare ONNX
Runtime with a batch of as many rows, on one thread like the server: it hands the model's
own output back to it and neither serves, keeps apart nor stores anything. CPU is user and
system time: of the server's whole process, or of the loop. Then, without the model, what
gathering, splitting and committing a cache of 26 KB an entry costs at several lengths.

    make bench-moonshine    # python bench/moonshine.py --output PAGE
"""

from __future__ import annotations

import argparse
import importlib.util
import queue
import statistics
import sys
import tempfile
import time
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnxruntime as ort

from legato.bench.cpu import seconds
from legato.core.types import (
    Receipt,
    SequenceKey,
    Signature,
    StateRow,
    StateSpec,
    TensorSpec,
    UpdateRule,
)
from legato.engine.batch import Batcher, BatchRow
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.runtimes.base import RowInfo, StepBatch, StepResult
from legato.stores.base import Commit, Store
from legato.stores.log import LogStore
from legato.stores.memory import MemoryStore
from machine import describe, load_average
from server import Server

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / ".cache" / "assets"
EXAMPLE = ROOT / "examples" / "06_moonshine"
CLIP = ASSETS / "librivox" / "sense_and_sensibility_01_austen_64kb-0870.wav"
BEGIN, END = 1, 2
SEQUENCES = (1, 5, 20)
LENGTHS = (10, 100, 1000)
LAYERS, HEADS, WIDTH = 8, 8, 52
ENTRY_BYTES = LAYERS * 2 * HEADS * WIDTH * 4
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """What a token cost one way: mean CPU over the tokens of a clip, median time of a step."""

    where: str
    sequences: int
    cpu_ms: float
    wall_ms: float


@dataclass(frozen=True)
class Cost:
    """What a step cost at a length, without the model."""

    store: str
    rows: int
    length: int
    batch_us: float
    commit_us: float
    written_bytes: float


# -- the whole way -----------------------------------------------------------------------


def encode() -> dict[str, Array]:
    """Have a clip encoded, once for all."""
    session = ort.InferenceSession(ASSETS / "moonshine" / "encoder.onnx")
    with wave.open(str(CLIP)) as clip:
        frames = clip.readframes(clip.getnframes())
    audio = np.frombuffer(frames, "<i2").astype(np.float32)[np.newaxis] / 32768
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input_values": audio}), strict=True))


def bare(audio: dict[str, Array], rows: int) -> tuple[Row, int]:
    """Loop over the model alone; also gives how many tokens the clip has."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(ASSETS / "moonshine" / "decoder.onnx", options)
    names = [output.name for output in session.get_outputs()]
    grown = [name.replace("present", "past_key_values") for name in names[1:]]
    feed = {name: np.repeat(value, rows, 0) for name, value in audio.items()}
    feed |= {name: np.zeros((rows, HEADS, 0, WIDTH), np.float32) for name in grown}
    tokens = np.full((rows, 1), BEGIN)
    cpu, wall = [], []
    while tokens[0, 0] != END:
        began, spent = time.perf_counter(), time.process_time()
        tokens, *present = session.run(names, feed | {"input_ids": tokens})
        feed |= dict(zip(grown, present, strict=True))
        cpu.append((time.process_time() - spent) * 1e3 / rows)
        wall.append((time.perf_counter() - began) * 1e3)
    return Row("bare ONNX Runtime", rows, statistics.mean(cpu), statistics.median(wall)), len(cpu)


class Stream:
    """Sequences that move on together over one stream."""

    def __init__(self, server: Server) -> None:
        self._channel = grpc.insecure_channel(server.address, options=UNLIMITED)
        self._requests: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self._replies = self._channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )(iter(self._requests.get, None))

    def step(self, tokens: dict[int, int], once: dict[str, Array]) -> dict[int, int]:
        """Send a token of each sequence and wait for the next ones."""
        for sequence, token in tokens.items():
            request = pb.ModelInferRequest(model_name="moonshine", id=str(sequence))
            request.parameters["sequence_id"].int64_param = sequence
            request.parameters["sequence_start"].bool_param = token == BEGIN
            request.parameters["sequence_end"].bool_param = token == END
            request.inputs.add(name="input_ids", datatype="INT64", shape=[1, 1])
            request.raw_input_contents.append(np.int64(token).tobytes())
            for name, value in once.items():
                request.inputs.add(name=name, datatype="FP32", shape=value.shape)
                request.raw_input_contents.append(value.tobytes())
            self._requests.put(request)
        given = {}
        for _ in tokens:
            reply = next(self._replies)
            if reply.error_message:
                raise RuntimeError(reply.error_message)
            (data,) = reply.infer_response.raw_output_contents
            given[int(reply.infer_response.id)] = int(np.frombuffer(data, np.int64)[0])
        return given

    def close(self) -> None:
        """Hang up."""
        self._requests.put(None)
        self._channel.close()


def served(store: str, audio: dict[str, Array], sequences: int, expected: int) -> Row:
    """Measure the server's process while sequences move on together."""
    with Server(EXAMPLE, ["--store", store]) as server:
        stream = Stream(server)
        for _ in range(2):  # the first time warms up
            tokens = stream.step(dict.fromkeys(range(1, sequences + 1), BEGIN), audio)
            wall: list[float] = []
            spent = seconds([server.pid])
            while tokens[1] != END:
                began = time.perf_counter()
                tokens = stream.step(tokens, {})
                wall.append((time.perf_counter() - began) * 1e3)
            spent = seconds([server.pid]) - spent
            stream.step(tokens, {})
        stream.close()
    if len(wall) + 1 != expected:
        raise RuntimeError(f"{len(wall) + 1} tokens over the server, {expected} without it")
    cpu_ms = spent * 1e3 / len(wall) / sequences
    return Row(f"Legato, {store}", sequences, cpu_ms, statistics.median(wall))


# -- the cache alone ---------------------------------------------------------------------


class Cache:
    """A model that does nothing but put a prepared entry behind its past."""

    def __init__(self, rows: int, longest: int) -> None:
        states = tuple(
            StateSpec(f"s{n}", f"s{n}", f"p{n}", "float32", (1, HEADS, -1, WIDTH),
                      rule=UpdateRule.APPEND, axis=2)
            for n in range(2 * LAYERS)
        )  # fmt: skip
        self.signature = Signature(
            (TensorSpec("x", "int64", (1, 1)),), (TensorSpec("y", "int64", (1, 1)),), states
        )
        rng = np.random.default_rng(0)
        self._all = rng.standard_normal((rows, HEADS, longest, WIDTH)).astype(np.float32)
        self.spent_s = 0.0

    def first(self, row: int, length: int) -> StateRow:
        """A state that has this many entries."""
        data = np.ascontiguousarray(self._all[row : row + 1, :, :length]).tobytes()
        return StateRow((data,) * 2 * LAYERS, ((1, HEADS, length, WIDTH),) * 2 * LAYERS)

    def step(self, batch: StepBatch) -> StepResult:
        """Give the caches with one entry more; the time it takes is not the server's."""
        began = time.process_time()
        rows, length = len(batch.rows), batch.state["s0"].shape[2]
        value = np.ascontiguousarray(self._all[:rows, :, : length + 1])
        outputs = {"y": np.zeros((rows, 1), np.int64)}
        result = StepResult(outputs, dict.fromkeys(batch.state, value), lasting=True)
        self.spent_s += time.process_time() - began
        return result


def cost(name: str, rows: int, length: int, steps: int) -> Cost:
    """Measure steps of a cache of this length."""
    with tempfile.TemporaryDirectory(prefix="legato-bench-") as folder:
        log = LogStore(Path(folder), clock=time.time) if name == "log" else None
        store: Store = log or MemoryStore(clock=time.time)
        model = Cache(rows, length + 2 * steps)
        batcher = Batcher(model.signature)
        states = [model.first(row, length) for row in range(rows)]
        commit(store, states, 1)
        inputs = {"x": np.zeros((1, 1), np.int64)}
        run_s = commit_s = 0.0
        written = 0
        for step in range(2, 2 + 2 * steps):
            if step == 2 + steps:  # the first half warms up
                run_s = commit_s = model.spent_s = 0.0
                written = bytes_of(folder)
            began = time.process_time()
            infos = [RowInfo(row + 1, step, start=False, end=False, parameters={})
                     for row in range(rows)]  # fmt: skip
            batch = [
                BatchRow(inputs, state, info) for state, info in zip(states, infos, strict=True)
            ]
            states = [result.state for result in batcher.run(model, batch).rows]  # type: ignore[union-attr,arg-type]
            ran = time.process_time()
            commit(store, states, step)
            commit_s += time.process_time() - ran
            run_s += ran - began
        each = steps * rows
        found = Cost(
            name, rows, length, (run_s - model.spent_s) / each * 1e6, commit_s / each * 1e6,
            (bytes_of(folder) - written) / each,
        )  # fmt: skip
        store.close()
    return found


def bytes_of(folder: str) -> int:
    """Bytes of a log."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.seg"))


def commit(store: Store, states: list[StateRow], step: int) -> None:
    """Commit a step of as many sequences."""
    store.commit([
        Commit(
            SequenceKey("m", row + 1), bytes([row]) * 16, 1, step,
            (Receipt(step, b"", b"", b"token"),), state, step == 1, b"", None, "1", "d",
            "native", 0.0, "",
        )
        for row, state in enumerate(states)
    ])  # fmt: skip


# -- the page ----------------------------------------------------------------------------


def page(rows: list[Row], costs: list[Cost], tokens: int, facts: dict[str, str]) -> str:
    """Return the page as Markdown."""
    bare_ms = {row.sequences: row.cpu_ms for row in rows if row.where.startswith("bare")}
    lines = [
        "# Moonshine",
        "",
        "Written by `make bench-moonshine` (`bench/moonshine.py`, which says what is measured).",
        "",
        f"A clip of {tokens} tokens, decoded by several sequences at once, a token a step.",
        "",
        "| where | sequences | CPU ms a token | to bare | ms a step of all |",
        "| --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row.where} | {row.sequences} | {row.cpu_ms:.2f} "
            f"| {row.cpu_ms / bare_ms[row.sequences]:.2f} | {row.wall_ms:.1f} |"
            for row in rows
        ),
        "",
        f"A cache alone, without model and network: a step adds {ENTRY_BYTES:,} bytes.",
        "",
        "| store | rows a call | entries | CPU us a step: batch | commit | bytes written |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {one.store} | {one.rows} | {one.length:,} | {one.batch_us:.0f} "
            f"| {one.commit_us:.0f} | {one.written_bytes:,.0f} |"
            for one in costs
        ),
        "",
        *(f"- {name}: {fact}" for name, fact in facts.items()),
        f"- load average: {load_average():.1f} at the end",
    ]
    return "\n".join(lines) + "\n"


def exporter() -> ModuleType:
    """Load the tool that makes the models."""
    path = ROOT / "tools" / "export_moonshine.py"
    spec = importlib.util.spec_from_file_location("export_moonshine", path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> int:
    """Measure, and print or write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--output", type=Path, help="write the page here")
    parser.add_argument("--quick", action="store_true", help="fewer sequences and lengths")
    options = parser.parse_args()
    exporter().export()
    audio = encode()
    rows, tokens = [], 0
    for sequences in SEQUENCES[:2] if options.quick else SEQUENCES:
        row, tokens = bare(audio, sequences)
        rows.append(row)
        rows += [served(store, audio, sequences, tokens) for store in ("memory", "log")]
        for one in rows[-3:]:
            print(one, flush=True)
    costs = [
        cost(store, count, length, 20 if count * length > 1000 else 40)
        for count in (1, 8)
        for length in (LENGTHS[:2] if options.quick else LENGTHS)
        for store in ("memory", "log")
    ]
    text = page(rows, costs, tokens, describe())
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
