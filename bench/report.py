"""Writes what was measured: a page, plots, and JSON for the next run to compare with.

The page is made from the JSON alone. A run that measured one part replaces that part and
leaves what others have found, each with a note of how busy the machine was.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import sections
import triton_lstm
from measure import Effort, Row
from models import MODELS
from scenarios import GOALS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PAGE, PLOT, FIGURES = "benchmarks.md", "benchmarks.png", "benchmarks.json"
_STYLES = {"stream": ("o-", "#2a6f97"), "unary": ("s--", "#c8553d")}
_ABOUT = """\
Written by `make bench` (`bench/run.py`); do not edit. Lower microseconds are better. **Server CPU**
is user and system time of the whole serving process, all its threads, Envoy included, divided by
the steps answered. **Bare** is ONNX Runtime alone in a loop on one thread, at a batch of as many
rows as there are sequences: no clients, no network, no state to keep apart. **Share** is bare
divided by server: the part of the server's CPU time that the model alone would have needed."""
_OPENVINO = """\
## OpenVINO

The LSTM that OpenVINO's stateful users know, beside one request a step as OpenVINO Model Server ran
it, is measured by `make bench-openvino`: [its own page](benchmarks-openvino.md)."""
_WHERE = """\
## Where the time goes

Shares of the serving process's CPU time, taken with `perf record` while other work ran (shares
suffer less from that than times do):

| | accumulator, 32 streams | accumulator, 32 unary callers | Silero, 64 streams |
| --- | ---: | ---: | ---: |
| Python: protocol, engine, store, pyvoy's own Python | 55 % | 47 % | 35 % |
| Envoy | 11 % | 25 % | 7 % |
| kernel: sockets, waking of threads | 17 % | 10 % | 10 % |
| pyvoy's bridge between Envoy and Python | 3 % | 6 % | 2 % |
| the model (ONNX Runtime) | 3 % | 2 % | 39 % |
| protobuf, numpy, uvloop, C library | 11 % | 10 % | 7 % |

Engine and protocol alone, driven in one process without a network, take 15 us of a streamed step
in batches of 32, and 24 us in batches of 8. Silero needs 32 us a step of ONNX Runtime on this
machine, so 0.7 of the bare runtime would leave 14 us for all the rest: less than the transport
alone takes when every chunk comes as a message of its own. More sequences on one stream share
what the transport costs (the rows "stream of ...")."""
_HEAD = (
    "| transport | sequences | server CPU us/step | (range) | steps/s | p50 ms | p99 ms "
    "| mean batch | bare us/step | share |"
)
_TICKS = (1, 3, 10, 30, 100, 300, 1000)
_BARE = ("^:", "#6b705c")


