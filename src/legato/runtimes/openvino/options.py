"""``options`` of an OpenVINO model: OpenVINO Model Server's per-model keys. Pure.

They mean what they mean there, as far as that makes sense for a server that batches
rows by itself: ``shape`` and ``batch_size`` say what *one request* carries.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from legato.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from legato.repository.config import ModelConfig

Size = int | tuple[int, int]
"""One dimension: a number, -1 for any, or a range with its end."""
Shape = tuple[Size, ...] | None
"""Sizes of an input; ``None`` is ``auto``: leave every dimension open."""
Value = str | bool | int | float

MOST_REQUESTS = 100_000
_LAYOUT = re.compile(r"(?:[A-Z?]|\.\.\.)+(?::(?:[A-Z?]|\.\.\.)+)?")
_LOWEST_PRECISION = {"bf16": 2e-2, "f16": 2e-2}
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Layout:
    """Meaning of the axes: as clients send a tensor, and as the model has it."""

    tensor: str
    model: str


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options.

    Attributes:
        low_latency: Turn loops of one iteration into variables (LowLatency2).
        const_initializer: These variables begin with zeros; otherwise with what the
            inputs of the loop's initial states bring at a sequence's first step.
        stateful: Serve with sequences even if the model carries nothing.
        plugin_config: Properties of the device plugin.
        target_device: Device to compile for.
        nireq: Infer requests that the user asked for. Checked and not used: one request
            runs a whole batch; ``instances`` gives more copies of a model.
        shapes: Input name to shape; "" stands for the only input.
        batch_size: Rows of *one request*; 0 = as the model has it.
        layouts: Input or output name to layout; "" stands for the only input.
        extension: Library with further operations.
        renamed_inputs, renamed_outputs: Tensor name to the name that clients use.
    """

    low_latency: bool = False
    const_initializer: bool = True
    stateful: bool = False
    plugin_config: Mapping[str, Value] = field(default_factory=dict)
    target_device: str = "CPU"
    nireq: int = 0
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    batch_size: Size = 0
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    extension: str = ""
    renamed_inputs: Mapping[str, str] = field(default_factory=dict)
    renamed_outputs: Mapping[str, str] = field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        """Largest relative difference that the precision asked for explains."""
        asked = str(self.plugin_config.get("INFERENCE_PRECISION_HINT", "f32")).lower()
        return _LOWEST_PRECISION.get(asked, _TOLERANCE)

    def properties(self, threads: int) -> dict[str, Value]:
        """Return what to compile with: our defaults under the user's own properties.

        The default precision is f32: the plugin's own choice is bf16 where the
        processor has it, which moves answers in the third digit. One stream, as a batch
        is one call; threads are not pinned, as other work shares the cores.
        """
        chosen: dict[str, Value] = {"INFERENCE_PRECISION_HINT": "f32"}
        if self.target_device == "CPU":
            chosen["ENABLE_CPU_PINNING"] = False
            if threads:
                chosen["INFERENCE_NUM_THREADS"] = threads
            if "PERFORMANCE_HINT" not in self.plugin_config:
                chosen["NUM_STREAMS"] = 1
        return {**chosen, **self.plugin_config}


def read_options(config: ModelConfig) -> Options:
    """Check the options of a config.

    Raises:
        ConfigError: A key is unknown or a value is wrong.
    """
    return _Reader(config).read()


