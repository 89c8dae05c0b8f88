"""The parts of the page about stores and about very many sequences, and their plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MILLION_PLOT = "benchmarks-million.png"
STORE_LIMIT = 1.3
_MIB = 2**20
_MEMORY_LIMIT = 10 * 2**30
_LABELS = {
    "alone": "active ones alone",
    "beside warm steps": "beside further steps of sequences in memory",
    "while others return": "beside as many steps of sequences that return; others are parked",
}
_STORES_HEAD = (
    "| state | store | server CPU us/step | by memory's | (middle half) | steps/s | p50 ms "
    "| p99 ms | mean batch |"
)
_LATENCY_HEAD = (
    "| windows | active: p50 ms | p99 ms | p99 of the median second | worst ms "
    "| others: p50 ms | p99 ms "
    "| client late p99 ms | server CPU us/step |"
)
_SHORT_HEAD = (
    "| sequences | MiB of memory | kill to ready s | active p99 ms (median second), same load in "
    "memory | while others return | returning p99 ms | load average |"
)
_COLOURS = {"alone": "#6b705c", "beside warm steps": "#2a6f97", "while others return": "#c8553d"}


def stores(figures: Mapping[str, Any]) -> str:
    """Return the section on what a store adds to a step."""
    lines = [_STORES_HEAD, "| --- | --- " + "| ---: " * 7 + "|"]
    for row in figures["rows"]:
        low, high = row["quartiles"]
        lines.append(
            f"| {row['state']} | {row['store']} | {row['server_us']:.1f} | **{row['ratio']:.2f}** "
            f"| {low:.2f} .. {high:.2f} | {row['steps_per_s']:,.0f} | {row['p50_ms']:.2f} "
            f"| {row['p99_ms']:.2f} | {row['mean_batch']:.1f} |"
        )
    default = [row for row in figures["rows"] if row["store"] == "log, process"]
    seen = ", ".join(
        f"{row['ratio']:.2f} at {row['state']} ({_verdict(row['quartiles'])})" for row in default
    )
    table = "\n".join(lines)
    return (
        "## What a store costs\n\n"
        "An accumulator with 1 KB and with 16 KB of state, 32 streams. A server for each store, "
        "all running at once; one at a time has load, for "
        f"{figures['window_s']:g} s. Beside each window of a store, before or behind it in turn, "
        f"is one of the memory store: {figures['rounds']} such pairs. **By memory's** is the "
        "median of the ratios within the pairs, and the middle half of them lies between the "
        "figures behind it: other work on the machine lasts longer than a pair and hits both. The "
        f"promise for the default store is at most {STORE_LIMIT:g}: {seen}. "
        f"Load average {figures['load']}{_ahead(figures)}. "
        "Repeat it with `make bench ARGS='--full --only stores'`.\n\n" + table
    )


def _verdict(quartiles: Sequence[float]) -> str:
    """Say whether the promise is kept, where the noise lets it be seen."""
    low, high = quartiles
    if high <= STORE_LIMIT:
        return "kept"
    return "**not kept**" if low > STORE_LIMIT else "too noisy to tell"


def million(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the section on very many live sequences: the largest run, and the others in short."""
    sizes = sorted(runs.values(), key=lambda run: -int(run["size"]["sequences"]))
    run = sizes[0]
    size, count = run["size"], run["size"]["sequences"]
    text = (
        f"## {count:,} live sequences\n\n"
        f"One `legato serve` process on the log store, level `process`, 1 KB of state a sequence, "
        f"`--max-resident-state {size['resident']}`: all but a few are parked. Every sequence was "
        "begun by a real step over gRPC. Then the serving process was killed (`kill -9`) and came "
        f"back by itself. After that {run['active']:,} sequences, one in a hundred, took "
        f"{size['active_rate']:,.0f} steps a second together, in windows of {size['window_s']:g} s "
        f"of three kinds that took turns ({size['rounds']} of each): alone; beside "
        f"{size['extra_rate']:,.0f} further steps a second of sequences that are in memory; beside "
        f"{size['extra_rate']:,.0f} steps a second of sequences chosen from all, which return from "
        "the disk while others are parked. The same load without parking is the second kind. Steps "
        "leave when they are due, and latency counts from then. Each answer was compared with the "
        f"sum of all that its sequence was sent, before and after the kill: of {run['steps']:,} "
        f"steps {run['failed']:,} failed and {run['wrong']:,} answers were wrong. Load average "
        f"{run['load']}; client and other work run on the same cores, and a window began when the "
        f"machine was mostly idle, or {size['patience_s']:.0f} s of waiting were used up "
        f"({run['waited_s']:.0f} s were){_ahead(size)}. Repeat it with "
        "`make bench-million`; `make bench` does it at 20,000."
    )
    parts = [text, _facts(run), _latencies(run), f"![Latency]({MILLION_PLOT})"]
    if sizes[1:]:
        parts.append(_in_short(sizes))
    return "\n\n".join(parts)


