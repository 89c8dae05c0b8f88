"""``options`` of a PyTorch model. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from legato.core.errors import ConfigError, join_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.repository.config import ModelConfig

_KEYS = ("device", "submodule", "arguments", "resident")


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options.

    Attributes:
        device: Where the model runs, in PyTorch's words: ``cpu``, ``cuda``, ``cuda:1``.
        submodule: Serve this part of a TorchScript module instead of the whole.
        arguments: Keyword arguments of the user's class.
        resident: Keep states on the device from one step to the next.
    """

    device: str = "cpu"
    submodule: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    resident: bool = False


def read_options(config: ModelConfig) -> Options:
    """Check the options of a config.

    Raises:
        ConfigError: A key is unknown or a value is wrong.
    """
    where = str(config.file or config.folder)
    for key in config.options:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            fix = f"did you mean '{near[0]}'?" if near else f"use {join_names(_KEYS)}"
            raise ConfigError(
                "is not an option of PyTorch models", file=where, key=f"options.{key}", fix=fix
            )
    device = _text(config, where, "device") or "cpu"
    return Options(
        device=device,
        submodule=_submodule(config, where),
        arguments=_arguments(config, where),
        resident=_flag(config, where, "resident", default=not device.startswith("cpu")),
    )


def _text(config: ModelConfig, where: str, key: str) -> str:
    value = config.options.get(key, "")
    if not isinstance(value, str):
        raise ConfigError(f"must be text, not {value!r}", file=where, key=f"options.{key}")
    return value


def _flag(config: ModelConfig, where: str, key: str, *, default: bool) -> bool:
    value = config.options.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"must be true or false, not {value!r}", file=where, key=f"options.{key}")
    return value


def _submodule(config: ModelConfig, where: str) -> str:
    value = _text(config, where, "submodule")
    if value and config.entry is not None:
        raise ConfigError(
            "is for TorchScript files",
            file=where,
            key="options.submodule",
            fix="remove it, and let 'entry' name the class to serve",
        )
    return value


def _arguments(config: ModelConfig, where: str) -> Mapping[str, Any]:
    value = config.options.get("arguments", {})
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ConfigError(
            f"must be keyword arguments, not {value!r}",
            file=where,
            key="options.arguments",
            fix="write them as 'arguments: {hidden: 64}'",
        )
    if value and config.entry is None:
        raise ConfigError(
            "are for a class",
            file=where,
            key="options.arguments",
            fix="remove them, or add 'entry'",
        )
    return value
