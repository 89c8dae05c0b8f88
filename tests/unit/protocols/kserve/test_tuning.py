"""Log and trace settings: checked before anything changes."""

from __future__ import annotations

import pytest

from legato.protocols.kserve.tuning import LogSettings, TraceSettings
from legato.protocols.rpc.service import RpcError, Status


@pytest.fixture
def written() -> list[frozenset[str]]:
    """What the log was told to write, one entry a change."""
    return []


@pytest.fixture
def log(written) -> LogSettings:
    return LogSettings({"warning", "error"}, written.append)


def test_log_settings_begin_with_what_is_written(log) -> None:
    """Also where the server was started with another level."""
    assert log.values() == {
        "log_file": "", "log_info": False, "log_warning": True, "log_error": True,
        "log_verbose_level": 0, "log_format": "ISO8601",
    }  # fmt: skip


def test_each_kind_of_line_has_its_switch(log, written) -> None:
    """A verbose level writes debug lines."""
    log.change({"log_info": True, "log_warning": False})
    log.change({"log_verbose_level": 1})
    log.change({})

    assert written == [{"info", "error"}, {"info", "error", "debug"}]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"log_info": 1}, "expected a boolean"),
        ({"log_verbose_level": -1}, "expected a number"),
        ({"log_verbose_level": True}, "expected a number"),
        ({"log_format": "xml"}, "expected default or ISO8601"),
        ({"log_all": True}, "there is no log setting 'log_all'; there are log_file, log_info"),
        ({"log_file": "/tmp/x"}, "log file location can not be updated through network protocol"),
    ],
)
def test_wrong_log_settings_change_nothing(log, written, changes, text) -> None:
    """Not even the right ones beside them."""
    before = log.values()

    with pytest.raises(RpcError, match=text):
        log.change({"log_error": False, **changes})

    assert (log.values(), written) == (before, [])


def test_trace_settings_are_kept_per_model() -> None:
    """A model's own win; what it does not have follows those of all; no value = as before."""
    trace = TraceSettings()

    trace.change({"trace_rate": ["5"], "trace_level": ["TIMESTAMPS", "TENSORS"]})
    trace.change({"trace_rate": ["7"]}, "m")
    own, other = trace.values("m"), trace.values("n")
    trace.change({"trace_rate": []}, "m")
    trace.change({"trace_rate": []})

    assert (own["trace_rate"], other["trace_rate"]) == (["7"], ["5"])
    assert own["trace_level"] == ["TIMESTAMPS", "TENSORS"]
    assert trace.values("m")["trace_rate"] == ["1000"]


@pytest.mark.parametrize(
    "changes",
    [
        {"trace_level": ["ALL"]},
        {"trace_rate": ["0"]},
        {"trace_rate": ["x"]},
        {"trace_rate": ["1", "2"]},
        {"trace_count": ["-2"]},
        {"log_frequency": ["-1"]},
        {"trace_mode": ["opentelemetry"]},
        {"trace_file": ["/tmp/x"]},
        {"other": ["1"]},
    ],
)
@pytest.mark.parametrize("model", ["", "m"])
def test_wrong_trace_settings_change_nothing(changes, model) -> None:
    """Not even the right ones beside them."""
    trace = TraceSettings()

    with pytest.raises(RpcError) as caught:
        trace.change({"trace_count": ["3"], **changes}, model)

    assert caught.value.status in (Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED)
    assert trace.values(model)["trace_count"] == ["-1"]
