"""One load from beginning to end, for the terminal."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Final

from legato.bench.generator import Generator
from legato.bench.show import Progress, headline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from rich.console import Console

    from legato.bench.load import Load
    from legato.bench.result import Result
    from legato.bench.target import Target

GIVE_UP_S: Final = 10.0
_POLL_S: Final = 0.1


class Interrupted:
    """Whether Ctrl-C was pressed; a second press is the usual KeyboardInterrupt."""

    def __init__(self) -> None:
        self.pressed = False

    def __bool__(self) -> bool:
        return self.pressed

    def press(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle the signal."""
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


@contextlib.contextmanager
def ctrl_c() -> Iterator[Interrupted]:
    """Watch for Ctrl-C and SIGTERM instead of being interrupted by them."""
    interrupted = Interrupted()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupted.press) for number in numbers]
    try:
        yield interrupted
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run(
    load: Load,
    target: Target,
    console: Console,
    *,
    seconds: float,
    warm_up_s: float,
    pid: int = 0,
) -> Result:
    """Make the load and measure it; Ctrl-C ends it with the figures so far.

    Args:
        load: What to do; ``steps`` of 0 = for ``seconds``.
        target: The model.
        console: Where progress goes.
        seconds: How long to measure.
        warm_up_s: How long the load goes on before that.
        pid: Process of the server.

    Raises:
        LoadError: The load cannot be made.
    """
    console.print(headline(load), highlight=False, markup=False, soft_wrap=True)
    with ctrl_c() as interrupted, Generator(load, target, pid) as generator:
        with Progress(console, generator, seconds + warm_up_s) as progress:
            first = generator.mark()
            generator.go()
            if warm_up_s and not load.steps:
                _let_run(generator, progress, interrupted, warm_up_s, "warming up")
                first = generator.mark()
            _let_run(generator, progress, interrupted, 0 if load.steps else seconds, "")
            last = generator.mark()
        return generator.between(first, last)


def _let_run(
    generator: Generator,
    progress: Progress,
    interrupted: Interrupted,
    seconds: float,
    phase: str,
) -> None:
    """Wait until the time is over, or the steps are through where there is no time."""
    began = heard = time.monotonic()
    steps = generator.steps
    while generator.working and not interrupted:
        now = time.monotonic()
        if seconds and now - began >= seconds:
            return
        if generator.steps > steps:
            steps, heard = generator.steps, now
        elif now - heard > GIVE_UP_S:
            return  # nothing but errors, or nothing at all: the figures say so
        left = seconds - (now - began) if seconds else _POLL_S
        generator.pause(min(_POLL_S, left))
        progress.update(phase)
