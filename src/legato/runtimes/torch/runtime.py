"""The PyTorch runtime: one row by a plain call, several by the form that the gate passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from legato.core.errors import ModelError, ServerError
from legato.runtimes.base import StepResult
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.python.loading import forget
from legato.runtimes.torch.program import REQUIRED, reason, to_arrays
from legato.runtimes.torch.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from legato.core.types import Array, CorrelationId, EndReason, Signature, StateRow
    from legato.runtimes.base import StepBatch
    from legato.runtimes.torch.program import Argument, Call, Program


@dataclass(frozen=True, slots=True)
class Form:
    """How several rows are run.

    Attributes:
        mode: ``native``: the graph takes them side by side; ``vmap``: PyTorch runs it for
            every row at once; ``alone``: they do not share a call.
        call: What is run.
        places: ``native``: axis of each lifted value that holds the rows; ``None`` = a new
            one in front; -1 and -2: a number becomes a column of that many axes more.
    """

    mode: Literal["alone", "native", "vmap"]
    call: Call
    places: tuple[int | None, ...] = ()


class Naming(NamedTuple):
    """Names of a program's tensors, by position, and those that got an axis for rows.

    Attributes:
        arguments: Input names.
        outputs: Output names.
        lifted: Inputs that stand for lifted values.
        following: Outputs that stand for their next values.
        added: Names of tensors that have no axis for rows in the model.
    """

    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    lifted: tuple[str, ...]
    following: tuple[str, ...]
    added: frozenset[str]


class _Feed(NamedTuple):
    """Where an argument's value comes from, and how its rows lie."""

    argument: Argument
    name: str
    state: bool
    axis: int | None
    added: bool


class _Out(NamedTuple):
    """Where a result goes, and how its rows lie; ``also``: a state that clients may read."""

    name: str
    state: bool
    axis: int | None
    added: bool
    also: str = ""


