"""Measures the LSTM of OpenVINO's stateful users; writes docs/benchmarks-openvino.md.

Legato over gRPC streams, everything included, beside a loop that does what OpenVINO Model
Server does for each request: set every variable, infer one row, read every variable back.
The loop has no network and no clients, so it is the upper bound of such a server. Both
run in turns; figures are medians of short windows, in CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SEQUENCES = (1, 8, 32, 128)
MODEL, INPUT, WIDTH = "lstm", "x", 40
PROMISED_AT, PROMISED = 32, 5.0
WARM_UP_S, BACK_TO_SPEED_S = 0.8, 0.2
MEMORY = ("--store", "memory")
LOG = ("--store", "log", "--durability", "process")
GATHER_MS = 3
PRECISIONS = ("f32", "bf16")


@dataclass(frozen=True)
class Variant:
    """How a server is started, and at how many sequences it is measured."""

    precision: str
    label: str
    arguments: tuple[str, ...] = MEMORY
    delay_ms: float = 0.0
    sequences: tuple[int, ...] = SEQUENCES


VARIANTS = (
    Variant("f32", "memory"),
    Variant("f32", f"memory, waits {GATHER_MS} ms", delay_ms=GATHER_MS, sequences=(32, 128)),
    Variant("f32", "log", LOG, sequences=(32,)),
    Variant("bf16", "memory"),
)


@dataclass(frozen=True)
class Row:
    """What a load gave, medians of its windows.

    Attributes:
        precision, label, sequences: What was measured.
        server, loop, bare: Steps a CPU second of the whole server, of the loop that runs
            one request a step, and of the batched model alone.
        mean_batch, p99_ms, steps_per_s: As the load saw the server.
    """

    precision: str
    label: str
    sequences: int
    server: float
    loop: float
    bare: float
    mean_batch: float
    p99_ms: float
    steps_per_s: float

    @property
    def factor(self) -> float:
        """How many times the loop's steps a CPU second the server reaches."""
        return self.server / self.loop


class OneByOne:
    """One infer request for all sequences; their variables are set and read every step."""

    def __init__(self, path: Path, sequences: int, precision: str) -> None:
        import numpy as np
        import openvino as ov

        properties = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = ov.Core().compile_model(str(path), "CPU", properties)
        self._request = compiled.create_infer_request()
        self._array, self._tensor = np.array, ov.Tensor
        self._x = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)
        self._kept: list[dict[str, Any]] = [
            {state.name: np.array(state.state.data) for state in self._request.query_state()}
            for _ in range(sequences)
        ]

    def run(self) -> int:
        """Step every sequence once; return how many there are."""
        for kept in self._kept:
            self._step(kept)
        return len(self._kept)

    def _step(self, kept: dict[str, Any]) -> None:
        states = self._request.query_state()
        for state in states:
            state.state = self._tensor(kept[state.name])
        found = self._request.infer({0: self._x}, share_inputs=True, share_outputs=True)
        self._array(found[0])
        for state in states:
            kept[state.name] = self._array(state.state.data)


class Together:
    """The model alone with all rows in one call: what no front end can exceed."""

    def __init__(self, path: Path, sequences: int, precision: str) -> None:
        import numpy as np

        from legato.repository.config import ModelConfig
        from legato.runtimes.openvino import load
        from legato.runtimes.rehearsal import Rehearsal

        options = {"plugin_config": {"INFERENCE_PRECISION_HINT": precision}}
        config = ModelConfig(name=MODEL, runtime="openvino", file=path, options=options, gate=False)
        self._runtime = load(config)
        rehearsal = Rehearsal(self._runtime, np.random.default_rng(0))
        row, state = rehearsal.row(), rehearsal.first_state()
        self._batch, _ = rehearsal.batch([row] * sequences, [state] * sequences, 2)
        self._rows = sequences

    def run(self) -> int:
        """Step every sequence once; return how many there are."""
        self._runtime.step(self._batch)
        return self._rows


def steps_per_cpu_second(subject: OneByOne | Together, seconds: float) -> float:
    """Run a subject for a while."""
    subject.run()
    steps = 0
    until = time.perf_counter() + seconds
    began = time.process_time()
    while time.perf_counter() < until:
        steps += subject.run()
    return steps / (time.process_time() - began)


def measure(
    server: Any, path: Path, variant: Variant, sequences: int, effort: tuple[int, float]
) -> Row:
    """Measure one number of sequences on a server that runs."""
    from legato.bench.generator import Generator
    from legato.bench.load import Load
    from legato.bench.target import Target

    windows, window_s = effort
    loop = OneByOne(path, sequences, variant.precision)
    together = Together(path, sequences, variant.precision)
    target = Target(server.address, MODEL)
    load = Load(server.address, MODEL, sequences=sequences, first_id=1 + sequences * 2**32)
    results, loops, bares = [], [], []
    try:
        with Generator(load, target, server.pid) as generator:
            generator.go()
            generator.pause(WARM_UP_S)
            for _ in range(windows):
                results.append(generator.measure(window_s))
                generator.hold()
                loops.append(steps_per_cpu_second(loop, window_s / 2))
                bares.append(steps_per_cpu_second(together, window_s / 2))
                generator.go()
                generator.pause(BACK_TO_SPEED_S)
    finally:
        target.close()
    if any(result.failed for result in results):
        raise SystemExit(f"{sequences} sequences: steps failed")
    return Row(
        precision=variant.precision,
        label=variant.label,
        sequences=sequences,
        server=1e6 / statistics.median(r.server_us or float("nan") for r in results),
        loop=statistics.median(loops),
        bare=statistics.median(bares),
        mean_batch=statistics.median(r.mean_batch or 0.0 for r in results),
        p99_ms=statistics.median(r.latency_ms.get("p99", float("nan")) for r in results),
        steps_per_s=statistics.median(r.steps_per_s for r in results),
    )


