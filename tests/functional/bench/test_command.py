"""``legato bench`` against a strange server, an evil one, and our own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[3]

spec = importlib.util.spec_from_file_location("bench_fake", Path(__file__).with_name("fake.py"))
fake = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fake)


def begin(*arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "legato", "bench", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )


def bench(*arguments: object) -> tuple[int, str, str]:
    process = begin(*arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def accumulator(folder: Path) -> Path:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1])
        for name in ("INPUT", "state_in", "OUTPUT", "state_out")
    ]
    nodes = [
        helper.make_node("Add", ["INPUT", "state_in"], ["state_out"]),
        helper.make_node("Identity", ["state_out"], ["OUTPUT"]),
    ]
    graph = helper.make_graph(nodes, "accumulator", values[:2], values[2:])
    path = folder / "accumulator.onnx"
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--unary"],
        ["--per-stream", "3"],
        ["--text-ids", "--processes", "2", "--data", "ramp"],
        ["--per-stream", "4", "--rate", "1500"],
        ["--unary", "--rate", "1500", "--id-range", "1:8"],
    ],
)
def test_strange_server_is_measured_and_left_without_open_sequences(options: list[str]) -> None:
    """Every transport gives right answers, and the last step of each sequence ends it."""
    with fake.FakeServer() as server:
        code, out, err = bench(
            server.address, "--model", "accumulator", "--sequences", 8, "--steps", 400, "--json",
            *options,
        )  # fmt: skip
        left_open = set(server.open)

    assert code == 0, err
    result = json.loads(out)["result"]
    assert result["steps"] >= 400
    assert (result["failed"], result["wrong"]) == (0, 0)
    assert result["sequences"] >= 10
    assert result["mean_batch"] is None
    assert left_open == set()


@pytest.mark.parametrize("transport", ["--streaming", "--unary"])
def test_server_that_mixes_up_states_is_caught(transport: str) -> None:
    """Exit code 1, and the number of wrong answers."""
    with fake.FakeServer(shared=True) as server:
        code, out, err = bench(
            server.address, "--model", "accumulator", transport, "--steps", 300, "--output",
            os.devnull,
        )  # fmt: skip

    assert code == 1, err
    assert "answers are wrong: the server mixes up states" in " ".join(out.split())


@pytest.mark.parametrize("options", [["--streaming"], ["--unary"], ["--per-stream", "4"]])
def test_refused_steps_are_counted_by_their_text(options: list[str]) -> None:
    """Errors are put together without their numbers, and the load goes on."""
    with fake.FakeServer(refuse_every=50) as server:
        code, out, err = bench(
            server.address, "--model", "accumulator", "--sequences", 8, "--steps", 400, "--json",
            *options,
        )  # fmt: skip

    assert code == 1, err
    result = json.loads(out)["result"]
    assert result["steps"] >= 400
    assert result["wrong"] == 0
    ((text, times),) = result["errors"].items()
    assert text.endswith("sequence # is refused at step #")
    assert times == result["failed"] >= 8


def test_streams_that_the_server_ends_are_opened_again() -> None:
    """A stream that ends early is an error, and another one takes its place."""
    with fake.FakeServer(end_every=37) as server:
        code, out, err = bench(
            server.address, "--model", "accumulator", "--sequences", 4, "--steps", 400, "--json"
        )

    assert code == 1, err
    result = json.loads(out)["result"]
    assert result["steps"] >= 400
    assert list(result["errors"]) == ["CANCELLED: the stream was ended by the server"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nothing"], "no model 'nothing' (NOT_FOUND)"),
        (["--model", "accumulator", "--leave-out", "x"], "no input 'x'; it takes INPUT"),
        (["--model", "accumulator", "--id-range", "1:3"], "the range has 3"),
        (["--model", "accumulator", "--check", "sum", "--data", "zero"], "sums of zeros"),
        (["--model", "accumulator", "--pid", "4194305"], "there is no process 4194305"),
    ],
)
def test_load_that_makes_no_sense_is_refused(options: list[str], words: str) -> None:
    """Exit code 2 and a sentence, before any load is made."""
    with fake.FakeServer() as server:
        code, out, _err = bench(server.address, *options)
        steps = server.steps

    assert code == 2
    assert words in " ".join(out.split())
    assert steps == 0


def test_server_that_is_not_there_is_named() -> None:
    """Exit code 2 and the address."""
    code, out, _err = bench("127.0.0.1:1", "--model", "accumulator")

    assert code == 2
    assert "no server answers at 127.0.0.1:1" in " ".join(out.split())


def test_ctrl_c_ends_with_the_figures_so_far() -> None:
    """The table comes, the sequences are ended, and no process stays."""
    with fake.FakeServer() as server:
        process = begin(server.address, "--model", "accumulator", "--seconds", 50, "--warm-up", 0)
        server.await_steps(500)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        left_open = set(server.open)

    assert process.returncode == 0, err
    assert "throughput" in out
    assert left_open == set()


def test_own_server_gives_batches_and_cpu(tmp_path: Path, serve) -> None:
    """With a process id and statistics, every figure is there; step numbers are accepted."""
    served = serve(accumulator(tmp_path), store="memory")

    code, out, err = bench(
        served.address, "--model", "accumulator", "--pid", served.pid, "--sequences", 16,
        "--seconds", 1, "--warm-up", 0.3, "--numbered", "--json",
    )  # fmt: skip

    assert code == 0, err
    figures = json.loads(out)
    result = figures["result"]
    assert figures["load"]["check"] == "sum"
    assert result["steps"] > 100
    assert (result["failed"], result["wrong"]) == (0, 0)
    assert 1 <= result["mean_batch"] <= 16
    assert 1 < result["server_us"] < 10_000
    assert 1 < result["client_us"] < 10_000
    assert result["threads_us"]
    assert list(result["latency_ms"]) == ["p50", "p95", "p99", "max"]


def test_suite_writes_page_plot_and_figures(tmp_path: Path) -> None:
    """``bench/run.py`` measures a scenario beside the bare runtime and compares with before."""
    command = [
        sys.executable, str(ROOT / "bench" / "run.py"), "--only", "^accumulator/stream/8$",
        "--output", str(tmp_path),
    ]  # fmt: skip

    first = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    figures = json.loads((tmp_path / "benchmarks.json").read_text())
    row = figures["rows"]["accumulator/stream/8"]

    assert first.returncode == 0, first.stderr
    assert (row["failed"], row["wrong"]) == (0, 0)
    assert 0 < row["bare_us"] < row["server_us"]
    assert "| stream | 8 |" in (tmp_path / "benchmarks.md").read_text()
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_load_does_not_outlive_its_generator() -> None:
    """When the command is killed, its load processes end by themselves."""
    with fake.FakeServer() as server:
        process = begin(server.address, "--model", "accumulator", "--seconds", 50)
        server.await_steps(200)
        process.kill()
        process.communicate(timeout=30)

        server.await_no_streams()

    assert process.returncode == -signal.SIGKILL
