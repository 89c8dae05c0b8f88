"""From a config to a runtime: read, take the state out, find the batch, compare."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from legato.core.errors import ConfigError
from legato.core.types import InputKind, StateSpec
from legato.repository.config import InputConfig, StateConfig
from legato.runtimes.discovery.axes import likely_axes
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.discovery.plan import make_plan
from legato.runtimes.discovery.signature import make_signature
from legato.runtimes.discovery.structure import read_structure
from legato.runtimes.gate import Verdict, check
from legato.runtimes.openvino.axes import possible_axes, with_batch
from legato.runtimes.openvino.graph import following, read_graph
from legato.runtimes.openvino.options import read_options
from legato.runtimes.openvino.reading import compile_model, first_line, open_core, read_model
from legato.runtimes.openvino.runtime import NativeRuntime, OpenvinoRuntime, Ports
from legato.runtimes.openvino.variables import expose, find_variables
from legato.runtimes.rehearsal import RehearsalError, find_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from legato.core.types import CorrelationId, EndReason, Signature
    from legato.repository.config import ModelConfig
    from legato.runtimes.base import StepBatch, StepResult
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.signature import Axes
    from legato.runtimes.openvino.graph import Opened
    from legato.runtimes.openvino.variables import Variable

PLATFORM = "openvino"
_SEED = 20260301
_MOST_TRIALS = 4
"""Choices of axes that are compiled and compared; a graph rarely leaves more than one."""
_NOTHING = "sequence:nothing"


@dataclass(frozen=True, slots=True)
class _Batched:
    """A choice of axes, its compiled model, and what the gate said."""

    runtime: OpenvinoRuntime
    axes: Axes
    verdict: Verdict | None


class Loader:
    """One load; keeps what the steps of it share."""

    def __init__(self, config: ModelConfig) -> None:
        if config.file is None:
            raise ConfigError(
                f"model '{config.name}' has no model file",
                file=str(config.folder),
                key="file",
                fix="name the .xml, .onnx or other file that OpenVINO reads",
            )
        self.path: Path = config.file
        self.file = str(config.file)
        if not self.path.exists():
            raise ConfigError("there is no such file", file=self.file, key="file")
        self.given = config
        self.options = read_options(config)
        self.core = open_core(self.options, self.file)
        self.original: Any = read_model(self.core, self.path, self.options)
        self.variables: tuple[Variable, ...] = find_variables(self.original, self.core)
        self.opened: Opened = self._opened()
        self.config = _with_variables(config, self.opened)
        structure = None if self.variables else read_structure(self.path)
        self.plan: Plan = make_plan(self.config, self.file, self.opened.graph, structure)
        self.ports = Ports(self.opened.inputs, self.opened.outputs)

    def _opened(self) -> Opened:
        model = self.original.clone()
        try:
            starts = expose(model, self.variables)
        except Exception as error:
            raise ConfigError(
                f"its variables cannot be taken out: {first_line(error)}", file=self.file
            ) from error
        return read_graph(model, self.variables, starts, self.options, self.file)

    def load(self) -> OpenvinoRuntime:
        """Return the runtime: batched if the gate allows, one by one otherwise.

        Raises:
            ConfigError: The model cannot be served as the config says.
        """
        if self.config.batching == "off":
            return self._alone("batching is switched off in the config", None)
        native = self._native() if self.variables and self.config.gate else None
        size = _runs_at(native) if native is not None else None
        yardstick = native if size is not None else None
        best: _Batched | None = None
        for axes, _ in zip(
            possible_axes(self.opened, self.plan), range(_MOST_TRIALS), strict=False
        ):
            tried = self._tried(axes, yardstick, size)
            if tried is None:
                continue
            if tried.verdict is None or tried.verdict.ok:
                return self._together(tried, against_native=yardstick is not None)
            if best is None or (tried.verdict.ran and best.verdict and not best.verdict.ran):
                best = tried
        if self.config.batching == "force":
            return self._forced(best)
        why = "no choice of axes lets rows lie side by side in it: its batch is fixed"
        if best is not None and best.verdict is not None:
            why = best.verdict.why
        return self._alone(why, best, native if yardstick is not None else None)

    # -- several rows a call ------------------------------------------------------------

    def _tried(
        self, axes: Axes, yardstick: NativeRuntime | None, size: int | None
    ) -> _Batched | None:
        """Compile a choice of axes and ask the gate; ``None`` if it does not even compile."""
        try:
            model = with_batch(self.opened, axes)
            compiled = self._compiled(model)
        except Exception:  # noqa: BLE001 - OpenVINO's own refusal of these axes
            return None
        signature = self._signature(axes, batching=True, why="")
        runtime = OpenvinoRuntime(compiled, self.ports, signature)
        if not self.config.gate:
            return _Batched(runtime, axes, None)
        subject = _Rehearsed(runtime, yardstick or runtime)
        rng = np.random.default_rng(_SEED)
        verdict = check(subject, rng, size=size, tolerance=self.options.tolerance)
        return _Batched(runtime, axes, verdict)

    def _together(self, found: _Batched, *, against_native: bool) -> OpenvinoRuntime:
        if found.verdict is None:
            why = "its shapes take several rows (numbers not compared: the gate is off)"
        elif against_native:
            why = f"variables taken out: {found.verdict.why.replace('one by one', 'natively')}"
        else:
            why = found.verdict.why
        return self._finished(found.runtime, found, why, batching=True)

    def _forced(self, best: _Batched | None) -> OpenvinoRuntime:
        """Believe the config: rows share calls whatever the gate says."""
        if best is None:
            raise ConfigError(
                "batching cannot be forced: no axes of the model take several rows",
                file=self.file,
                key="batching",
                fix="remove 'batching: force'",
            )
        why = f"forced by the config, although {best.verdict.why if best.verdict else ''}"
        return self._finished(best.runtime, best, why, batching=True)

    # -- one row a call -------------------------------------------------------------------

    def _alone(
        self, why: str, best: _Batched | None, native: NativeRuntime | None = None
    ) -> OpenvinoRuntime:
        """Serve one row a call: natively if the model can, else with its variables taken out."""
        if native is None and self.variables:
            tried = self._native()
            native = tried if tried is not None and _runs_at(tried) is not None else None
        runtime: OpenvinoRuntime
        if native is not None:
            runtime = native
        else:
            axes = self._likely() if best is None else best.axes
            runtime = OpenvinoRuntime(
                self._compiled(self.opened.model),
                self.ports,
                self._signature(axes, batching=False, why=why),
                unbatched=_unbatched(self.plan, axes),
            )
        return self._finished(runtime, best, why, batching=False)

    def _native(self, axes: Axes | None = None) -> NativeRuntime | None:
        """Compile the model as it is; ``None`` if the device cannot run variables like these."""
        axes = axes or self._likely()
        try:
            compiled = self._compiled(self.original.clone())
        except ConfigError:
            return None
        whole = self._signature(axes, batching=False, why="")
        told = tuple(spec for spec in whole.inputs if spec.name not in self.opened.starts)
        own = len(self.original.inputs)
        return NativeRuntime(
            compiled,
            Ports(self.opened.inputs[:own], self.opened.outputs),
            replace(whole, inputs=told),
            unbatched=_unbatched(self.plan, axes),
        )

    def _likely(self) -> Axes:
        axes = likely_axes(self.plan, self.opened.hints)
        for tensor in self.opened.graph.inputs:
            axes.setdefault(tensor.name, None)
        return axes

    # -- common -------------------------------------------------------------------------

    def _compiled(self, model: Any) -> Any:
        return compile_model(
            self.core, model, self.options, threads=self.config.threads, file=self.file
        )

    def _signature(self, axes: Mapping[str, int | None], *, batching: bool, why: str) -> Signature:
        made = make_signature(self.plan, axes, batching=batching, why=why)
        states = made.states
        if self.options.stateful and not states:
            # A state without elements: there are sequences, and nothing to carry.
            states = (StateSpec(_NOTHING, _NOTHING, None, "uint8", (1, 0)),)
        return replace(made, platform=PLATFORM, states=states)

    def _finished(
        self, runtime: OpenvinoRuntime, best: _Batched | None, why: str, *, batching: bool
    ) -> OpenvinoRuntime:
        runtime.signature = replace(runtime.signature, batching=batching, why=why)
        runtime.findings = Findings(
            why=self._reasons(),
            doubts=self.plan.doubts,
            verdict=best.verdict if best is not None else None,
            size=_runs_at(runtime),
            notes=self._notes(),
        )
        return runtime

    def _reasons(self) -> dict[str, str]:
        reasons = {carried.name: carried.why for carried in self.plan.carried}
        for variable in self.variables:
            how = "begins with zeros"
            if variable.from_data:
                how = "begins with what the first step's inputs give"
            elif variable.initial is not None:
                how = "begins with a constant of the file"
            reasons[variable.name] = f"variable of the model; {how}"
        return reasons

    def _notes(self) -> tuple[str, ...]:
        notes = [f"output {name} is not served" for name in self.plan.graph.dropped]
        notes += [
            f"'{name}' is one value for all rows of a call; steps with other values are run apart"
            for name, kind in self.plan.kinds.items()
            if kind is InputKind.SCALAR
        ]
        return tuple(notes)


class _Rehearsed:
    """Runs batches on one runtime and single rows on another, for the gate to compare."""

    def __init__(self, together: OpenvinoRuntime, alone: OpenvinoRuntime) -> None:
        self.signature = together.signature
        self._together = together
        self._alone = alone

    def step(self, batch: StepBatch) -> StepResult:
        runtime = self._alone if len(batch.rows) == 1 else self._together
        return runtime.step(batch)

    def sequence_ended(self, correlation_id: CorrelationId, reason: EndReason) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do: both are closed by their owner."""


