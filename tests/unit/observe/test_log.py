"""Log lines are events with fields, never payloads."""

from __future__ import annotations

import io
import logging
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
import structlog

from legato.observe.log import configure, get_logger, write_levels, written_levels

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Give the process its logging back."""
    root = logging.getLogger()
    handlers, level, written = root.handlers, root.level, written_levels()
    yield
    structlog.reset_defaults()
    write_levels(written)
    root.handlers, root.level = handlers, level


def to_json(level: str = "info") -> io.StringIO:
    """Configure JSON lines into a buffer."""
    stream = io.StringIO()
    configure("json", level, stream, cache=False)
    return stream


def only_event(stream: io.StringIO) -> dict[str, object]:
    """Read the one line that was written."""
    [line] = stream.getvalue().splitlines()
    return orjson.loads(line)


def test_json_line_carries_event_level_time_and_fields() -> None:
    """One event is one JSON object, with the logger's own fields."""
    stream = to_json()
    log = get_logger(model="vad")

    log.info("sequence_expired", sequence=7, idle_s=3600.0)

    event = only_event(stream)
    assert str(event.pop("time")).endswith("Z")
    assert event == {
        "event": "sequence_expired",
        "level": "info",
        "model": "vad",
        "sequence": 7,
        "idle_s": 3600.0,
    }


def test_console_line_is_for_people() -> None:
    """The same event on a console is one readable line without colours on a pipe."""
    stream = io.StringIO()
    configure("console", "info", stream, cache=False)

    get_logger().warning("sequence_expired", model="vad", idle_s=3600.0)

    [line] = stream.getvalue().splitlines()
    assert "sequence_expired" in line
    assert "idle_s=3600.0 model=vad" in line
    assert "\x1b" not in line


def test_auto_form_is_json_on_a_pipe() -> None:
    """Whoever redirects the log gets lines for machines."""
    stream = io.StringIO()
    configure("auto", "info", stream, cache=False)

    get_logger().info("started")

    assert only_event(stream)["event"] == "started"


def test_payloads_are_replaced_by_their_size() -> None:
    """Bytes, views and arrays never reach a log; long texts are cut."""
    stream = to_json()

    get_logger().info(
        "step_refused",
        raw=b"secret",
        view=memoryview(b"secret"),
        tensor=np.zeros((2, 3), np.float32),
        text="x" * 5000,
    )

    event = only_event(stream)
    assert event["raw"] == event["view"] == "<6 bytes>"
    assert event["tensor"] == "<24 bytes>"
    assert str(event["text"]).endswith("... (5000 characters)")
    assert "secret" not in stream.getvalue()


def test_events_below_the_level_are_not_written() -> None:
    """The threshold holds for every logger."""
    stream = to_json("warning")
    log = get_logger()

    log.debug("noise")
    log.info("noise")
    log.warning("signal")

    assert only_event(stream)["event"] == "signal"


def test_exception_comes_with_its_traceback() -> None:
    """An outermost task logs what it caught."""
    stream = to_json()
    try:
        raise RuntimeError("broken pipe organ")
    except RuntimeError:
        get_logger().exception("task_failed")

    event = only_event(stream)
    assert event["level"] == "error"
    assert "RuntimeError: broken pipe organ" in str(event["exception"])


def test_values_json_does_not_know_are_written_as_text() -> None:
    """A field of any type cannot make an event fail."""
    stream = to_json()

    get_logger().info("loaded", error=ValueError("no"), pair={1: "a"})

    event = only_event(stream)
    assert event["error"] == "no"
    assert event["pair"] == {"1": "a"}


def test_messages_of_libraries_take_the_same_road() -> None:
    """A warning of a library's logger is an event with the logger's name."""
    stream = to_json()

    logging.getLogger("asyncio").warning("took %d s", 3)
    logging.getLogger("asyncio").info("chatter")

    event = only_event(stream)
    assert event["event"] == "library_message"
    assert event["logger"] == "asyncio"
    assert event["message"] == "took 3 s"
    assert event["level"] == "warning"


@pytest.mark.parametrize(("form", "level"), [("xml", "info"), ("json", "loud")])
def test_unknown_form_or_level_is_refused(form: str, level: str) -> None:
    """A misspelt setting is told, not defaulted."""
    with pytest.raises(ValueError, match="must be"):
        configure(form, level)  # type: ignore[arg-type]


def test_levels_may_be_changed_while_the_process_runs() -> None:
    """Each by itself, also for loggers that have written before; critical events always."""
    stream = io.StringIO()
    configure("json", "warning", stream, cache=True)
    log = get_logger()
    log.warning("first")
    log.info("not_yet")

    write_levels(frozenset({"debug", "info", "error"}))
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(log, level)(level)
    write_levels(frozenset())
    try:
        raise ValueError
    except ValueError:
        log.exception("silent")

    events = [orjson.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["first", "debug", "info", "error", "critical"]
    assert written_levels() == frozenset()


def test_the_chosen_level_is_what_is_written() -> None:
    """It and those above."""
    to_json("warning")

    assert written_levels() == {"warning", "error"}
