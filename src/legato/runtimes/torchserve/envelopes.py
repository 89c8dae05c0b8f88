"""``ts.torch_handler.request_envelope``: what stands between a wire's JSON and a handler.

An envelope takes the rows of a batch apart and puts the answers together again. Where
TorchServe's look at the first row of a batch only, these look at each.
"""

from __future__ import annotations

import base64
import itertools
import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from legato.runtimes.torchserve.context import Context

__all__ = [
    "NAMES", "BaseEnvelope", "BodyEnvelope", "JSONEnvelope", "KServeEnvelope", "KServev2Envelope",
]  # fmt: skip

_B64: Final = "b64"
_BITS: Final = (8, 16, 32, 64)
_KINDS: Final = {
    "bool": "BOOL",
    **{f"int{bits}": f"INT{bits}" for bits in _BITS},
    **{f"uint{bits}": f"UINT{bits}" for bits in _BITS},
    **{f"float{bits}": f"FP{bits}" for bits in _BITS[1:]},
}


class BaseEnvelope(ABC):
    """Wraps a handler.

    Args:
        handle_fn: Takes data and context.
    """

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Context) -> Any:
        """Call the handler with what is in the envelopes, and put its answers into others."""
        self.context = context
        if data:
            data = self.parse_input(data)
        results = self._handle_fn(data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: Any) -> Any:
        """Take the rows of a batch apart."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """Put the answers together."""


def _inside(row: Any) -> Any:
    """Return what a row holds under one of the two usual names."""
    return row.get("data") or row.get("body") if isinstance(row, dict) else row


def _object(value: Any) -> dict[str, Any]:
    """Read JSON that came as bytes.

    Raises:
        TypeError: It is no object.
    """
    if isinstance(value, bytes | bytearray | str):
        value = json.loads(value)
    if not isinstance(value, dict):
        raise TypeError(f"the body must be a JSON object, not {type(value).__name__}")
    return value


def _shared_out(data: Any, lengths: list[int]) -> list[list[Any]]:
    """Give each row its share of the answers.

    Raises:
        ValueError: There are more or fewer of them than questions.
    """
    if len(lengths) == 1:
        return [data]
    if len(data) != sum(lengths):
        raise ValueError(f"the handler gave {len(data)} answers to {sum(lengths)} inputs")
    answers = iter(data)
    return [list(itertools.islice(answers, length)) for length in lengths]


class BodyEnvelope(BaseEnvelope):
    """Gives the handler the bodies."""

    def parse_input(self, data: Any) -> list[Any]:
        """Return the body of each row."""
        return [_inside(row) for row in data]

    def format_output(self, data: Any) -> Any:
        """Leave the answers as they are."""
        return data


class JSONEnvelope(BaseEnvelope):
    """``{"instances": [...]}`` to ``{"predictions": [...]}``, as TensorFlow Serving has it."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Any) -> list[Any]:
        """Return the instances of all rows, one behind the other; base64 is decoded."""
        rows = [_object(_inside(row) or row)["instances"] for row in data]
        self._lengths = [len(row) for row in rows]
        return [_decoded(instance) for row in rows for instance in row]

    def format_output(self, data: Any) -> list[str]:
        """Return the predictions of each row as JSON."""
        return [json.dumps({"predictions": share}) for share in _shared_out(data, self._lengths)]


def _decoded(instance: Any) -> Any:
    if not isinstance(instance, dict):
        return instance
    if list(instance) == [_B64]:
        return base64.b64decode(instance[_B64])
    return {
        name: base64.b64decode(value[_B64])
        if isinstance(value, dict) and list(value) == [_B64]
        else value
        for name, value in instance.items()
    }


class KServeEnvelope(BaseEnvelope):
    """KServe's first protocol: instances to predictions, or to explanations."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Any) -> list[Any]:
        """Return the instances of all rows, one behind the other."""
        rows = [list(_object(_inside(row)).get("instances") or ()) for row in data]
        self._lengths = [len(row) for row in rows]
        return [instance for row in rows for instance in row]

    def format_output(self, data: Any) -> list[dict[str, Any]]:
        """Return the share of each row."""
        shares = _shared_out(data, self._lengths)
        return [{self._word(at): share} for at, share in enumerate(shares)]

    def _word(self, at: int) -> str:
        explained = self.context.get_request_header(at, "explain") == "True"
        return "explanations" if explained else "predictions"


class KServev2Envelope(BaseEnvelope):
    """KServe's second protocol: the handler gets the inputs, and gives one output for each."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._asked: list[dict[str, Any]] = []

    def parse_input(self, data: Any) -> list[dict[str, Any]]:
        """Return the inputs of all rows, their data in their shapes."""
        self._asked = [_object(_inside(row)) for row in data]
        inputs = [self._shaped(one) for row in self._asked for one in row["inputs"]]
        self.context.input_names = [one["name"] for one in inputs]
        return inputs

    @staticmethod
    def _shaped(tensor: dict[str, Any]) -> dict[str, Any]:
        data = tensor["data"]
        if tensor["datatype"] == "BYTES":
            shaped = data[0]
        else:
            shaped = np.array(data).reshape(tuple(tensor["shape"])).tolist()
        return {**tensor, "data": shaped}

    def format_output(self, data: Any) -> list[dict[str, Any]]:
        """Return one answer a row, with an output for each of its inputs."""
        about = (self.context.manifest or {}).get("model", {})
        shares = _shared_out(data, [len(row["inputs"]) for row in self._asked])
        answers = []
        for at, (asked, share) in enumerate(zip(self._asked, shares, strict=True)):
            given = str(asked.get("id") or "").strip()
            names = [one["name"] for one in asked["inputs"]]
            answers.append(
                {
                    "id": given or self.context.get_request_id(at),
                    "model_name": about.get("modelName"),
                    "model_version": about.get("modelVersion"),
                    "outputs": [
                        _output(name, item) for name, item in zip(names, share, strict=False)
                    ],
                }
            )
        return answers


def _output(name: str, item: Any) -> dict[str, Any]:
    flat = np.array(item).flatten()
    kind = _KINDS.get(str(flat.dtype), "BYTES")
    return {"name": name, "datatype": kind, "data": flat.tolist(), "shape": list(flat.shape)}


NAMES: Final[Mapping[str, Callable[[Callable[[Any, Any], Any]], BaseEnvelope]]] = {
    "body": BodyEnvelope,
    "json": JSONEnvelope,
    "kserve": KServeEnvelope,
    "kservev2": KServev2Envelope,
}
"""Envelopes by what ``service_envelope`` calls them."""
