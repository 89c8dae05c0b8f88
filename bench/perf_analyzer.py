"""Runs Triton's own load generator, ``perf_analyzer``, against ``legato triton``.

First every way in which it sends sequences, one after the other (``make perf-analyzer``).
Then, with ``--minutes N``, runs of it at random that are cancelled or killed at random
moments, and a look at what is left: the server must be the same process, no sequence may be
left over once the idle time has passed, and memory must not grow.

A ``perf_analyzer`` on the PATH is used; otherwise it is taken from the package index
(tritonclient's wheel for Linux on x86-64) into .cache/perf_analyzer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import ctypes
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "bench")]

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = ROOT / ".cache" / "perf_analyzer"
WHEELS = {
    "tritonclient==2.48.0": "tritonclient-2.48.0.data/data/bin/perf_analyzer",
    "nvidia-cuda-runtime-cu12==12.9.79": "nvidia/cuda_runtime/lib/libcudart.so.12",
}
BASE64 = ("libb64.so.0d", "libb64-0d")
IDLE_S = 5
IDS = 2_000_000
"""Ids that a run may use; perf_analyzer reads them as 32-bit numbers."""
SHORT = (
    "--measurement-interval", "1000", "--stability-percentage", "999", "--max-trials", "3",
    "--input-data", "zero", "--sequence-length", "20",
)  # fmt: skip
_LOOK_S = 2.0
_MOST_GROWTH = 0.10
_SPARE_BYTES = 24 * 2**20


class NotHereError(Exception):
    """perf_analyzer cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Case:
    """One way to send sequences."""

    name: str
    arguments: tuple[str, ...]


def _grpc(*arguments: str) -> tuple[str, ...]:
    return ("-i", "grpc", *arguments)


_SHARED = ("--shared-memory", "system")
_OPEN = ("--request-rate-range", "400", "--num-of-sequences", "16")
CASES = (
    Case("unary", _grpc("--concurrency-range", "16")),
    Case("unary, one thread a request", _grpc("--sync", "--concurrency-range", "8")),
    Case("streams", _grpc("--streaming", "--concurrency-range", "32")),
    Case("HTTP", ("-i", "http", "--concurrency-range", "16")),
    Case("streams at a rate", _grpc("--streaming", *_OPEN)),
    Case("unary at a rate", _grpc(*_OPEN)),
    Case("unary at a rate, one step after the other", _grpc(*_OPEN, "--serial-sequences")),
    Case(
        "streams, random arrivals",
        _grpc("--streaming", *_OPEN, "--request-distribution", "poisson"),
    ),
    Case("unary, shared memory", _grpc("--concurrency-range", "8", *_SHARED)),
    Case("streams, shared memory", _grpc("--streaming", "--concurrency-range", "8", *_SHARED)),
    Case("HTTP, shared memory", ("-i", "http", "--concurrency-range", "8", *_SHARED)),
)


# -- having it -----------------------------------------------------------------------------------


def find() -> tuple[str, dict[str, str]]:
    """Return perf_analyzer and the environment that it runs in.

    Raises:
        NotHereError: It cannot be had.
    """
    found = shutil.which("perf_analyzer")
    if found is not None:
        return found, dict(os.environ)
    CACHE.mkdir(parents=True, exist_ok=True)
    for requirement, member in WHEELS.items():
        if not (CACHE / Path(member).name).is_file():
            _from_wheel(requirement, member)
    if not (_known(BASE64[0]) or (CACHE / BASE64[0]).is_file()):
        _from_debian(*BASE64)
    path = os.pathsep.join(part for part in (str(CACHE), os.environ.get("LD_LIBRARY_PATH")) if part)
    return str(CACHE / "perf_analyzer"), {**os.environ, "LD_LIBRARY_PATH": path}


