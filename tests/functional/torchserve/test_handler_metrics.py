"""What handlers measure arrives at the metrics API, 8082."""

from __future__ import annotations

import os
import re
import signal

import pytest
from tests.functional.torchserve.conftest import write_properties
from tests.functional.torchserve.test_archives import LONGER, pack
from tests.functional.torchserve.test_command import run, wait_for

DECLARED = """
model_metrics:
  counter:
    - {name: RowsSeen, unit: count, dimensions: [ModelName, Level]}
"""


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    """One server of which nothing was said of metrics."""
    folder = tmp_path_factory.mktemp("measuring")
    pack(folder / "store", "measuring", "metrics_handler.py", LONGER)
    return torchserve("--ncs", "--disable-token-auth", "--models", "all", folder=folder)


def shown(served, name: str) -> dict[str, float]:
    """Samples of one metric: labels without the host to value."""
    page = served.get("metrics", f"/metrics?name[]={name}").text
    found = re.findall(rf'^{name}\w*\{{(.*),?Hostname="[^"]+"(.*)\}} (\S+)$', page, re.MULTILINE)
    return {before + after: float(value) for before, after, value in found}


def test_what_handlers_measure_is_shown(served) -> None:
    """Counters of all workers in one; labels; gauges; a histogram; the two that all have."""
    for at in range(6):
        served.step(f"shown-{at}", 7, "measuring")

    assert shown(served, "RowsSeen")['Level="Model",ModelName="measuring",'] >= 6
    usual = 'Level="Model",ModelName="measuring",'
    assert shown(served, "LastValue") == {f'{usual}kind="a\\"b",': 7.0}
    assert shown(served, "StageSeconds")['stage="infer",,le="+Inf"'] >= 6
    assert set(shown(served, "HandlerTime")) == {usual}
    assert set(shown(served, "PredictionTime")) == {usual}


def test_counts_go_on_when_workers_die_or_go(served) -> None:
    """And what a call measured that failed is counted, too."""
    before = shown(served, "RowsSeen")
    assert served.step("died-1", 95, "measuring").status == 503
    (described,) = served.get("management", "/models/measuring").json
    for worker in described["workers"]:
        os.kill(int(worker["pid"]), signal.SIGKILL)
    served.step("died-2", 1, "measuring")

    (count,) = shown(served, "TooLarge").values()
    (now,), (then,) = shown(served, "RowsSeen").values(), before.values() or (0.0,)
    assert count >= 1
    assert now >= then + 2


def test_labels_without_bound_do_not_fill_the_page(served) -> None:
    """A handler that counts by something endless has a part of it shown."""
    assert served.step("flood", 42, "measuring").status == 200

    assert 0 < len(shown(served, "Flood")) <= 2000
    assert served.step("flood-2", 1, "measuring").text == "1"


def test_only_declared_metrics_are_shown_where_a_file_declares_some(torchserve, tmp_path) -> None:
    """In the mode ``log`` every value is written, in TorchServe's form."""
    pack(tmp_path / "store", "measuring", "metrics_handler.py", LONGER)
    (tmp_path / "metrics.yaml").write_text(DECLARED)
    served = torchserve(
        *("--ncs", "--disable-token-auth", "--models", "all"),
        folder=tmp_path,
        properties={"metrics_config": "metrics.yaml", "metrics_mode": "log"},
    )

    served.step("one", 7, "measuring")

    assert list(shown(served, "RowsSeen").values()) == [1.0]
    assert shown(served, "LastValue") == {}
    log = tmp_path / "logs" / "model_metrics.log"
    wait_for(lambda: "LastValue.Bytes:7|#kind:" in log.read_text(), "written")
    assert "RowsSeen.count:1|" in log.read_text()


def test_a_metrics_file_that_is_missing_is_told_at_the_start(tmp_path) -> None:
    """With its path."""
    pack(tmp_path / "store", "measuring", "metrics_handler.py", LONGER)
    write_properties(tmp_path, metrics_config="gone.yaml")

    started = run(
        tmp_path, "--start", "--ncs", "--model-store", "store", "--ts-config", "config.properties"
    )

    assert started.returncode == 1
    assert "gone.yaml" in started.stderr
    assert "metrics_config" in started.stderr
