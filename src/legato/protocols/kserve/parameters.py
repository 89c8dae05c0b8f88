"""Request parameters: which ones mean something, and what.

The same rules serve gRPC and REST; a value is a bool, int, float or str by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from legato.core.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from legato.core.types import Step

Value = bool | int | float | str

_UINT64 = 2**64
_INT64_MAX = 2**63 - 1
_LEVELS = ("process", "disk")
_LONGEST_IDLE_S = 1e10


class Setting(NamedTuple):
    """What a parameter does to a step.

    Attributes:
        attribute: Attribute of :class:`~legato.core.types.Step` to set; "" = the
            parameter is the user's own, ``None`` = it changes nothing here.
        value: Value of the attribute, or ``(key, value)`` of the user's parameter.
    """

    attribute: str | None
    value: Any


NOTHING = Setting(None, None)


def _wrong_type(key: str, expected: str) -> ClientError:
    return ClientError(f"invalid value type for '{key}' parameter, expected {expected}.")


def _integer(key: str, value: Value, expected: str = "int64_param") -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong_type(key, expected)
    return value


def _count(key: str, value: Value) -> int:
    number = _integer(key, value)
    if number < 0:
        raise ClientError(f"invalid value for '{key}' parameter, expected 0 or more, got {number}")
    if number > _INT64_MAX:
        raise ClientError(f"invalid value for '{key}' parameter, expected at most 2^63 - 1")
    return number


def _flag(attribute: str) -> Callable[[str, Value], Setting]:
    def read(key: str, value: Value) -> Setting:
        if not isinstance(value, bool):
            raise _wrong_type(key, "bool_param")
        return Setting(attribute, value)

    return read


def _sequence_id(key: str, value: Value) -> Setting:
    if isinstance(value, str):
        return Setting("correlation_id", value or None)
    number = _integer(key, value, "int64_param or string_param")
    if not -(2**63) <= number < _UINT64:
        raise ClientError(f"invalid value for '{key}' parameter: {number} has more than 64 bits")
    return Setting("correlation_id", number % _UINT64 or None)


def _step(key: str, value: Value) -> Setting:
    return Setting("number", _count(key, value))


def _acknowledged(key: str, value: Value) -> Setting:
    return Setting("acknowledged", _count(key, value))


def _incarnation(key: str, value: Value) -> Setting:
    if not isinstance(value, str):
        raise _wrong_type(key, "string_param")
    try:
        return Setting("incarnation", bytes.fromhex(value))
    except ValueError:
        raise ClientError(
            f"invalid value for '{key}' parameter, expected hexadecimal digits"
        ) from None


def _priority(key: str, value: Value) -> Setting:
    number = _integer(key, value, "int64_param or uint64_param")
    if number < 0:
        raise ClientError(f"invalid value for '{key}' parameter, expected 0 or more, got {number}")
    return Setting("priority", number)


def _timeout(key: str, value: Value) -> Setting:
    return Setting("queue_timeout_s", _count(key, value) / 1e6)


def _durability(key: str, value: Value) -> Setting:
    if not isinstance(value, str):
        raise _wrong_type(key, "string_param")
    if value not in _LEVELS:
        raise ClientError(f"invalid value for '{key}' parameter, expected 'process' or 'disk'")
    return Setting("level", value)


def _idle_timeout(key: str, value: Value) -> Setting:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(key, "int64_param or double_param")
    if not 0 <= value < _LONGEST_IDLE_S:
        raise ClientError(f"invalid value for '{key}' parameter, expected seconds, got {value}")
    return Setting("ttl_s", float(value))


def _ignored(_key: str, _value: Value) -> Setting:
    return NOTHING


_KNOWN: dict[str, Callable[[str, Value], Setting]] = {
    "sequence_id": _sequence_id,
    "sequence_start": _flag("start"),
    "sequence_end": _flag("end"),
    "sequence_step": _step,
    "sequence_restart": _flag("restart"),
    "sequence_acknowledged": _acknowledged,
    "sequence_incarnation": _incarnation,
    "sequence_durability": _durability,
    "sequence_idle_timeout_s": _idle_timeout,
    "priority": _priority,
    "timeout": _timeout,
    "triton_enable_empty_final_response": _flag("empty_final"),
    "headers": _ignored,
    "binary_data_output": _ignored,  # read by the REST converter
}


def interpret(key: str, value: Value) -> Setting:
    """Return what a request parameter means.

    Raises:
        ClientError: Its value has the wrong type or range, or its name is reserved.
    """
    reader = _KNOWN.get(key)
    if reader is not None:
        return reader(key, value)
    if key.startswith("triton_"):
        raise ClientError(
            f"parameter keys starting with 'triton_' are reserved for Triton usage and should "
            f"not be specified: '{key[:80]}' is not supported"
        )
    return Setting("", (key, value))


def apply(setting: Setting, step: Step) -> None:
    """Do to ``step`` what a parameter asks for."""
    attribute, value = setting
    if attribute:
        setattr(step, attribute, value)
    elif attribute is not None:
        add_parameter(step, *value)


def add_parameter(step: Step, key: str, value: Value) -> None:
    """Hand a parameter of the user's own on with the step."""
    mine = step.parameters
    if isinstance(mine, dict):
        mine[key] = value
    else:  # still the shared empty mapping
        step.parameters = {key: value}


def apply_step_header(text: str | None, step: Step) -> None:
    """Read the header ``legato-step``, which says the same as ``sequence_step``.

    Raises:
        ClientError: It is no step number, or contradicts the parameter.
    """
    if text is None:
        return
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ClientError(f"the header legato-step must be a step number, got '{text[:40]}'")
    number = int(text)
    if step.number and number and step.number != number:
        raise ClientError(
            f"the header legato-step says {number}, the parameter sequence_step {step.number}"
        )
    step.number = step.number or number