def _from_wheel(requirement: str, member: str) -> None:
    print(f"fetching {requirement} ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
            "--disable-pip-version-check", "--only-binary", ":all:", "--dest", folder,
            "--platform", "manylinux2014_x86_64", "--platform", "manylinux1_x86_64", requirement,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise NotHereError(
                f"cannot download {requirement}: {done.stderr.strip()[-200:]}\n"
                "  fix: put a perf_analyzer on the PATH"
            )
        target = CACHE / Path(member).name
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(member) as source:
            part = target.with_suffix(".part")
            with part.open("wb") as out:
                shutil.copyfileobj(source, out)
            part.chmod(0o755)
            part.replace(target)


def _known(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _from_debian(library: str, package: str) -> None:
    """Unpack one library of a Debian package; nothing is installed."""
    fix = f"  fix: install {library} (Debian and Ubuntu: apt-get install {package})"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NotHereError(f"perf_analyzer needs {library}\n{fix}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(
            ["apt-get", "download", package], cwd=folder, capture_output=True, check=False
        )
        packages = list(folder.glob("*.deb"))
        if done.returncode or not packages:
            raise NotHereError(f"perf_analyzer needs {library}\n{fix}")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder / "out"], check=True)
        (found,) = (folder / "out").rglob(library)
        shutil.copyfile(found.resolve(), CACHE / library)


# -- the server ----------------------------------------------------------------------------------


@dataclass
class Watched:
    """A server and what is seen of it from outside."""

    grpc: str
    http: str
    metrics: str
    pid: int
    memory: list[tuple[float, int]] = field(default_factory=list)

    def counted(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        rows = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, rows))

    def resident(self) -> int:
        """Return the bytes that the serving process has in memory.

        Raises:
            ProcessLookupError: It is gone.
        """
        try:
            text = Path(f"/proc/{self.pid}/status").read_text()
        except FileNotFoundError:
            raise ProcessLookupError(self.pid) from None
        found = re.search(r"VmRSS:\s+(\d+) kB", text)
        return int(found[1]) * 1024 if found else 0


@contextlib.contextmanager
def serve(store: str) -> Iterator[Watched]:
    """Serve an LSTM from a model repository with short idle time and shared memory."""
    from server import free_ports
    from triton_lstm import LegatoServer, install

    with tempfile.TemporaryDirectory(prefix="legato-bench-") as name:
        repository = Path(name) / "repository"
        install(repository, idle_s=IDLE_S)
        http, metrics = free_ports(2)
        arguments = (
            f"--http-port={http}", f"--metrics-port={metrics}", "--http-address=127.0.0.1",
            "--metrics-address=127.0.0.1", "--allow-client-shm=true", f"--store={store}",
            f"--data={name}/data", "--keep-ends=30",
        )  # fmt: skip
        with LegatoServer(repository, arguments) as server:
            yield Watched(
                server.address, f"127.0.0.1:{http}", f"127.0.0.1:{metrics}", server.pid
            )  # fmt: skip


def command(binary: str, server: Watched, case: Case, *more: str) -> list[str]:
    """Return the command line of a run."""
    from triton_lstm import NAME

    url = server.http if "http" in case.arguments else server.grpc
    return [binary, "-m", NAME, "-u", url, *case.arguments, *SHORT, *more]


# -- every way once ------------------------------------------------------------------------------