def keep(folder: Path, found: Mapping[str, Any]) -> list[Path]:
    """Put figures in place of those of their parts, and make page and plots anew.

    Args:
        folder: Where all of it lies.
        found: By part: ``rows``, ``machine`` and ``effort`` of the scenarios, ``stores``,
            ``triton``, or ``million``, whose runs of other sizes stay.

    Returns:
        The paths of what was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FIGURES
    figures: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    runs = {**figures.get("million", {}), **found.get("million", {})}
    figures.update(found)
    if runs:
        figures["million"] = runs
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    rows = [Row(**row) for row in figures.get("rows", {}).values()]
    written = [path, folder / PAGE]
    written[1].write_text(page(rows, figures), encoding="utf-8")
    if rows and "rows" in found:
        draw(rows, folder / PLOT)
        written.append(folder / PLOT)
    if "million" in found:
        sections.draw_million(runs, folder / sections.MILLION_PLOT)
        written.append(folder / sections.MILLION_PLOT)
    return written


def page(rows: Sequence[Row], figures: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    parts = ["# Benchmarks", _ABOUT, *_goal_section(rows)]
    if rows:
        parts.append("![Server CPU a step](benchmarks.png)")
    for model in dict.fromkeys(row.model for row in rows):
        parts.append(f"## {model}\n\n{MODELS[model].about[0].upper()}{MODELS[model].about[1:]}.")
        parts.append(_table([row for row in rows if row.model == model]))
    if "stores" in figures:
        parts.append(sections.stores(figures["stores"]))
    if "million" in figures:
        parts.append(sections.million(figures["million"]))
    if "triton" in figures:
        parts.append(triton_lstm.section(figures["triton"]))
    parts.append(_WHERE)
    parts.append(_OPENVINO)
    if rows:
        parts.append(_how(rows, figures["machine"], Effort(**figures["effort"])))
    return "\n\n".join(parts) + "\n"


def _goal_section(rows: Sequence[Row]) -> list[str]:
    by_name = {row.name: row for row in rows}
    lines = ["| promise | limit | aim | measured | kept |", "| --- | --- | --- | --- | --- |"]
    for goal in GOALS:
        row = by_name.get(goal.scenario.name)
        if row is None:
            continue
        value = getattr(row, goal.figure)
        sign = "<=" if goal.at_most else ">="
        unit = " us" if goal.figure.endswith("_us") else ""
        aim = "" if goal.aim is None else f"{goal.aim:g}{unit}"
        kept = "yes" if goal.reached(value) else "**no**"
        limit = f"{sign} {goal.limit:g}{unit}"
        lines.append(f"| {goal.what} | {limit} | {aim} | {_short(value)}{unit} | {kept} |")
    return ["\n".join(lines)] if len(lines) > 2 else []


def _table(rows: Sequence[Row]) -> str:
    lines = [
        _HEAD,
        "| --- " + "| ---: " * 9 + "|",
    ]
    for row in sorted(rows, key=lambda row: (_transport(row), row.sequences)):
        low, high = row.server_us_range
        lines.append(
            f"| {_transport(row)} | {row.sequences} | **{_short(row.server_us)}** "
            f"| {_short(low)} .. {_short(high)} | {row.steps_per_s:,.0f} | {row.p50_ms:.2f} "
            f"| {row.p99_ms:.2f} | {row.mean_batch:.1f} | {_short(row.bare_us)} "
            f"| {row.share:.2f} |"
        )
    return "\n".join(lines)


def _transport(row: Row) -> str:
    extra = row.name.split("/")[3:]
    return ", ".join([row.transport, *extra])


def _verdict(rows: Sequence[Row]) -> str:
    """Say how many answers were good."""
    steps, failed, wrong = (
        sum(getattr(row, n) for row in rows) for n in ("steps", "failed", "wrong")
    )
    return (
        f"Of {steps + failed:,} steps {failed:,} failed; the accumulator's answers are checked "
        f"against the sums of what was sent, and {wrong:,} were wrong."
    )


def _how(rows: Sequence[Row], machine: Mapping[str, str], effort: Effort) -> str:
    facts = "\n".join(f"| {name} | {value} |" for name, value in machine.items())
    return (
        "## How it was measured\n\n"
        f"`make bench`, or `make bench ARGS=--full` for longer windows and more scenarios. "
        f"Each figure is the median of {effort.windows} windows of {effort.window_s:g} s; the bare "
        f"loop runs for {effort.bare_s:g} s after each window, so that both see the same "
        "machine. The load is closed: every sequence sends its next step when it has the answer "
        "to its last one; sequences are 16 to 24 steps long. Server, load generator and bare "
        "loop share the cores, so steps/s and latencies say as much about the generator and "
        "other work on the machine as about the server; CPU a step is what to compare. One "
        "sequence alone costs more a step, because nothing shares its model call or its "
        f"wake-ups. {_verdict(rows)}\n\n"
        "A server of one's own, or any other that speaks KServe v2 over gRPC, is measured with "
        "`legato bench HOST:PORT --model NAME --pid PID`.\n\n"
        f"| machine | |\n| --- | --- |\n{facts}"
    )


def _short(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw server CPU a step over the number of sequences, a panel a model."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(row.model for row in rows))
    figure, panels = plt.subplots(
        1, len(models), figsize=(4.2 * len(models), 3.6), squeeze=False, sharey=True
    )
    for panel, model in zip(panels[0], models, strict=True):
        mine = [row for row in rows if row.model == model and len(row.name.split("/")) == 3]
        for transport, (style, colour) in _STYLES.items():
            found = [row for row in mine if row.transport == transport]
            _curve(panel, found, "server_us", (style, colour), f"server, {transport}")
        unique = {row.sequences: row for row in mine}
        bare = [unique[count] for count in sorted(unique)]
        _curve(panel, bare, "bare_us", _BARE, "bare runtime")
        panel.set(title=model, xlabel="sequences", xscale="log", yscale="log")
        counts = sorted({row.sequences for row in mine})
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_yticks(_TICKS, [str(tick) for tick in _TICKS])
        panel.set_ylim(bottom=1)  # a bare row of a tiny model takes less, and says nothing
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("CPU microseconds a step")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _curve(panel: Any, rows: Sequence[Row], column: str, look: tuple[str, str], label: str) -> None:
    rows = sorted(rows, key=lambda row: row.sequences)
    if rows:
        style, colour = look
        values = [getattr(row, column) for row in rows]
        panel.plot([row.sequences for row in rows], values, style, color=colour, label=label)


def compared(rows: Sequence[Row], before: Mapping[str, Any]) -> list[str]:
    """Say how server CPU has changed since an earlier run's figures."""
    lines = []
    for row in rows:
        old = before.get("rows", {}).get(row.name)
        if old:
            change = row.server_us / old["server_us"] - 1
            lines.append(
                f"{row.name:32} {_short(old['server_us']):>6} -> {_short(row.server_us):>6} us "
                f"({change:+.0%})"
            )
    return lines
