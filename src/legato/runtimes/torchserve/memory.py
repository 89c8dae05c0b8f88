"""``ts.metrics.process_memory_metric``: how much memory processes have."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["check_process_mem_usage", "get_cpu_usage"]

_log = logging.getLogger("ts.metrics")


def get_cpu_usage(pid: str | int) -> int:
    """Return the resident memory of a process in bytes, 0 if there is no such process."""
    try:
        pages = int(Path(f"/proc/{int(pid)}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        _log.warning("process %s cannot be looked at", pid)
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_process_mem_usage(stdin: TextIO) -> None:
    """Log the memory of each process of a line of ids, which commas separate."""
    for pid in filter(None, stdin.readline().strip().split(",")):
        _log.info("%s:%d", pid, get_cpu_usage(pid))
