"""The file that says which server runs, so that a second start is refused and a stop finds it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.05


class PidFile:
    """One server's pid.

    Args:
        path: Where it is written.
        word: Part of the command line of the process that it must belong to.
    """

    def __init__(self, path: Path, word: str) -> None:
        self.path = path
        self._word = word.encode()

    def running(self) -> int | None:
        """Return the pid of the server that runs, ``None`` if none does."""
        try:
            pid = int(self.path.read_text().strip())
        except (OSError, ValueError):
            return None
        return pid if self._lives(pid) else None

    def write(self, pid: int) -> None:
        """Say who runs."""
        self.path.write_text(f"{pid}\n")

    def remove(self, pid: int | None = None) -> None:
        """Forget who runs; with a pid only if it is that one."""
        if pid is None or (self.path.exists() and self.path.read_text().strip() == str(pid)):
            self.path.unlink(missing_ok=True)

    def stop(self, within_s: float) -> bool:
        """Ask the server to stop and wait for it; false if it does not."""
        pid = self.running()
        if pid is None:
            return True
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            if not self._lives(pid):
                return True
            time.sleep(_POLL_S)
        return False

    def _lives(self, pid: int) -> bool:
        """Whether a process is there, and is a server: pids are used again."""
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
        return self._word in line  # empty for one that is dead and not waited for
