"""From a config to a runtime: open, find the state, find a form for many rows, compare."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from legato.core.errors import ConfigError
from legato.core.types import InputKind
from legato.repository.config import StateConfig
from legato.runtimes.discovery.axes import choices
from legato.runtimes.discovery.findings import Findings
from legato.runtimes.discovery.graph import Graph, freed, is_freed
from legato.runtimes.discovery.pairing import GraphTensor
from legato.runtimes.discovery.plan import make_plan
from legato.runtimes.discovery.signature import make_signature
from legato.runtimes.gate import ROWS, Verdict, check
from legato.runtimes.onnx.probe import output_axes
from legato.runtimes.python.loading import forget
from legato.runtimes.rehearsal import Rehearsal, RehearsalError, find_size
from legato.runtimes.torch.opening import open_program
from legato.runtimes.torch.options import read_options
from legato.runtimes.torch.runtime import Form, Naming, TorchRuntime

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from legato.core.types import Signature
    from legato.repository.config import ModelConfig
    from legato.runtimes.discovery.pairing import Dim
    from legato.runtimes.discovery.plan import Plan
    from legato.runtimes.discovery.signature import Axes
    from legato.runtimes.torch.program import Lifted

PLATFORM = "pytorch_libtorch"
_SEED = 20261122
_MOST_TRIALS = 24
_TIMED_ROWS = 8
_FRONT = freed(0)
_HOW = {"native": "with rows side by side", "vmap": "under torch.vmap"}


@dataclass(frozen=True, slots=True)
class _Tried:
    """A form, its runtime, the axes it serves, and what the gate said."""

    form: Form
    runtime: TorchRuntime
    axes: Axes
    verdict: Verdict


class Loader:
    """One load; keeps what the steps of it share."""

    def __init__(self, config: ModelConfig) -> None:
        self.file = str(config.file or config.folder / str(config.entry))
        self.options = read_options(config)
        self.opened = open_program(config, self.options)
        try:
            self._describe(config)
        except BaseException:
            forget(self.opened.package)
            raise

    def _describe(self, config: ModelConfig) -> None:
        opened, program = self.opened, self.opened.program
        taken = {tensor.name for tensor in (*opened.inputs, *opened.outputs)}
        lifted = [f"{each.name}:buffer" if each.name in taken else each.name
                  for each in program.lifted]  # fmt: skip
        following = [f"{name}:next" for name in lifted]
        self.config = _with_states(config, opened.fed, program.lifted, lifted, following)
        states = {state.input for state in self.config.states or ()}
        fed = {state.output for state in self.config.states or ()}
        rowless = self._rowless(config, states, fed)
        self.config = _with_rows(self.config, rowless, self.opened.inputs)
        self.naming = Naming(
            tuple(tensor.name for tensor in opened.inputs),
            tuple(tensor.name for tensor in opened.outputs),
            tuple(lifted),
            tuple(following),
            frozenset(rowless),
        )
        inside = [
            (_lifted_tensor(each, name), _lifted_tensor(each, after))
            for each, name, after in zip(program.lifted, lifted, following, strict=True)
        ]
        inputs = [_fronted(tensor, rowless) for tensor in opened.inputs]
        outputs = [_fronted(tensor, rowless) for tensor in opened.outputs]
        graph = Graph(
            (*inputs, *(before for before, _ in inside)),
            (*outputs, *(after for _, after in inside)),
            (),
            (),
        )
        self.plan: Plan = make_plan(self.config, self.file, graph, None)

    def _rowless(self, config: ModelConfig, states: set[str], fed: set[str | None]) -> set[str]:
        """Name the tensors that get an axis for rows in front, as they have none.

        Data keeps the model's own shape where the config says just that, or where rows
        share no call anyway: a client then sends what the model takes.
        """
        bare = [t for t in self.opened.inputs if t.dims and not _possible(t)]
        said = {name: each.shape for name, each in config.inputs.items() if each.shape}
        kept = config.batching == "off" or any(
            len(said[t.name]) == len(t.dims) for t in bare if t.name in said
        )
        rowless = {t.name for t in bare if t.name in states or not kept}
        rowless |= {s.output for s in self.config.states or () if s.input in rowless and s.output}
        outputs = [t for t in self.opened.outputs if t.name not in fed and not _possible(t)]
        return rowless | {t.name for t in outputs if not kept}

    def load(self) -> TorchRuntime:
        """Return the runtime: batched if the gate allows, one by one otherwise.

        Raises:
            ConfigError: The model cannot be served as the config says.
        """
        threads = torch.get_num_threads()
        try:
            return self._load()
        except BaseException:
            forget(self.opened.package)
            raise
        finally:
            torch.set_num_threads(threads)

    def _load(self) -> TorchRuntime:
        alone = self._alone_form()
        program = self.opened.program
        if program.alone:
            if self.config.batching == "force":
                raise ConfigError(
                    f"batching cannot be forced: {program.alone}", file=self.file, key="batching"
                )
            return self._finished(alone, None, program.alone, batching=False)
        if self.config.batching == "off":
            return self._finished(
                alone, None, "batching is switched off in the config", batching=False
            )
        rowless = [s.name for s in alone.signature.inputs
                   if s.kind is InputKind.DATA and s.batch_axis is None]  # fmt: skip
        if rowless:
            why = f"'{rowless[0]}' has no axis for rows: say its shape with a 1 in front"
            return self._finished(alone, None, why, batching=False)
        size = _runs_at(alone)
        best = None
        told: dict[str, _Tried] = {}
        for tried in self._trials(size):
            if tried.verdict.ok:
                return self._together(tried)
            if best is None or (tried.verdict.ran and not best.verdict.ran):
                best = tried
            told[tried.form.mode] = told.get(tried.form.mode) or tried
            if tried.verdict.ran and not told[tried.form.mode].verdict.ran:
                told[tried.form.mode] = tried
        if self.config.batching == "force":
            return self._forced(best)
        reasons = [f"{_HOW[mode]}, {tried.verdict.why}" for mode, tried in told.items()]
        why = "; ".join(reasons) or "no axes of it could hold rows"
        return self._finished(alone, best, why, batching=False)

    # -- several rows a call ------------------------------------------------------------------

    def _trials(self, size: int | None) -> Iterator[_Tried]:
        """Try the graph with rows side by side, then under vmap; the cheaper forms first."""
        yield from self._native(size)
        mapped = [self._mapped(at, size) for at in range(len(self.opened.program.per_row))]
        mapped.sort(key=lambda tried: not tried.verdict.ok)
        good = [tried for tried in mapped if tried.verdict.ok]
        if len(good) > 1:
            good.sort(key=lambda tried: _cost(tried.runtime, size))
            yield good[0]
        yield from mapped

    def _native(self, size: int | None) -> Iterator[_Tried]:
        loosened = replace(
            self.plan,
            graph=self.plan.graph._replace(inputs=tuple(map(_freed, self.plan.graph.inputs))),
        )
        program = self.opened.program
        places = list(_places(program.lifted))
        every = itertools.product(choices(loosened, {}), places)
        for axes, place in itertools.islice(every, _MOST_TRIALS):
            form = Form("native", program.call, place)
            yield self._tried(dict(axes), form, size)

    def _mapped(self, at: int, size: int | None) -> _Tried:
        _quiet_vmap()
        try:
            form = Form("vmap", self.opened.program.per_row[at]())
        except Exception as error:  # noqa: BLE001 - PyTorch could not take the graph apart
            why = f"PyTorch cannot take its graph apart ({_short(error)})"
            alone = self._alone_form()
            return _Tried(
                Form("vmap", self.opened.program.call),
                alone,
                {},
                Verdict(ok=False, why=why, ran=False),
            )
        return self._tried(self._row_axes(), form, size, outputs_known=True)

    def _tried(
        self, axes: Axes, form: Form, size: int | None, *, outputs_known: bool = False
    ) -> _Tried:
        """Run one form: see where its outputs grow, then ask the gate."""
        axes |= self._state_axes(axes)
        try:
            if outputs_known:
                axes |= {k: v for k, v in self._output_axes().items() if k not in axes}
            runtime = self._runtime(axes, form, batching=True, why="")
            found_size = find_size(runtime) if size is None else size
            grown = output_axes(runtime, found_size)
        except Exception as error:  # noqa: BLE001 - the model's own refusal of these axes
            why = f"it does not run {ROWS} rows in one call ({_short(error)})"
            return _Tried(form, self._alone_form(), axes, Verdict(ok=False, why=why, ran=False))
        axes |= grown
        runtime = self._runtime(axes, form, batching=True, why="")
        if not self.config.gate:
            why = "its shapes take several rows (numbers not compared: the gate is off)"
            return _Tried(form, runtime, axes, Verdict(ok=True, why=why))
        verdict = check(runtime, np.random.default_rng(_SEED), size=found_size)
        return _Tried(form, runtime, axes, verdict)

    def _together(self, tried: _Tried) -> TorchRuntime:
        how = {
            "native": "the model takes rows side by side",
            "vmap": "torch.vmap runs it for all rows at once",
        }[tried.form.mode]
        return self._finished(tried.runtime, tried, f"{how}: {tried.verdict.why}", batching=True)

    def _forced(self, best: _Tried | None) -> TorchRuntime:
        """Believe the config: rows share calls whatever the gate says."""
        if best is None or not best.verdict.ran:
            raise ConfigError(
                "batching cannot be forced: "
                + (best.verdict.why if best is not None else "no axes of it could hold rows"),
                file=self.file,
                key="batching",
                fix="remove 'batching: force'",
            )
        why = f"forced by the config, although {best.verdict.why}"
        return self._finished(best.runtime, best, why, batching=True)

    # -- common ---------------------------------------------------------------------------------

    def _alone_form(self) -> TorchRuntime:
        axes = self._row_axes()
        axes |= self._state_axes(axes)
        axes |= {k: v for k, v in self._output_axes().items() if k not in axes}
        return self._runtime(axes, Form("alone", self.opened.program.call), batching=False, why="")

    def _row_axes(self) -> Axes:
        """Name the axis of each input that stands for its one row."""
        loosened = replace(
            self.plan,
            graph=self.plan.graph._replace(inputs=tuple(map(_freed, self.plan.graph.inputs))),
        )
        chosen: Axes = dict(next(choices(loosened, {}), {}))
        for tensor in self.plan.graph.inputs:
            if tensor.name not in chosen:
                scalar = self.plan.kinds.get(tensor.name) is InputKind.SCALAR
                possible = [] if scalar else _possible(tensor)
                chosen[tensor.name] = possible[0] if possible else None
        return chosen

    def _output_axes(self) -> Axes:
        return {
            tensor.name: next(iter(_possible(tensor)), None) for tensor in self.plan.graph.outputs
        }

    def _state_axes(self, axes: Mapping[str, int | None]) -> Axes:
        return {
            c.config.output: axes.get(c.config.input)
            for c in self.plan.carried
            if c.config.output is not None
        }

    def _runtime(self, axes: Axes, form: Form, *, batching: bool, why: str) -> TorchRuntime:
        return TorchRuntime(
            self.opened.program,
            self.naming,
            self._signature(axes, batching=batching, why=why),
            form,
            device=self.options.device,
            threads=self.config.threads,
            resident=self.options.resident,
            package=self.opened.package,
        )

    def _signature(self, axes: Axes, *, batching: bool, why: str) -> Signature:
        made = make_signature(self.plan, axes, batching=batching, why=why)
        return replace(made, platform=PLATFORM)

    def _finished(
        self, runtime: TorchRuntime, tried: _Tried | None, why: str, *, batching: bool
    ) -> TorchRuntime:
        runtime.signature = replace(runtime.signature, batching=batching, why=why)
        runtime.findings = Findings(
            why=self._reasons(),
            doubts=self.plan.doubts,
            verdict=tried.verdict if tried is not None else None,
            size=_runs_at(runtime),
            notes=self._notes(),
        )
        return runtime

    def _reasons(self) -> dict[str, str]:
        reasons = {carried.name: carried.why for carried in self.plan.carried}
        fed = {name: why for name, (_, why) in self.opened.fed.items()}
        for carried in self.plan.carried:
            if carried.config.input in fed:
                reasons[carried.name] = fed[carried.config.input]
        for each, name in zip(self.opened.program.lifted, self.naming.lifted, strict=True):
            state = next(c for c in self.plan.carried if c.config.input == name)
            reasons[state.name] = each.why
        return reasons

    def _notes(self) -> tuple[str, ...]:
        notes = [*self.opened.notes, *self.opened.program.notes]
        clients = [name for name in (*self.naming.arguments, *self.naming.outputs)
                   if name in self.naming.added and name not in self._carried()]  # fmt: skip
        notes += [
            f"'{name}' has no axis of size 1 in the model: it got one in front, for rows"
            for name in clients
        ]
        notes += [
            f"'{name}' is one value for all rows of a call; steps with other values are run apart"
            for name, kind in self.plan.kinds.items()
            if kind is InputKind.SCALAR
        ]
        return tuple(notes)

    def _carried(self) -> set[str | None]:
        carried = [c.config for c in self.plan.carried]
        return {c.input for c in carried} | {c.output for c in carried}


def _with_states(
    config: ModelConfig,
    fed: Mapping[str, tuple[str, str]],
    lifted: Sequence[Lifted],
    names: Sequence[str],
    following: Sequence[str],
) -> ModelConfig:
    """Add to a config what the program tells of its states; what the user says of one holds."""
    said = list(config.states or ())
    listed = {state.input for state in said}
    states = []
    for each, name, after in zip(lifted, names, following, strict=True):
        user = next((state for state in said if name in (state.input, state.name)), None)
        if user is not None:
            said.remove(user)
        first = None if each.initial is None else each.initial[np.newaxis]
        states.append(
            StateConfig(
                name=user.name if user else None,
                input=name,
                output=after,
                batch_axis=0,
                initial=first if user is None or user.initial is None else user.initial,
            )
        )
    states += [
        StateConfig(input=name, output=output)
        for name, (output, _) in fed.items()
        if name not in listed
    ]
    return config.model_copy(update={"states": [*states, *said]})


def _with_rows(
    config: ModelConfig, rowless: set[str], inputs: Sequence[GraphTensor]
) -> ModelConfig:
    """Give declared states the axis for rows that they do without in the model."""
    ranks = {tensor.name: len(tensor.dims) for tensor in inputs}

    def moved(state: StateConfig) -> StateConfig:
        if state.input not in rowless or state.rule == "window":
            return state
        bare = state.shape is None or len(state.shape) == ranks[state.input]
        first = state.first_shape
        grows = bare and state.rule == "append"
        return state.model_copy(
            update={
                "shape": [1, *state.shape] if bare and state.shape else state.shape,
                "first_shape": [1, *first] if bare and first else first,
                "axis": state.axis + grows,
                "batch_axis": 0,
            }
        )

    return config.model_copy(update={"states": [moved(each) for each in config.states or ()]})


def _lifted_tensor(lifted: Lifted, name: str) -> GraphTensor:
    inner: tuple[Dim, ...] = tuple(None if dim == -1 else dim for dim in lifted.shape)
    return GraphTensor(name, lifted.dtype, (_FRONT, *inner))


def _fronted(tensor: GraphTensor, rowless: set[str]) -> GraphTensor:
    return tensor._replace(dims=(_FRONT, *tensor.dims)) if tensor.name in rowless else tensor


def _freed(tensor: GraphTensor) -> GraphTensor:
    """Mark axes of size 1 as possible batch axes."""
    if tensor.dims and is_freed(tensor.dims[0]):
        return tensor  # the axis for rows is there, and it is this one
    dims = tuple(freed(at) if dim == 1 else dim for at, dim in enumerate(tensor.dims))
    return tensor._replace(dims=dims)


def _possible(tensor: GraphTensor) -> list[int]:
    """List the axes that could hold rows, the likeliest first: those of size 1, then open ones."""
    ones = [at for at, dim in enumerate(tensor.dims) if dim == 1 or is_freed(dim)]
    loose = [at for at, d in enumerate(tensor.dims) if not isinstance(d, int) and not is_freed(d)]
    return sorted([*ones, *loose], key=lambda at: (at != 0, at in loose, at))


def _places(lifted: Sequence[Lifted]) -> Iterator[tuple[int | None, ...]]:
    """Yield where lifted values may hold rows; those that look alike hold them alike."""
    shapes = list(dict.fromkeys(each.shape for each in lifted))
    options: list[list[int | None]] = [
        [*(at for at, n in enumerate(shape) if n == 1), None, *(() if shape else (-1, -2))]
        for shape in shapes
    ]
    for choice in itertools.product(*options):
        by_shape = dict(zip(shapes, choice, strict=True))
        yield tuple(by_shape[each.shape] for each in lifted)


def _runs_at(runtime: TorchRuntime) -> int | None:
    try:
        return find_size(runtime)
    except RehearsalError:
        return None


def _cost(runtime: TorchRuntime, size: int | None) -> float:
    """Seconds of a call with some rows: the best of a few."""
    rehearsal = Rehearsal(runtime, np.random.default_rng(_SEED), size=size or 1)
    row, state = rehearsal.row(), rehearsal.first_state()
    batch, _ = rehearsal.batch([row] * _TIMED_ROWS, [state] * _TIMED_ROWS, 1)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        runtime.step(batch)
        best = min(best, time.perf_counter() - begun)
    return best


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else text[:197] + "..."


def _quiet_vmap() -> None:
    """Keep PyTorch from a line on standard error for every operation that vmap loops over."""
    switch: Any = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", None)  # noqa: SLF001
    if switch is not None:
        switch(False)