def _ahead(size: Mapping[str, Any]) -> str:
    if not size["ahead"]:
        return ""
    return "; server and generator went before other work (`--ahead`)"


def _facts(run: Mapping[str, Any]) -> str:
    size = run["size"]
    count = size["sequences"]
    memory = {
        name: run[name] / _MIB for name in ("rss_empty", "rss_full", "rss_restarted", "rss_end")
    }
    disk = {name: run[name] / _MIB for name in ("disk_full", "disk_end")}
    kept = "kept" if max(memory.values()) * _MIB < _MEMORY_LIMIT else "**not kept**"
    written = run["rush_bytes_a_step"]
    facts = {
        "all begun in": (
            f"{run['fill_s']:.0f} s, {count / run['fill_s']:,.0f} a second, "
            f"{run['fill_us']:.0f} us of server CPU each"
        ),
        "memory of the process": (
            f"{memory['rss_empty']:.0f} MiB empty, {memory['rss_full']:.0f} MiB with all of them, "
            f"{memory['rss_restarted']:.0f} MiB after the restart, {memory['rss_end']:.0f} MiB at "
            f"the end; promised is less than 10 GiB at a million: {kept}"
        ),
        "memory a sequence": f"{run['bytes_a_sequence']:.0f} bytes, the resident ones included",
        "from `kill -9` to ready": (
            f"{run['kill_to_ready_s']:.2f} s, {run['kill_to_answer_s']:.2f} s to the first answer, "
            f"{run['start_cpu_s']:.1f} s of CPU; {run['known_after_kill']:,} sequences known"
        ),
        "disk": (
            f"{disk['disk_full']:,.0f} MiB for {count * 1024 / _MIB:,.0f} MiB of state; "
            f"{disk['disk_end']:,.0f} MiB at the end of the run"
        ),
        "active ones at full speed": (
            f"{run['rush_steps_per_s']:,.0f} steps/s for {size['rush_s']:g} s, {written:,.0f} "
            f"bytes written a step: {written / 1024:.2f} times the state, compaction and "
            "checkpoints included"
        ),
    }
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _latencies(run: Mapping[str, Any]) -> str:
    lines = [_LATENCY_HEAD, "| --- " + "| ---: " * 8 + "|"]
    for kind, label in _LABELS.items():
        row = run["summary"][kind]
        other = " | "
        if "extra_p50" in row:
            other = f"{row['extra_p50']:.2f} | {row['extra_p99']:.2f}"
        lines.append(
            f"| {label} | {row['active_p50']:.2f} | {row['active_p99']:.2f} "
            f"| **{row['active_typical']:.2f}** | {row['active_max']:.1f} | {other} "
            f"| {row['late_p99']:.2f} | {row['us']:.0f} |"
        )
    lines.append("")
    lines.append(
        "Medians over the windows; the p99 of the median second is taken over all seconds of a "
        "kind, and hardly moved by bursts of other work. **Client late** is how late the load "
        "generator itself was woken: what the machine adds to every latency. A step costs more "
        "CPU at this rate than at full speed, because little is shared."
    )
    return "\n".join(lines)


def _in_short(sizes: Sequence[Mapping[str, Any]]) -> str:
    lines = [_SHORT_HEAD, "| ---: " * 6 + "| --- |"]
    for run in sizes:
        warm, cold = run["summary"]["beside warm steps"], run["summary"]["while others return"]
        lines.append(
            f"| {run['size']['sequences']:,} | {run['rss_full'] / _MIB:.0f} "
            f"| {run['kill_to_ready_s']:.2f} | {warm['active_typical']:.2f} "
            f"| {cold['active_typical']:.2f} | {cold['extra_p99']:.2f} | {run['load']} |"
        )
    return "\n".join(lines)


def draw_million(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw the active sequences' latency over the windows of the largest run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    run = max(runs.values(), key=lambda found: int(found["size"]["sequences"]))
    figure, panel = plt.subplots(figsize=(9, 3.6))
    width, shown = float(run["size"]["window_s"]), set()
    for number, window in enumerate(run["windows"]):
        kind, curve = window["kind"], window["curve"]
        label = None if kind in shown else _LABELS[kind]
        shown.add(kind)
        start = number * width
        at = [start + (part + 0.5) * width / len(curve) for part in range(len(curve))]
        panel.axvspan(start, start + width, color=_COLOURS[kind], alpha=0.08, linewidth=0)
        panel.plot(at, [point[1] for point in curve], color=_COLOURS[kind], label=label)
        panel.plot(at, [point[0] for point in curve], color=_COLOURS[kind], ls=":", lw=1)
    panel.set(xlabel="seconds", ylabel="milliseconds", yscale="log")
    panel.set_title(
        f"{run['size']['sequences']:,} live sequences: latency of the {run['active']:,} active "
        "ones, p99 (lines) and p50 (dots)",
        fontsize=10,
    )
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
