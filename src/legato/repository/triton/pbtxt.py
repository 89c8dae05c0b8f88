"""``config.pbtxt``: protobuf text, and JSON where a client overrides it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import FieldDescriptor

from legato.core.errors import ConfigError
from legato.repository.triton.gen import model_config_pb2 as pb

if TYPE_CHECKING:
    from pathlib import Path

_OLD_NAME = re.compile(r"\bgenerative_sequence(?=\s*:)")
"""What ``iterative_sequence`` was called in 23.11."""


def read_config(path: Path) -> pb.ModelConfig:
    """Read a config file.

    Raises:
        ConfigError: It cannot be read, or holds what no ModelConfig has.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=str(path)) from None
    try:
        return text_format.Parse(_OLD_NAME.sub("iterative_sequence", text), pb.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(
            f"failed to read text proto: {_ours_hidden(error)}",
            file=str(path),
            fix="correct that line: it is protobuf text of Triton's ModelConfig",
        ) from None


def parse_json(text: str) -> pb.ModelConfig:
    """Read a config that a client gave.

    Raises:
        ConfigError: It is no JSON of a ModelConfig.
    """
    try:
        return json_format.Parse(text.replace('"generative_sequence"', '"iterative_sequence"'),
                                 pb.ModelConfig())  # fmt: skip
    except json_format.ParseError as error:
        raise ConfigError(
            f"failed to parse the 'config' override: {_ours_hidden(error)}",
            key="config",
            fix="give the JSON of Triton's ModelConfig",
        ) from None


def as_dict(config: pb.ModelConfig) -> dict[str, Any]:
    """Return a config as JSON values, names in snake_case."""
    made: dict[str, Any] = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _numbers(made, config.DESCRIPTOR)
    return made


_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def _numbers(values: dict[str, Any], kind: Any) -> None:
    """Write long numbers as numbers: protobuf's JSON has them as text, Triton's has not."""
    for field in kind.fields:
        value = values.get(field.name)
        if field.message_type is not None:
            _numbers_inside(value, field)
        elif field.cpp_type in _LONG and value is not None:
            values[field.name] = [*map(int, value)] if isinstance(value, list) else int(value)


def _numbers_inside(value: Any, field: Any) -> None:
    inner = field.message_type
    if inner.GetOptions().map_entry:
        inner = inner.fields_by_name["value"].message_type
        value = list(value.values()) if value and inner is not None else None
    for each in value if isinstance(value, list) else [value] if value else []:
        _numbers(each, inner)


def _ours_hidden(error: Exception) -> str:
    return str(error).replace("legato.kserve.", "")
