"""What people see of a load: progress while it runs, a table at its end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from legato.bench.load import Check
from legato.bench.result import percentiles_ms

if TYPE_CHECKING:
    from rich.console import Console

    from legato.bench.generator import Generator
    from legato.bench.load import Load
    from legato.bench.result import Result

BAR: Final = 30
_ERRORS_SHOWN: Final = 10


def headline(load: Load) -> str:
    """Say in one line what is done."""
    if not load.streaming:
        how = "unary calls"
    elif load.per_stream == 1:
        how = "a stream each"
    else:
        how = f"{load.per_stream} a stream"
    pace = f"{load.rate:g} steps/s" if load.rate else "as fast as answers come"
    checked = ", answers checked" if load.check is Check.SUM else ""
    return (
        f"{load.model} at {load.address}: {load.sequences} sequences of about {load.length} "
        f"steps, {how}, {pace}{checked}"
    )


class Progress:
    """A line that is drawn anew on terminals, and written once a second elsewhere.

    Args:
        console: Where to.
        generator: Whose progress it is.
        seconds: How long the load takes, 0 = until its steps are through.
    """

    def __init__(self, console: Console, generator: Generator, seconds: float) -> None:
        self._console = console
        self._generator = generator
        self._seconds = seconds
        self._began = self._then = time.monotonic()
        self._steps = 0
        self._rate = 0.0
        terminal = console.is_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if terminal else None
        self._every_s = 0.2 if terminal else 1.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, phase: str) -> None:
        """Show how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._then < self._every_s:
            return
        steps = self._generator.steps
        self._rate = (steps - self._steps) / (now - self._then)
        self._steps, self._then = steps, now
        text = self._line(now - self._began, phase)
        if self._live is not None:
            self._live.update(Text(f"{self._bar(now)} {text}", overflow="crop"), refresh=True)
        else:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _bar(self, now: float) -> str:
        load = self._generator.load
        done = self._steps / load.steps if load.steps else (now - self._began) / self._seconds
        full = min(BAR, round(BAR * done))
        return "━" * full + "╌" * (BAR - full)

    def _line(self, elapsed_s: float, phase: str) -> str:
        generator = self._generator
        latency = percentiles_ms(generator.recent())
        text = f"{elapsed_s:6.1f} s  {generator.steps:>9,} steps  {self._rate:>8,.0f} steps/s"
        if latency:
            text += f"  p50 {latency['p50']:.2f} ms  p99 {latency['p99']:.2f} ms"
        if generator.failed:
            text += f"  {generator.failed:,} errors"
        return f"{text}  {phase}".rstrip()


def table(load: Load, result: Result) -> Table:
    """Return the figures of a run."""
    grid = Table(show_header=False, box=None, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(justify="right")
    grid.add_column()

    def row(name: str, value: float | None, unit: str, form: str = ",.0f") -> None:
        if value is not None:
            grid.add_row(name, format(value, form), unit)

    row("steps", result.steps, f"in {result.seconds:.1f} s")
    row("sequences completed", result.sequences, "")
    row("throughput", result.steps_per_s, "steps/s")
    for name, value in result.latency_ms.items():
        row(f"latency {name}", value, "ms", ",.2f")
    row("mean batch", result.mean_batch, "steps a model call", ".1f")
    row("mean wait for the model", result.queue_ms, "ms", ".2f")
    row("server CPU", result.server_us, "us a step", ".1f")
    for name, value in result.threads_us.items():
        row(f"  thread {name}", value, "us a step", ".1f")
    row("load generator CPU", result.client_us, "us a step", ".1f")
    row("errors", result.failed, "")
    for text, times in list(result.errors.items())[:_ERRORS_SHOWN]:
        grid.add_row("", format(times, ",d"), Text(text))
    if load.check is Check.SUM:
        row("wrong answers", result.wrong, "of the steps above, by the sums of what was sent")
    return grid
