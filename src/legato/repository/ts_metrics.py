"""TorchServe's metrics file (``metrics_config``): which metrics of handlers are declared. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS: Final = ("counter", "gauge", "histogram")
_SECTION: Final = "model_metrics"
_FIX: Final = "give each a 'name', a 'unit' and a list of 'dimensions', under one of " + ", ".join(
    KINDS
)


class Declared(NamedTuple):
    """A metric that handlers may update by its name.

    Attributes:
        kind: ``counter``, ``gauge`` or ``histogram``.
        name: As handlers call it.
        unit: As handlers write it.
        dimensions: Names of its labels.
    """

    kind: str
    name: str
    unit: str
    dimensions: list[str]


ALWAYS: Final = (
    Declared("gauge", "HandlerTime", "ms", ["ModelName", "Level"]),
    Declared("gauge", "PredictionTime", "ms", ["ModelName", "Level"]),
)
"""What is declared where no file is."""


def declared_in(path: Path) -> list[Declared]:
    """Read a metrics file.

    Raises:
        ConfigError: It is missing or is no such file.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"cannot be read: {error}", file=str(path), key="metrics_config"
        ) from None
    if not isinstance(found, dict):
        raise ConfigError("is not a mapping", file=str(path), key="metrics_config")
    return list(_declared(found.get(_SECTION) or {}, str(path)))


def _declared(section: Any, file: str) -> Iterator[Declared]:
    if not isinstance(section, dict) or not set(section) <= set(KINDS):
        raise ConfigError("has other keys than the three kinds", file=file, key=_SECTION, fix=_FIX)
    for kind, entries in section.items():
        for entry in entries or ():
            try:
                name, dimensions = str(entry["name"]), list(map(str, entry["dimensions"]))
                yield Declared(kind, name, str(entry["unit"]), dimensions)
            except (KeyError, TypeError):
                raise ConfigError(
                    f"holds {entry!r}", file=file, key=f"{_SECTION}.{kind}", fix=_FIX
                ) from None