class _Reader:
    """Reads one mapping of options; knows where it came from."""

    def __init__(self, config: ModelConfig) -> None:
        self._given = dict(config.options)
        self._where = str(config.file or config.folder)

    def read(self) -> Options:
        readers: dict[str, Callable[[str, Any], dict[str, Any]]] = {
            "low_latency_transformation": lambda k, v: {"low_latency": self._flag(k, v)},
            "use_const_initializer": lambda k, v: {"const_initializer": self._flag(k, v)},
            "stateful": lambda k, v: {"stateful": self._flag(k, v)},
            "plugin_config": lambda k, v: {"plugin_config": self._plugin(k, v)},
            "target_device": lambda k, v: {"target_device": self._text(k, v)},
            "nireq": lambda k, v: {"nireq": self._requests(k, v)},
            "shape": lambda k, v: {"shapes": self._shapes(k, v)},
            "batch_size": lambda k, v: {"batch_size": self._batch(k, v)},
            "layout": lambda k, v: {"layouts": self._layouts(k, v)},
            "cpu_extension": lambda k, v: {"extension": self._text(k, v)},
            "mapping": self._mapping,
        }
        values: dict[str, Any] = {}
        for key, value in self._given.items():
            if key not in readers:
                near = difflib.get_close_matches(key, readers, n=1)
                fix = f"did you mean '{near[0]}'?" if near else f"use {', '.join(readers)}"
                raise self._wrong(key, "is no option of the OpenVINO runtime", fix)
            values |= readers[key](key, value)
        if values.get("shapes"):
            values.pop("batch_size", None)  # as in OpenVINO Model Server, the shape wins
        return Options(**values)

    def _wrong(self, key: str, problem: str, fix: str = "") -> ConfigError:
        return ConfigError(problem, file=self._where, key=f"options.{key}", fix=fix)

    def _flag(self, key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise self._wrong(key, f"must be true or false, not {value!r}")
        return value

    def _text(self, key: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._wrong(key, f"must be text, not {value!r}")
        return value

    def _requests(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_REQUESTS:
            raise self._wrong(key, f"must be a number from 0 to {MOST_REQUESTS}, not {value!r}")
        return value

    def _plugin(self, key: str, value: Any) -> dict[str, Value]:
        if not isinstance(value, dict):
            raise self._wrong(key, f"must be a mapping of properties, not {value!r}")
        for name, setting in value.items():
            if not isinstance(setting, str | bool | int | float):
                raise self._wrong(f"{key}.{name}", "must be text, a number, true or false")
        return {str(name): setting for name, setting in value.items()}

    def _shapes(self, key: str, value: Any) -> dict[str, Shape]:
        if isinstance(value, dict):
            return {str(n): self._shape(f"{key}.{n}", shape) for n, shape in value.items()}
        return {"": self._shape(key, value)}

    def _shape(self, key: str, value: Any) -> Shape:
        if isinstance(value, str):
            text = value.strip()
            if text.lower() == "auto":
                return None
            value = [part for part in text.strip("()[]").split(",") if part.strip()]
        if not isinstance(value, list | tuple):
            raise self._wrong(key, f"is no shape: {value!r}", "write it as '(1,3,-1)'")
        return tuple(self._size(key, part) for part in value)

    def _size(self, key: str, value: Any) -> Size:
        """Read one dimension: ``3``, ``-1`` or ``1:8``."""
        text = str(value).strip()
        low, colon, high = text.partition(":")
        try:
            first = int(low)
            last = int(high) if colon else first
        except ValueError:
            first, last = -2, -2
        if isinstance(value, bool) or first < (1 if colon else -1) or (colon and last < first):
            raise self._wrong(
                key, f"'{text}' is no dimension", "use a number, -1 for any size, or a range 1:8"
            )
        return (first, last) if colon else first

    def _batch(self, key: str, value: Any) -> Size:
        if isinstance(value, str) and value.strip().lower() == "auto":
            return -1
        return self._size(key, value)

    def _layouts(self, key: str, value: Any) -> dict[str, Layout]:
        if isinstance(value, dict):
            return {str(n): self._layout(f"{key}.{n}", text) for n, text in value.items()}
        return {"": self._layout(key, value)}

    def _layout(self, key: str, value: Any) -> Layout:
        text = value.strip().upper() if isinstance(value, str) else ""
        if not _LAYOUT.fullmatch(text):
            raise self._wrong(key, f"is no layout: {value!r}", "write NCHW, N... or NHWC:NCHW")
        tensor, _, model = text.partition(":")
        return Layout(tensor, model or tensor)

    def _mapping(self, key: str, value: Any) -> dict[str, Any]:
        """Read public names: what OpenVINO Model Server keeps in ``mapping_config.json``."""
        if not isinstance(value, dict) or not set(value) <= {"inputs", "outputs"}:
            raise self._wrong(key, "must have the keys 'inputs' and 'outputs' only")
        for side, names in value.items():
            if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
                raise self._wrong(f"{key}.{side}", "must map names of tensors to names")
        return {
            "renamed_inputs": dict(value.get("inputs", {})),
            "renamed_outputs": dict(value.get("outputs", {})),
        }
