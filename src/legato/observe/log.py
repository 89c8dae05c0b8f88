"""Structured logs: events with fields, one line each, on standard error.

    log = get_logger()
    log.info("sequence_expired", model="silero", sequence=7, idle_s=3600.0)

Two forms, chosen once by :func:`configure`: JSON lines for machines, aligned
``key=value`` for people. Fields never carry payloads: bytes and arrays are
replaced by their size. Which levels are written may be changed while the process runs:
an event of another level costs one call and a look at a set. Records of the standard
library's loggers come out the same way.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

Form = Literal["auto", "json", "console"]
LEVELS = ("debug", "info", "warning", "error")
LONGEST_TEXT = 2_000


def get_logger(**fields: object) -> FilteringBoundLogger:
    """Return a logger whose events carry ``fields``; to be made once a module or object."""
    logger: FilteringBoundLogger = structlog.get_logger(**fields)
    return logger


def configure(
    form: Form = "auto", level: str = "info", stream: TextIO | None = None, *, cache: bool = True
) -> None:
    """Choose form and level for the whole process; to be called before the first event.

    Args:
        form: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        level: Least level that is written, one of :data:`LEVELS`.
        stream: Where lines go, standard error by default.
        cache: Loggers keep these settings from their first event on.

    Raises:
        ValueError: The form or the level is not known.
    """
    if level not in LEVELS:
        raise ValueError(f"log level must be one of {', '.join(LEVELS)}, not '{level}'")
    if form not in ("auto", "json", "console"):
        raise ValueError(f"log form must be auto, json or console, not '{form}'")
    stream = stream or sys.stderr
    write_levels(frozenset(LEVELS[LEVELS.index(level) :]))
    structlog.configure(
        processors=[
            _drop_silent,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            drop_payloads,
            *(_console(stream) if _wants_console(form, stream) else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=cache,
    )
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(logging.WARNING)


_silent: set[str] = set()  # beside structlog's own configuration, which is the process's too


def write_levels(levels: frozenset[str]) -> None:
    """Write events of just these levels from now on; of critical ones, always.

    Args:
        levels: Some of :data:`LEVELS`.
    """
    _silent.clear()
    _silent.update(level for level in LEVELS if level not in levels)


def written_levels() -> frozenset[str]:
    """Return the levels whose events are written."""
    return frozenset(level for level in LEVELS if level not in _silent)


def _drop_silent(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    # An exception is logged by a method of its own name, and is an error.
    if ("error" if method == "exception" else method) in _silent:
        raise structlog.DropEvent
    return event


def _wants_console(form: Form, stream: TextIO) -> bool:
    return form == "console" or (form == "auto" and stream.isatty())


def _json() -> list[Callable[..., Any]]:
    return [
        structlog.processors.TimeStamper(fmt="iso", key="time"),
        structlog.processors.format_exc_info,
        structlog.processors.JSONRenderer(serializer=_dumps, default=str),
    ]


def _dumps(event: EventDict, *, default: Callable[[Any], Any]) -> str:
    return orjson.dumps(event, default=default, option=orjson.OPT_NON_STR_KEYS).decode()


def _console(stream: TextIO) -> list[Callable[..., Any]]:
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="timestamp"),
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            pad_event_to=28,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def drop_payloads(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace payloads by their size and cut long texts, whatever a caller passes.

    The event is cleaned in place: a field may name what it is about, never hold it.
    """
    for key, value in event.items():
        if isinstance(value, str):
            if len(value) > LONGEST_TEXT:
                event[key] = f"{value[:LONGEST_TEXT]}... ({len(value)} characters)"
        elif isinstance(value, bytes | bytearray):
            event[key] = f"<{len(value)} bytes>"
        elif hasattr(value, "nbytes"):
            event[key] = f"<{value.nbytes} bytes>"
    return event


class _Bridge(logging.Handler):
    """Hands records of the standard library's loggers to ours."""

    def __init__(self) -> None:
        super().__init__()
        self._log = get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(
            min(record.levelno, logging.CRITICAL),
            "library_message",
            logger=record.name,
            message=record.getMessage(),
            exc_info=record.exc_info,
        )