def run(effort: tuple[int, float]) -> list[Row]:
    """Measure every variant, a server each."""
    from tests.models import openvino_models

    from server import Server

    rows = []
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory(prefix="legato-bench-openvino-") as name:
            folder = Path(name) / MODEL
            folder.mkdir()
            path = openvino_models.save(openvino_models.lstm(), folder)
            (folder / "model.yaml").write_text(
                f"max_queue_delay_ms: {variant.delay_ms}\n"
                f"options: {{plugin_config: {{INFERENCE_PRECISION_HINT: {variant.precision}}}}}\n"
            )
            with Server(folder, variant.arguments) as server:
                for sequences in variant.sequences:
                    rows.append(measure(server, path, variant, sequences, effort))
                    print(_line(rows[-1]), flush=True)
    return rows


def _line(row: Row) -> str:
    return (
        f"{row.precision:5} {row.label:18} {row.sequences:4} sequences: {row.server:8,.0f} against "
        f"{row.loop:6,.0f} steps a CPU second, {row.factor:5.1f} times (model alone "
        f"{row.bare / row.loop:4.1f}), mean batch {row.mean_batch:5.1f}"
    )


_HEAD = """\
# OpenVINO: sequences together against one request a step

Written by `make bench-openvino`; do not edit. The model is a two-layer LSTM
(512 hidden, 40 in, 100 out, 13 MB) whose state OpenVINO keeps. All figures are **steps a CPU
second**. **Legato** is the whole serving process under gRPC streams, Envoy and store included,
one stream and one unanswered step a sequence. **One by one** is a bare loop over the same file:
set every variable, infer one row, copy the output, read every variable. It has no network, so
it is what OpenVINO Model Server could reach at best. **Model alone** runs all rows in one call,
without clients, network or state to keep apart: what no server can exceed.
"""
_TABLE = """\
| precision | store | sequences | Legato | one by one | factor | model alone | mean batch \
| steps/s | p99 ms |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def page(rows: Sequence[Row], machine: Mapping[str, str], effort: tuple[int, float]) -> str:
    """Return the page as Markdown."""
    told = next(r for r in rows if r.precision == "f32" and r.sequences == PROMISED_AT)
    kept = "kept" if told.factor >= PROMISED else "**not kept**"
    limit = told.bare / told.loop
    # Microseconds that a step may cost, and what is left of them beside the model.
    may, model = 1e6 / (PROMISED * told.loop), 1e6 / told.bare
    promise = (
        f"Promised: {PROMISED:g} times at {PROMISED_AT} sequences in f32; measured "
        f"{told.factor:.1f} ({kept}). The model alone gains {limit:.1f} times on this machine: "
        f"{PROMISED:g} times leaves {may:.0f} us a step, of which the model takes {model:.0f}.\n"
    )
    table = _TABLE + "".join(
        f"| {r.precision} | {r.label} | {r.sequences} | {r.server:,.0f} | {r.loop:,.0f} "
        f"| **{r.factor:.1f}** | {r.bare:,.0f} | {r.mean_batch:.1f} | {r.steps_per_s:,.0f} "
        f"| {r.p99_ms:.1f} |\n"
        for r in rows
    )
    windows, window_s = effort
    how = (
        f"Medians of {windows} windows of {window_s:g} s, all three in turns. The load generator "
        "and other work share the cores: CPU seconds are what to compare, and a generator that "
        "gets little CPU sends few steps at once, which makes batches small. `waits 3 ms` is "
        "`max_queue_delay_ms: 3`. One sequence alone gains nothing from batching and pays for "
        "the front end.\n"
    )
    facts = "| machine | |\n| --- | --- |\n" + "".join(
        f"| {name} | {value} |\n" for name, value in machine.items()
    )
    return f"{_HEAD}\n{promise}\n{table}\n{how}\n{facts}"


def main() -> int:
    """Measure and write."""
    import machine

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--full", action="store_true", help="longer windows")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    effort = (7, 2.0) if options.full else (3, 1.2)
    facts = machine.describe()
    began = machine.load_average()
    rows = run(effort)
    facts["load average"] = f"{began:.1f} before, {machine.load_average():.1f} after"
    options.output.mkdir(parents=True, exist_ok=True)
    written = options.output / "benchmarks-openvino.md"
    written.write_text(page(rows, facts, effort), encoding="utf-8")
    print(f"written: {written.relative_to(ROOT) if written.is_relative_to(ROOT) else written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
