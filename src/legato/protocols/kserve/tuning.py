"""Log and trace settings that clients may read and change.

Log settings take effect: each kind of line is written or not, from the next one on. A
verbose level above 0 writes debug lines, too. Two have no effect: Legato's lines have their
times in ISO 8601 whatever ``log_format`` says, and go to standard error.

Trace settings are kept, checked and told, per model where a client wants it so, but nothing
is traced: ``trace`` is no extension that this server reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from legato.observe.log import get_logger
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = get_logger()

LogValue = bool | int | str

_LEVELS = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_FORMATS = ("default", "ISO8601")
_FILE_IS_FIXED = "log file location can not be updated through network protocol"
_TRACE_FILE_IS_FIXED = "trace file location can not be updated through network protocol"


def _wrong(key: str, expected: str) -> RpcError:
    return RpcError(
        Status.INVALID_ARGUMENT, f"invalid value for setting '{key[:80]}': expected {expected}"
    )


def _unknown(what: str, key: str, known: Sequence[str]) -> RpcError:
    return RpcError(
        Status.INVALID_ARGUMENT,
        f"there is no {what} setting '{key[:80]}'; there are {', '.join(known)}",
    )


class LogSettings:
    """What is logged.

    Args:
        written: Levels written now, of debug, info, warning and error.
        write: Makes it so that just these levels are written.
    """

    def __init__(
        self, written: frozenset[str] | set[str], write: Callable[[frozenset[str]], None]
    ) -> None:
        self._write = write
        self._values: dict[str, LogValue] = {
            "log_file": "",
            **{key: level in written for key, level in _LEVELS.items()},
            "log_verbose_level": int("debug" in written),
            "log_format": "ISO8601",
        }

    def values(self) -> dict[str, LogValue]:
        """Return all settings."""
        return dict(self._values)

    def change(self, changes: Mapping[str, object]) -> None:
        """Change some settings; all of them, or none if one is wrong.

        Raises:
            RpcError: A setting or its value is none.
        """
        checked = {key: self._checked(key, value) for key, value in changes.items()}
        if not checked:
            return
        self._values |= checked
        levels = {level for key, level in _LEVELS.items() if self._values[key]}
        if self._values["log_verbose_level"]:
            levels.add("debug")
        log.warning("log_settings_changed", **checked)
        self._write(frozenset(levels))

    def _checked(self, key: str, value: object) -> LogValue:
        if key in _LEVELS:
            if not isinstance(value, bool):
                raise _wrong(key, "a boolean")
            return value
        if key == "log_verbose_level":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
                raise _wrong(key, "a number of 0 or more")
            return value
        if key == "log_format":
            if value not in _FORMATS:
                raise _wrong(key, " or ".join(_FORMATS))
            return str(value)
        if key == "log_file":
            if value == "":
                return ""
            raise RpcError(Status.UNIMPLEMENTED, _FILE_IS_FIXED)
        raise _unknown("log", key, list(self._values))


_TRACE_DEFAULTS: dict[str, list[str]] = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}
_TRACE_LEVELS = ("OFF", "TIMESTAMPS", "TENSORS")
_LEAST = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}
_MOST_DIGITS = 18


class TraceSettings:
    """What a client asked to be traced, for all models and for single ones."""

    def __init__(self) -> None:
        self._common = dict(_TRACE_DEFAULTS)
        self._own: dict[str, dict[str, list[str]]] = {}

    def values(self, model: str = "") -> dict[str, list[str]]:
        """Return all settings of a model, or those of models without their own."""
        return {**self._common, **self._own.get(model, {})}

    def change(self, changes: Mapping[str, Sequence[str]], model: str = "") -> None:
        """Change some settings; all of them, or none if one is wrong.

        Args:
            changes: Setting to values; no values = as it was before any change.
            model: Which model's; "" = those of models without their own.

        Raises:
            RpcError: A setting or its value is none.
        """
        for key, value in changes.items():
            _check_trace(key, value)
        target = self._own.setdefault(model, {}) if model else self._common
        for key, value in changes.items():
            if value:
                target[key] = list(value)
            elif model:
                target.pop(key, None)
            else:
                target[key] = _TRACE_DEFAULTS[key]
        if model and not target:
            del self._own[model]
        if changes:
            log.warning("trace_settings_have_no_effect", settings=sorted(changes))


def _check_trace(key: str, value: Sequence[str]) -> None:
    if key not in _TRACE_DEFAULTS:
        raise _unknown("trace", key, list(_TRACE_DEFAULTS))
    if not value:
        return
    if key == "trace_level":
        if any(level not in _TRACE_LEVELS for level in value):
            raise _wrong(key, f"some of {', '.join(_TRACE_LEVELS)}")
        return
    if len(value) > 1:
        raise _wrong(key, "one value")
    if key == "trace_file":
        raise RpcError(Status.UNIMPLEMENTED, _TRACE_FILE_IS_FIXED)
    if key == "trace_mode":
        if value[0] != "triton":
            raise _wrong(key, "triton")
        return
    text = value[0]
    digits = text.removeprefix("-")
    fits = digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS
    if not fits or int(text) < _LEAST[key]:
        raise _wrong(key, f"a whole number of {_LEAST[key]} or more")
