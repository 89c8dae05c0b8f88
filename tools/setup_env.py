"""Make ``.venv`` and install Legato into it, with everything the tests need.

Needs nothing but Python 3.11 or later: ``make setup`` runs it, and skips it
while its stamp is newer than what it reads. Versions come from
``constraints.txt``; where packages come from is the user's own pip settings.

    python3 tools/setup_env.py [FOLDER]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
STAMP = ".legato-ready"
LINES_KEPT = 40
PACKAGE = re.compile(r"(?:Collecting|Processing) (?:/\S*/)?([A-Za-z][\w.]*(?:-[A-Za-z]\w*)*)")
INTERVAL_S = 10.0


class Progress:
    """One line that says how far the installation is; on a pipe, one every few seconds."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seen: set[str] = set()
        self.live = sys.stdout.isatty()
        self.shown_at = time.monotonic()

    def feed(self, line: str) -> None:
        """Take one line of pip's output."""
        found = PACKAGE.match(line)
        if found:
            self.seen.add(found[1].lower())
            self._show(found[1])
        elif line.startswith("Installing collected packages"):
            self._show("installing", always=True)

    def _show(self, what: str, *, always: bool = False) -> None:
        now = time.monotonic()
        if not self.live and not always and now - self.shown_at < INTERVAL_S:
            return
        self.shown_at = now
        text = f"      {min(len(self.seen), self.total)} of about {self.total} packages: {what}"
        print(f"\r{text:<72}" if self.live else text, end="" if self.live else "\n", flush=True)

    def finish(self) -> None:
        """Leave the live line."""
        if self.live:
            print()


def works(python: Path) -> bool:
    """Tell whether an environment that is already there has its pip."""
    probe = [str(python), "-m", "pip", "--version"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def create(folder: Path) -> Path:
    """Make the environment, or keep the one that is there; return its Python."""
    python = folder / "bin" / "python"
    if python.exists() and works(python):
        return python
    if folder.exists():
        shutil.rmtree(folder)
    try:
        import venv  # not part of every system's Python

        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    except (subprocess.CalledProcessError, ModuleNotFoundError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        sys.exit(
            f"could not make {folder}: this Python cannot install pip ({error})\n"
            f"  fix: install the venv module of your system's Python (python3-venv on Debian), "
            f"or choose another one: make PYTHON=/path/to/python3.11"
        )
    return python


def pip(python: Path, *arguments: str, progress: Progress | None = None) -> None:
    """Run pip to its end; on failure show the last lines of what it said and stop."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install"]
    command += ["--no-input", "--progress-bar", "off", "--constraint", str(CONSTRAINTS)]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line)
        if progress:
            progress.feed(line)
    if progress:
        progress.finish()
    if process.wait():
        sys.exit("".join(said[-LINES_KEPT:]) + f"pip failed: {' '.join(arguments)}")


def main() -> None:
    """Create, upgrade pip, install, stamp."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    if sys.version_info < (3, 11):  # noqa: UP036 - whatever Python there is runs this file
        sys.exit(f"Legato needs Python 3.11 or later, this is {sys.version.split()[0]}")
    began = time.monotonic()
    print(f"[1/3] environment in {folder.name} (Python {sys.version.split()[0]})", flush=True)
    python = create(folder)
    print("[2/3] pip and setuptools", flush=True)
    pip(python, "--upgrade", "pip", "setuptools")
    print("[3/3] Legato and what it needs", flush=True)
    total = sum(line[:1].isalnum() for line in CONSTRAINTS.read_text().splitlines())
    pip(python, "--no-build-isolation", "--editable", ".[dev]", progress=Progress(total))
    (folder / STAMP).touch()
    print(f"ready in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
