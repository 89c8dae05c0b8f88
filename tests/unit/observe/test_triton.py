"""Metrics under Triton's names tell the same counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from legato.engine.statistics import ModelStatistics
from legato.observe.triton import REASONS, Processor, render


def page(*models: SimpleNamespace, processor: Processor | None = None) -> str:
    engine = SimpleNamespace(models=lambda: list(models))
    return render(engine, processor or Processor()).decode()  # type: ignore[arg-type]


def samples(text: str, **labels: str) -> dict[str, float]:
    """Return name to value of the samples that have these labels."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{")
        if all(f'{key}="{value}"' in rest for key, value in labels.items()):
            found[name.split()[0]] = float(line.split()[-1])
    return found


@pytest.fixture
def model() -> SimpleNamespace:
    counts = ModelStatistics()
    counts.applied, counts.replayed, counts.batches, counts.queued = 6, 1, 2, 3
    counts.batch_seconds = {2: [1, 0.25], 4: [1, 0.5]}
    counts.queue_s.observe(0.125, 6)
    counts.failed.update({"model_failed": 2, "queue_full": 1, "step_gap": 4, "cancelled": 5})
    return SimpleNamespace(name="m", version="1", statistics=counts)


def test_counts_have_tritons_names(model) -> None:
    """Without the ending that the library gives to counters."""
    found = samples(page(model), model="m", version="1")

    assert found == {
        "nv_inference_request_success": 7,
        "nv_inference_count": 6,
        "nv_inference_exec_count": 2,
        "nv_inference_request_duration_us": 3_250_000,
        "nv_inference_queue_duration_us": 750_000,
        "nv_inference_compute_input_duration_us": 0,
        "nv_inference_compute_infer_duration_us": 2_500_000,
        "nv_inference_compute_output_duration_us": 0,
        "nv_inference_pending_request_count": 3,
        "nv_inference_request_failure": 4,  # of the last reason
    }


def test_failures_have_tritons_reasons(model) -> None:
    """Those that are nobody's special case are OTHER."""
    text = page(model)

    by_reason = {
        reason: samples(text, reason=reason)["nv_inference_request_failure"]
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    }
    assert by_reason == {"REJECTED": 1, "CANCELED": 5, "BACKEND": 2, "OTHER": 4}


def test_reasons_are_of_errors_that_there_are() -> None:
    """A code that is renamed must be renamed here, too."""
    from legato.protocols.kserve.errors import CASES

    assert set(REASONS) <= set(CASES)


def test_the_page_can_be_parsed(model) -> None:
    """Types and samples agree in their names."""
    families = {family.name: family.type for family in text_string_to_metric_families(page(model))}

    assert families["nv_inference_count"] == "counter"
    assert families["nv_inference_pending_request_count"] == "gauge"
    assert families["nv_cpu_utilization"] == "gauge"


def test_utilization_is_that_since_the_last_look(tmp_path) -> None:
    """Busy time by all time, waiting for disks is idle."""
    stat = tmp_path / "stat"
    processor = Processor(stat, tmp_path / "none")

    stat.write_text("cpu 100 0 0 100 0 0 0 0 0 0\ncpu0 1\n")
    processor.utilization()
    stat.write_text("cpu 130 0 0 160 10 0 0 0 0 0\ncpu0 1\n")

    assert processor.utilization() == pytest.approx(0.3)
    assert processor.utilization() == 0


def test_machines_without_these_files_have_no_such_metrics(tmp_path) -> None:
    """Nothing is made up."""
    processor = Processor(tmp_path / "stat", tmp_path / "meminfo")

    assert processor.memory() is None
    assert "nv_cpu" not in page(processor=processor)


def test_used_memory_is_what_is_not_available(tmp_path) -> None:
    """In bytes."""
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable: 40 kB\nHugePages_Total: 0\n")

    assert Processor(tmp_path / "stat", memory).memory() == (102400, 61440)
