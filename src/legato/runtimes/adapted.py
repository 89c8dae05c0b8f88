"""What a config asks of any runtime: that clients see other shapes than the model has.

They are the same values in the same order. A runtime that needs none of it is handed
through as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from legato.core.errors import SignatureError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.core.types import Array, CorrelationId, EndReason
    from legato.repository.config import InputConfig, ModelConfig, OutputConfig
    from legato.runtimes.base import Runtime, StepBatch, StepResult


def adapted(config: ModelConfig, runtime: Runtime) -> Runtime:
    """Return the runtime, behind what the config asks for."""
    tensors: list[InputConfig | OutputConfig] = [*config.inputs.values(), *config.outputs.values()]
    if all(tensor.reshape is None for tensor in tensors):
        return runtime
    return _Reshaped(config, runtime)


class _Reshaped:
    """Clients see other shapes than the model; see :class:`legato.runtimes.base.Runtime`."""

    def __init__(self, config: ModelConfig, inner: Runtime) -> None:
        self._config = config
        self._inner = inner
        self.findings = getattr(inner, "findings", None)
        if hasattr(inner, "connect"):
            self.connect: Callable[[Any], None] = inner.connect
        if hasattr(inner, "measured"):
            self.measured: Callable[[], list[Any]] = inner.measured
        if hasattr(inner, "clone"):  # only then may the engine ask for one
            self.clone: Callable[[], Runtime] = self._clone
        self._inputs = _shapes(config.inputs)
        self._outputs = _shapes(config.outputs)
        theirs = {**self._inputs, **self._outputs}
        self.signature = replace(
            inner.signature,
            inputs=tuple(
                replace(spec, shape=theirs.get(spec.name, (spec.shape,))[0])
                for spec in inner.signature.inputs
            ),
            outputs=tuple(
                replace(spec, shape=theirs.get(spec.name, (spec.shape,))[0])
                for spec in inner.signature.outputs
            ),
        )

    def _clone(self) -> Runtime:
        inner: Runtime = self._inner.clone()  # type: ignore[attr-defined]
        return _Reshaped(self._config, inner)

    def step(self, batch: StepBatch) -> StepResult:
        inputs = dict(batch.inputs)
        for name, (shape, own) in self._inputs.items():
            if name in inputs:
                inputs[name] = _reshaped(name, inputs[name], shape, own)
        result = self._inner.step(replace(batch, inputs=inputs))
        outputs = dict(result.outputs)
        for name, (shape, own) in self._outputs.items():
            if name in outputs:
                outputs[name] = _reshaped(name, outputs[name], own, shape)
        return replace(result, outputs=outputs)

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        self._inner.sequence_ended(correlation_id, reason)

    def close(self) -> None:
        self._inner.close()


Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def _shapes(tensors: Mapping[str, InputConfig] | Mapping[str, OutputConfig]) -> Shapes:
    """Row shape that clients see, and the model's own, of each tensor that has two."""
    return {
        name: (tuple(each.shape or ()), tuple(each.reshape))
        for name, each in tensors.items()
        if each.reshape is not None
    }


def _reshaped(name: str, value: Array, shape: Sequence[int], target: Sequence[int]) -> Array:
    """Give a batch another row shape; the sizes that vary keep their order.

    Raises:
        SignatureError: It does not have the shape that it should.
    """
    sizes = [size for want, size in zip(shape, value.shape, strict=False) if want == -1]
    left = iter(sizes)
    made = [next(left, -1) if want == -1 else want for want in target]
    if made and len(value.shape) == len(shape) and shape[0] == 1 == target[0]:
        made[0] = value.shape[0]  # rows, side by side
    try:
        return value.reshape(made)
    except ValueError:
        msg = f"'{name}' has shape {list(value.shape)}, which does not fit {list(target)}"
        raise SignatureError(msg) from None