def run_all(binary: str, environment: dict[str, str], server: Watched) -> int:
    """Run each case to its end; return how many failed."""
    failed = 0
    print(f"{'':44} {'steps/s':>9} {'p50 ms':>8} {'p99 ms':>8}")
    for number, case in enumerate(CASES):
        first = 1 + number * IDS
        with tempfile.NamedTemporaryFile(suffix=".csv") as report:
            more = (
                "-f", report.name, "--sequence-id-range", f"{first}:{first + IDS - 1}",
            )  # fmt: skip
            done = subprocess.run(
                command(binary, server, case, *more),
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            rows = list(csv.DictReader(Path(report.name).read_text().splitlines()))
        if done.returncode or not rows:
            failed += 1
            print(f"{case.name:44} FAILED, exit code {done.returncode}")
            print("    " + "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-6:]))
            continue
        row = rows[-1]
        p50, p99 = (float(row[f"p{n} latency"]) / 1000 for n in (50, 99))
        rate = float(row["Inferences/Second"])
        print(f"{case.name:44} {rate:9,.0f} {p50:8.2f} {p99:8.2f}", flush=True)
    return failed


# -- cancelled and killed ------------------------------------------------------------------------


def soak(binary: str, environment: dict[str, str], server: Watched, minutes: float) -> int:
    """Run cases at random for so long, and end most of them by force."""
    choose = random.Random(time.time_ns())
    until = time.monotonic() + minutes * 60
    runs = {"ended": 0, "interrupted": 0, "killed": 0}
    seen, look = time.monotonic(), 0
    while time.monotonic() < until:
        look += 1
        first = 1 + (len(CASES) + look % 1000) * IDS
        more = ("--sequence-id-range", f"{first}:{first + IDS - 1}")
        clients = [
            subprocess.Popen(
                command(binary, server, choose.choice(CASES), *more),
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        ]
        end = choose.choice(("ended", "interrupted", "killed", "killed"))
        if end != "ended":
            _pause(server, choose.uniform(0.2, 6.0))
            clients[0].send_signal(signal.SIGINT if end == "interrupted" else signal.SIGKILL)
        while clients[0].poll() is None:
            _pause(server, 0.5)
            if end == "interrupted" and choose.random() < 0.1:
                clients[0].kill()  # it may wait long for what it has sent
        runs[end] += 1
        if time.monotonic() - seen > 30:
            seen = time.monotonic()
            print(_progress(server, runs, until - seen), flush=True)
    return _verdict(server, runs)


def _pause(server: Watched, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))
        now = time.monotonic()
        if not server.memory or now - server.memory[-1][0] > _LOOK_S:
            server.memory.append((now, server.resident()))


def _progress(server: Watched, runs: dict[str, int], left_s: float) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in runs.items())
    return (
        f"{left_s / 60:5.1f} min left; clients: {counts}; "
        f"{server.counted('legato_sequences_live'):.0f} sequences, "
        f"{server.memory[-1][1] / 2**20:.0f} MiB"
    )


def _verdict(server: Watched, runs: dict[str, int]) -> int:
    """Say what is left of all that; return how many things are wrong."""
    until = time.monotonic() + IDLE_S + 15
    while (live := server.counted("legato_sequences_live")) and time.monotonic() < until:
        time.sleep(0.5)
    sizes = [size for _at, size in server.memory]
    third = max(1, len(sizes) // 3)
    # The first third is left out: caches fill, the allocator finds its level.
    before, after = (
        statistics.median(part) for part in (sizes[third : 2 * third] or sizes, sizes[-third:])
    )
    steps = server.counted("legato_steps_total")
    growth = after - before
    checks = {
        "the serving process is the one that was started": server.resident() > 0
        and not server.counted("legato_restarts_total"),
        f"no sequence is left ({live:.0f})": not live,
        "no step waits": not server.counted("legato_steps_queued"),
        f"memory is level ({before / 2**20:.0f} MiB in the second third, "
        f"{after / 2**20:.0f} MiB in the last)": growth < max(_MOST_GROWTH * before, _SPARE_BYTES),
    }
    print(f"{sum(runs.values())} clients ({runs}), {steps:,.0f} steps answered")
    for what, kept in checks.items():
        print(f"  {'ok    ' if kept else 'WRONG '} {what}")
    return sum(not kept for kept in checks.values())


def main() -> int:
    """Run, say what came of it; 1 if something went wrong, 2 if there is no perf_analyzer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with random deaths")
    parser.add_argument("--store", default="log", help="memory, log or sqlite  [log]")
    options = parser.parse_args()
    try:
        binary, environment = find()
    except NotHereError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with serve(options.store) as server:
        wrong = run_all(binary, environment, server)
        if options.minutes:
            wrong += soak(binary, environment, server, options.minutes)
    print("all well" if not wrong else f"{wrong} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