def _with_variables(config: ModelConfig, opened: Opened) -> ModelConfig:
    """Add to a config what the variables of a model tell; what the user says of one holds."""
    said = {state.input: state for state in config.states or ()}
    said |= {state.name: state for state in config.states or () if state.name}
    own = len(opened.inputs) - len(opened.variables) - len(opened.starts)
    states, named = [], set()
    for variable, input_name in zip(opened.variables, opened.inputs[own:], strict=False):
        user = said.get(variable.name) or said.get(input_name)
        if user is not None:
            named.add(id(user))
        states.append(
            StateConfig(
                name=variable.name,
                input=input_name,
                output=following(variable.name),
                batch_axis=user.batch_axis if user else None,
                initial=variable.initial if user is None or user.initial is None else user.initial,
            )
        )
    states += [state for state in config.states or () if id(state) not in named]
    starts = {
        name: InputConfig(control="start", control_values=[False, True]) for name in opened.starts
    }
    return config.model_copy(
        update={
            "states": states,
            "inputs": {**config.inputs, **starts},
            "discover": config.discover and not opened.variables,
        }
    )


def _unbatched(plan: Plan, axes: Mapping[str, int | None]) -> frozenset[str]:
    return frozenset(
        c.name
        for c in plan.carried
        if c.config.rule != "window" and axes.get(c.config.input) is None
    )


def _runs_at(runtime: OpenvinoRuntime) -> int | None:
    try:
        return find_size(runtime)
    except RehearsalError:
        return None
