"""A server of chains whose process may be hurt."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from tests.functional.conftest import Served, start

KILLS = int(os.environ.get("LEGATO_KILLS", "50"))
"""How often processes are killed; ``make test-long`` asks for many more."""

CHAIN = Path(__file__).parents[2] / "models" / "chain.py"
CONFIG = "runtime: python\nentry: chain.py:Chain\nsequences: {receipts: 16}\n"


_REPORT = pytest.StashKey[list[str]]()


@pytest.fixture
def report(request):
    """Return ``report(line)``: what is worth reading also where all went well."""
    return request.config.stash.setdefault(_REPORT, []).append


def pytest_terminal_summary(terminalreporter, config) -> None:
    """Show what was reported."""
    for line in config.stash.get(_REPORT, []):
        terminalreporter.write_line(line)


def write_chain(folder: Path, config: str = CONFIG) -> Path:
    """Write the model of chains; return its folder."""
    home = folder / "chain"
    home.mkdir(parents=True)
    shutil.copy(CHAIN, home / "chain.py")
    (home / "model.yaml").write_text(config)
    return home


def serving_pid(served: Served) -> int | None:
    """Return the serving process of this moment, also one that is still starting."""
    supervisor = served.process.pid
    try:
        text = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text()
    except FileNotFoundError:
        return None
    children = text.split()
    return int(children[0]) if children else None


def strike(served: Served, number: int) -> int | None:
    """Send the serving process a signal, whatever it is doing; return its id."""
    pid = serving_pid(served)
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return None
    return pid


@pytest.fixture
def chain(tmp_path):
    """Return ``chain(**settings)``: a server of chains with a store in ``tmp_path/data``."""
    started: list[Served] = []
    home = write_chain(tmp_path / "models")

    def serve(
        *, faults: str = "", ready: bool = True, segment_size: str = "256M", **settings: object
    ) -> Served:
        environment = {
            "LEGATO_LONGEST_RESTART_DELAY_S": "0.1",
            "LEGATO_FAULTS": faults,
            "LEGATO_SEGMENT_SIZE": segment_size,
        }
        settings = {"data": tmp_path / "data", "log_level": "warning", **settings}
        served = start(home, environment=environment, **settings)
        started.append(served)
        if ready:
            served.await_ready()
        return served

    yield serve
    for served in started:
        served.close()


def kill_all(served: Served) -> None:
    """End supervisor and serving process at once, as a machine would that is switched off."""
    pid = serving_pid(served)
    served.process.kill()
    served.process.wait()
    until = time.monotonic() + 10
    while pid is not None and Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        time.sleep(0.01)
