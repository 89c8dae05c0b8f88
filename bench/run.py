"""Measures Legato and writes docs/benchmarks.md; ``make bench`` runs this.

Quick by default (about five minutes); ``--full`` takes longer windows and more
scenarios. ``--only accumulator/stream`` picks scenarios by name; ``stores`` (what each
store costs), ``million`` (very many sequences, at a small size) and ``triton`` (an LSTM
from a Triton model repository) are names, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

if TYPE_CHECKING:
    from measure import Effort, Row
    from scenarios import Scenario


PARTS = ("stores", "million", "triton")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="about three minutes (the default)")
    effort.add_argument("--full", action="store_true", help="longer windows, more scenarios")
    parser.add_argument("--only", default="", metavar="REGEX", help="scenarios by name")
    parser.add_argument(
        "--ahead", action="store_true", help="in 'stores', go before other work; takes root"
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs", help="folder for page, plot and figures"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="JSON", help="show the change since these figures"
    )
    return parser.parse_args()


def main() -> int:
    """Measure, write, say where; 1 if the server failed a step or gave a wrong answer."""
    import machine
    import measure
    import report
    import scenarios

    options = arguments()
    listed = scenarios.FULL if options.full else scenarios.QUICK
    chosen = [scenario for scenario in listed if re.search(options.only, scenario.name)]
    parts = [part for part in PARTS if re.search(options.only, part)]
    if options.list or not (chosen or parts):
        print("\n".join([*(scenario.name for scenario in listed), *PARTS]))
        return 0 if chosen or parts else 2
    before = json.loads(options.compare.read_text()) if options.compare else {}
    effort = measure.FULL if options.full else measure.QUICK
    facts = machine.describe()
    began = machine.load_average()
    rows = run(chosen, effort)
    found: dict[str, Any] = {}
    if rows:
        facts["load average"] = f"{began:.1f} before, {machine.load_average():.1f} after"
        if began > machine.QUIET:
            facts["note"] = "other work was running: every figure is higher than on a quiet machine"
        found = {
            "machine": facts,
            "effort": asdict(effort),
            "rows": {row.name: asdict(row) for row in rows},
        }
    bad = [(row.name, row.failed, row.wrong) for row in rows if row.failed or row.wrong]
    for part in parts:
        began = machine.load_average()
        found[part], failed, wrong = run_part(part, full=options.full, ahead=options.ahead)
        load = f"{began:.1f} before, {machine.load_average():.1f} after"
        for figures in found[part].values() if part == "million" else [found[part]]:
            figures["load"] = load
        bad += [(part, failed, wrong)] if failed or wrong else []
    for path in report.keep(options.output, found):
        print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    print("\n".join(report.compared(rows, before)))
    for name, failed, wrong in bad:
        print(f"{name}: {failed} steps failed, {wrong} answers were wrong")
    return 1 if bad else 0


def run_part(part: str, *, full: bool, ahead: bool) -> tuple[dict[str, Any], int, int]:
    """Measure the stores or very many sequences; return figures, failures, wrong answers."""
    if part == "stores":
        import stores

        rounds, window_s = (30, 0.4) if full else (8, 0.3)
        with tempfile.TemporaryDirectory(prefix="legato-bench-models-") as name:
            rows = stores.measure(Path(name), rounds, window_s, ahead=ahead)
        figures = {
            "rounds": rounds,
            "window_s": window_s,
            "ahead": ahead,
            "rows": [asdict(row) for row in rows],
        }
        print("\n".join(f"{row.state:6} {row.store:16} {row.ratio:.2f}" for row in rows))
        return figures, sum(row.failed for row in rows), sum(row.wrong for row in rows)
    if part == "triton":
        import triton_lstm

        windows, window_s = (7, 2.0) if full else (3, 1.2)
        with tempfile.TemporaryDirectory(prefix="legato-bench-models-") as name:
            lstm = triton_lstm.measure(Path(name), windows, window_s)
        figures = {"windows": windows, "window_s": window_s, "rows": [asdict(row) for row in lstm]}
        return figures, sum(row.failed for row in lstm), 0
    import million

    found = million.measure(million.SMALL, lambda text: print(text, flush=True))
    return {str(million.SMALL.sequences): found}, found["failed"], found["wrong"]


def run(chosen: list[Scenario], effort: Effort) -> list[Row]:
    """Measure the scenarios, one server for all that agree on its options."""
    from measure import measure
    from models import MODELS
    from server import Server

    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="legato-bench-models-") as name:
        models = Path(name)
        for model in {scenario.model for scenario in chosen}:
            MODELS[model].install(model, models / model)
        ordered = sorted(chosen, key=lambda scenario: scenario.server.arguments)
        for server_arguments, group in itertools.groupby(
            ordered, key=lambda scenario: scenario.server.arguments
        ):
            with Server(models, server_arguments) as server:
                for scenario in group:
                    row = rows[scenario.name] = measure(scenario, server, models, effort)
                    print(
                        f"[{len(rows)}/{len(chosen)}] {row.name:28} {row.server_us:7.1f} us/step  "
                        f"bare {row.bare_us:6.1f}  {row.steps_per_s:8,.0f} steps/s  "
                        f"p99 {row.p99_ms:7.2f} ms  batch {row.mean_batch:5.1f}",
                        flush=True,
                    )
    return [rows[scenario.name] for scenario in chosen]


if __name__ == "__main__":
    sys.exit(main())