class TorchRuntime:
    """A PyTorch model as a function; satisfies ``runtimes.base.Runtime``.

    Args:
        program: The model.
        naming: Names of its tensors.
        signature: What it takes, gives and carries.
        form: How several rows are run.
        device: Where it runs.
        threads: Threads inside a call, 0 = PyTorch's own choice.
        resident: Keep states on the device from one step to the next.
        package: Name under which the user's file was imported, "" for none.
        findings: What was learnt on loading.
    """

    def __init__(
        self,
        program: Program,
        naming: Naming,
        signature: Signature,
        form: Form,
        *,
        device: str = "cpu",
        threads: int = 1,
        resident: bool = False,
        package: str = "",
        findings: Findings | None = None,
    ) -> None:
        self._package = package
        self.resident = Resident(signature.states, device) if resident else None
        self._given: dict[str, Any] = {}
        self.signature = signature
        self.findings = findings or Findings({})
        self._program = program
        self._naming = naming
        self.form = form
        self._device = device
        self._threads = threads
        self._one: Call = program.call
        states = {state.input: state for state in signature.states}
        self._feeds = [
            _feed(signature, argument, name, naming.added)
            for argument, name in zip(program.arguments, naming.arguments, strict=True)
        ]
        self._lifted = [states[name].name for name in naming.lifted]
        self._outs = _outs(signature, naming)
        self._many = self._vmapped() if form.mode == "vmap" else form.call
        if program.shareable:
            self.clone = self._clone

    def step(self, batch: StepBatch) -> StepResult:
        """Run the model once; see :meth:`legato.runtimes.base.Runtime.step`.

        Raises:
            ModelError: The model refused or failed, in one line.
        """
        use_threads(self._threads)
        rows = len(batch.rows)
        with torch.inference_mode():
            states = self._states(batch)
            values = [self._value(feed, batch, states) for feed in self._feeds]
            lifted = [states[name] for name in self._lifted]
            try:
                run = self._alone if rows == 1 else self._together
                results = run(values, lifted)
            except ServerError:
                raise
            except Exception as error:
                msg = f"the model failed: {reason(error)}"
                raise ModelError(msg) from error
            wanted = [
                (out, value)
                for out, value in zip(self._outs, results, strict=True)
                if out is not None
            ]
            arrays = to_arrays([value for _, value in wanted])
            if batch.held:
                self._given = {out.name: value for out, value in wanted if out.state}
        outputs: dict[str, Array] = {}
        state: dict[str, Array] = {}
        for (out, _), array in zip(wanted, arrays, strict=True):
            (state if out.state else outputs)[out.name] = array
            if out.also:
                outputs[out.also] = array
        return StepResult(outputs, state, lasting=True)

    def keep(self, rows: Sequence[StateRow]) -> None:
        """Take note of the rows that the last call's states became; see ``runtimes.base``."""
        if self.resident is not None and self._given:
            self.resident.keep(self._given, rows)
        self._given = {}

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Nothing to do: a program keeps nothing of a sequence."""

    def close(self) -> None:
        """Free the model."""
        self._one = self._many = _closed
        forget(self._package)
        if self.resident is not None:
            self.resident.clear()

    def _clone(self) -> TorchRuntime:
        """Make another instance that runs the same weights."""
        return TorchRuntime(
            self._program,
            self._naming,
            self.signature,
            self.form,
            device=self._device,
            threads=self._threads,
            resident=self.resident is not None,
            findings=self.findings,
        )

    def __repr__(self) -> str:
        signature = self.signature
        return (
            f"<TorchRuntime {self.form.mode} inputs={len(signature.inputs)} "
            f"outputs={len(signature.outputs)} states={len(signature.states)}>"
        )

    # -- in -------------------------------------------------------------------------------

    def _states(self, batch: StepBatch) -> dict[str, Any]:
        """Return the states on the device: from the step before, or uploaded."""
        if not batch.held or self.resident is None:
            return {name: self._tensor(value) for name, value in batch.state.items()}
        gathered = self.resident.gather(batch.held)
        if self._program.pure:
            return gathered
        return {name: value.clone() for name, value in gathered.items()}

    def _value(self, feed: _Feed, batch: StepBatch, states: Mapping[str, Any]) -> Any:
        if feed.state:
            return states[feed.name]
        value = batch.inputs.get(feed.name)
        if value is None:
            if feed.argument.default is not REQUIRED:
                return feed.argument.default
            msg = f"the model needs a value of '{feed.name}'"
            raise ModelError(msg)
        if feed.argument.number is not None:
            return feed.argument.number(value.reshape(-1)[0].item())
        return self._tensor(value)

    def _tensor(self, value: Array) -> Any:
        # A copy: arrays of a batch are read-only, and modules may write into their buffers.
        return torch.from_numpy(np.array(value, order="C")).to(self._device)

    # -- run ------------------------------------------------------------------------------

    def _alone(self, values: Sequence[Any], lifted: Sequence[Any]) -> list[Any]:
        """Run one row as the model was written."""
        bare = [
            value[0] if feed.added else value
            for feed, value in zip(self._feeds, values, strict=True)
        ]
        outputs, following = self._one(bare, [value[0] for value in lifted])
        return [
            value.unsqueeze(0) if out is not None and out.added else value
            for out, value in zip(self._outs, [*outputs, *following], strict=True)
        ]

    def _together(self, values: Sequence[Any], lifted: Sequence[Any]) -> list[Any]:
        if self.form.mode == "vmap":
            return self._each(values, lifted)
        placed = [_placed(v, at) for v, at in zip(lifted, self._places(), strict=True)]
        outputs, following = self._many(values, placed)
        back = [_unplaced(v, at) for v, at in zip(following, self._places(), strict=True)]
        return [*outputs, *back]

    def _places(self) -> tuple[int | None, ...]:
        return self.form.places or (None,) * len(self._lifted)

    def _each(self, values: Sequence[Any], lifted: Sequence[Any]) -> list[Any]:
        """Run the model for every row: rows are an axis that it does not see."""
        rows = [
            value
            if feed.axis is None or feed.added or not isinstance(value, torch.Tensor)
            else value.unsqueeze(feed.axis + 1)
            for feed, value in zip(self._feeds, values, strict=True)
        ]
        results, _ = self._many(rows, lifted)
        return [
            value
            if out is None or out.added or out.axis is None
            else value.squeeze(out.axis + 1).movedim(0, out.axis)
            for out, value in zip(self._outs, results, strict=True)
        ]

    def _vmapped(self) -> Call:
        inner, count = self.form.call, len(self._feeds)
        axes = tuple(0 if feed.added else feed.axis for feed in self._feeds)
        whole = (*axes, *(0 for _ in self._lifted))

        def row(*tensors: Any) -> tuple[Any, ...]:
            outputs, following = inner(tensors[:count], tensors[count:])
            return (*outputs, *following)

        mapped = torch.vmap(row, in_dims=whole, out_dims=0, randomness="different")

        def call(values: Sequence[Any], lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            return list(mapped(*values, *lifted)), []

        return call


def _feed(signature: Signature, argument: Argument, name: str, added: frozenset[str]) -> _Feed:
    for state in signature.states:
        if state.input == name and state.rule.value != "window":
            return _Feed(argument, state.name, True, state.batch_axis, name in added)
    for spec in signature.inputs:
        if spec.name == name:
            return _Feed(argument, name, False, spec.batch_axis, name in added)
    return _Feed(argument, name, False, None, False)


def _outs(signature: Signature, naming: Naming) -> list[_Out | None]:
    """Say where each result goes; next values of lifted ones have rows in front."""
    states = {state.output: state for state in signature.states if state.output}
    served = {spec.name: spec for spec in signature.outputs}
    outs: list[_Out | None] = []
    for name in (*naming.outputs, *naming.following):
        if name in states:
            state = states[name]
            added = name in naming.added or name in naming.following
            also = name if name in served else ""
            outs.append(_Out(state.name, True, state.batch_axis, added, also))
        elif name in served:
            outs.append(_Out(name, False, served[name].batch_axis, name in naming.added))
        else:
            outs.append(None)
    return outs


def _placed(value: Any, at: int | None) -> Any:
    """Put the rows of a lifted value on the axis that the model has room for them."""
    if at is None:
        return value
    if at < 0:
        return value.reshape(-1, *(1,) * -at)
    return value.squeeze(at + 1).movedim(0, at)


def _unplaced(value: Any, at: int | None) -> Any:
    if at is None:
        return value
    if at < 0:
        return value.reshape(value.shape[:1]) if value[:1].numel() == 1 else value
    return value.movedim(at, 0).unsqueeze(at + 1)


def use_threads(count: int) -> None:
    """Let this thread's PyTorch calls use so many threads; 0 leaves it as it is.

    PyTorch keeps the number for each calling thread, so it is looked at before each call,
    which costs next to nothing.
    """
    if count and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def _closed(_values: Sequence[Any], _lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    msg = "the model is closed"
    raise RuntimeError(msg)
