"""Classification: the largest values of an output, with their places and labels, as text.

A client that asks for ``classification: 3`` gets, instead of the tensor, three strings
``value:index`` or ``value:index:label``, largest first; so many for each row of a batch.
Labels come from the file that the Triton configuration names as ``label_filename``, one a line.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from legato.core.types import OutputHeader
from legato.protocols.kserve.datatypes import element_count, encode_strings, wire_name
from legato.protocols.kserve.describe import is_batched
from legato.protocols.rpc.service import RpcError, Status

if TYPE_CHECKING:
    from legato.core.types import Array
    from legato.protocols.kserve.ports import ServedModel


class Classes:
    """How one output of a model is told as classes.

    Args:
        count: How many.
        labels: Name of each class; classes beyond them have none.
        batched: The response has the batch dimension in front.
    """

    def __init__(self, count: int, labels: tuple[str, ...] = (), *, batched: bool = True) -> None:
        self.count = count
        self.labels = labels
        self.batched = batched

    @classmethod
    def of(cls, model: ServedModel, output: str, count: int) -> Classes:
        """Return the classes of a model's output."""
        labels: tuple[str, ...] = ()
        for entry in (getattr(model.config, "origin", None) or {}).get("output", []):
            if entry.get("name") == output and entry.get("label_filename"):
                labels = _labels(model.config.folder, entry["label_filename"])
        return cls(count, labels, batched=is_batched(model))

    def write(self, header: OutputHeader, data: bytes) -> tuple[OutputHeader, bytes]:
        """Return the output as text.

        Raises:
            RpcError: Its values cannot be compared.
        """
        if header.dtype in ("object", "bool", "bfloat16"):
            raise RpcError(
                Status.INVALID_ARGUMENT,
                f"class result not available for output '{header.name}' due to unsupported type "
                f"'{wire_name(header.dtype)}'",
            )
        split = 1 if self.batched and len(header.shape) > 1 else 0
        rows = element_count(header.shape[:split])
        values = np.frombuffer(data, header.dtype)
        values = values.reshape(rows, element_count(header.shape[split:]))
        texts = [self._text(row[at].item(), at) for row in values for at in self._best(row)]
        best = min(self.count, values.shape[1])
        shape = (rows, best) if self.batched else (best,)
        return OutputHeader(header.name, "object", shape), encode_strings(texts)

    def _best(self, row: Array) -> list[int]:
        order = np.argsort(-row.astype(np.float64), kind="stable")
        return cast("list[int]", order[: self.count].tolist())

    def _text(self, value: object, at: int) -> bytes:
        text = f"{value:f}:{at}" if isinstance(value, float) else f"{value}:{at}"
        if at < len(self.labels):
            text += f":{self.labels[at]}"
        return text.encode()


def _labels(version: Path, name: str) -> tuple[str, ...]:
    """Read a label file: it lies beside the configuration, above the version's folder."""
    wanted = Path(name)
    try:
        if wanted.is_absolute() or ".." in wanted.parts:  # a client may have given the config
            raise PermissionError(0, "it lies outside of the model's folder")
        path = version.parent / wanted
        return _read_labels(path, path.stat().st_mtime_ns)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise RpcError(
            Status.INTERNAL, f"the label file '{name[:80]}' cannot be read: {why}"
        ) from None


@lru_cache(maxsize=64)
def _read_labels(path: Path, _changed: int) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines())
