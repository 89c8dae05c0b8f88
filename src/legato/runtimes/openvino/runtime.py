"""The OpenVINO runtimes: a batch of rows in one call, or a row through native variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import openvino as ov

from legato.core.errors import ModelError
from legato.runtimes.base import StepResult
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.openvino.graph import following
from legato.runtimes.openvino.reading import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.core.types import Array, CorrelationId, EndReason, Signature
    from legato.runtimes.base import StepBatch


class Ports(NamedTuple):
    """Names of a compiled model's inputs and outputs, by position."""

    inputs: Sequence[str]
    outputs: Sequence[str]


class OpenvinoRuntime:
    """A compiled model and one infer request; satisfies ``runtimes.base.Runtime``.

    Every state is an input and an output of the model.

    Args:
        compiled: The compiled model.
        ports: Names of its inputs and outputs.
        signature: What it takes, gives and carries.
        unbatched: States that have no batch axis in the model; rows carry one in front.
        findings: What was learnt on loading.
    """

    def __init__(
        self,
        compiled: Any,
        ports: Ports,
        signature: Signature,
        *,
        unbatched: frozenset[str] = frozenset(),
        findings: Findings | None = None,
    ) -> None:
        self.signature = signature
        self.findings = findings or Findings({})
        self._ports = ports
        self._unbatched = unbatched
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._infer = _bare_infer(self._request)
        self._places = {name: at for at, name in enumerate(ports.inputs)}
        made = {name: at for at, name in enumerate(ports.outputs)}
        self._outputs = [(spec.name, made[spec.name]) for spec in signature.outputs]
        self._next = [(s.name, made[s.output]) for s in signature.states if s.output in made]
        self._inputs_of_states = [(s.name, s.input) for s in signature.states]
        self._input_of = dict(self._inputs_of_states)
        # States that no graph knows: a sequence is kept although it carries nothing.
        self._kept = [
            s.name for s in signature.states if s.output is None and s.input not in self._places
        ]

    def step(self, batch: StepBatch) -> StepResult:
        """Run the model once; see :meth:`legato.runtimes.base.Runtime.step`.

        Raises:
            ModelError: The model refused or failed, in one line.
        """
        feed = dict(batch.inputs)
        for name, input_name in self._inputs_of_states:
            if name in batch.state:
                value = batch.state[name]
                feed[input_name] = value[0] if name in self._unbatched else value
        values = self._run(feed, start=batch.rows[0].start)
        following = {name: values[at] for name, at in self._next}
        for name in self._unbatched & following.keys():
            following[name] = following[name][np.newaxis]
        for name in self._kept:
            following[name] = batch.state[name]
        return StepResult({name: values[at] for name, at in self._outputs}, following)

    def _run(self, feed: Mapping[str, Array], *, start: bool) -> list[Array]:  # noqa: ARG002
        """Run one call.

        Args:
            feed: Inputs and states by the model's names; more may be there.
            start: The first row begins its sequence.

        Returns:
            Outputs by position; they may be views that the next call changes.
        """
        tensors = {}
        for name, at in self._places.items():
            value = feed.get(name)
            if value is None:
                msg = f"the model needs a value of '{name}'"
                raise ModelError(msg)
            tensors[at] = _tensor(value)
        try:
            return self._infer(tensors)
        except Exception as error:
            msg = f"the model failed: {first_line(error)}"
            raise ModelError(msg) from error

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Nothing to do: a request keeps nothing of a sequence."""

    def close(self) -> None:
        """Free the model."""
        self._infer = _closed
        self._request = self._compiled = None

    def __repr__(self) -> str:
        signature = self.signature
        return (
            f"<{type(self).__name__} inputs={len(signature.inputs)} "
            f"outputs={len(signature.outputs)} states={len(signature.states)} "
            f"batching={signature.batching}>"
        )


class NativeRuntime(OpenvinoRuntime):
    """A model that keeps its variables: one row a call, its state set before and read after.

    For models that cannot share calls, and as the yardstick of the gate. Variables are
    told apart by name: the order in which a request lists them means nothing.

    A row that begins is not set but reset, so that the model computes its first value by
    its own means.
    """

    def _run(self, feed: Mapping[str, Array], *, start: bool) -> list[Array]:
        variables = {state.name: state for state in self._request.query_state()}
        if start:
            self._request.reset_state()
        else:
            for name, variable in variables.items():
                _set(variable, feed[self._input_of[name]])
        values = super()._run(feed, start=start)
        # The request reuses this memory: what it holds is copied.
        read = {following(name): np.array(each.state.data) for name, each in variables.items()}
        return values + [read[name] for name in self._ports.outputs[len(values) :]]


def _set(variable: Any, value: Array) -> None:
    try:
        variable.state = ov.Tensor(np.array(value))
    except Exception as error:
        msg = f"the model refused its state '{variable.name}': {first_line(error)}"
        raise ModelError(msg) from error


def _tensor(value: Array) -> Any:
    """Wrap an array; one copy where OpenVINO could not use its memory as it is."""
    flags = value.flags
    if not (flags["WRITEABLE"] and flags["C_CONTIGUOUS"]):
        value = np.array(value, order="C")
    return ov.Tensor(value, shared_memory=True)


def _bare_infer(request: Any) -> Callable[[dict[int, Any]], list[Array]]:
    """Return a call that gives outputs by position, as views.

    The request's own method spends as long on telling kinds of arguments apart as a tiny
    model takes (20 against 12 us); its base class is called where it is what it has been
    since 2023.1.
    """
    inner = getattr(super(type(request), request), "infer", None)
    if inner is None:

        def public(tensors: dict[int, Any]) -> list[Array]:
            given = request.infer(tensors, share_inputs=True, share_outputs=True)
            return list(given.values())

        return public

    def bare(tensors: dict[int, Any]) -> list[Array]:
        return list(inner(tensors, share_outputs=True, decode_strings=False).values())

    return bare


def _closed(_tensors: dict[int, Any]) -> list[Array]:
    msg = "the model is closed"
    raise RuntimeError(msg)
