"""What is to be served of a graph: its inputs by kind and its states, before any axis is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from legato.core.errors import ConfigError, join_names
from legato.core.types import InputKind
from legato.repository.config import InputConfig, StateConfig
from legato.runtimes.discovery.pairing import agree, pair_by_name
from legato.runtimes.discovery.structure import pack_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.repository.config import ModelConfig
    from legato.runtimes.discovery.graph import Graph
    from legato.runtimes.discovery.pairing import Dim, GraphTensor, Pair
    from legato.runtimes.discovery.structure import Structure

_CACHE_BRANCH = "use_cache_branch"
"""Input of merged decoders (Hugging Face Optimum): true once there is a cache."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A state to carry, and why it is taken for one."""

    config: StateConfig
    why: str

    @property
    def name(self) -> str:
        """Name of the state: given, or its input's; a window is told from its input's state."""
        return self.config.name or (
            f"{self.config.input}_window" if self.config.rule == "window" else self.config.input
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """The graph, the config, and what is carried.

    Attributes:
        config: The model's config.
        file: File name for messages.
        graph: Tensors of the session (the changed one, if it was changed).
        carried: States in the order of the config, then of the graph.
        kinds: Kind of every input that is fed by clients or made by the server.
        doubts: Pairs not taken.
    """

    config: ModelConfig
    file: str
    graph: Graph
    carried: tuple[Carried, ...]
    kinds: dict[str, InputKind]
    doubts: tuple[Pair, ...]

    def input(self, name: str) -> GraphTensor:
        """Return an input of the graph by its name."""
        return next(t for t in (*self.graph.inputs, *self.graph.optional) if t.name == name)

    def output(self, name: str) -> GraphTensor:
        """Return an output of the graph by its name."""
        return next(t for t in self.graph.outputs if t.name == name)

    def override(self, name: str) -> InputConfig:
        """Return what the config says of an input."""
        return self.config.inputs.get(name) or InputConfig()

    @property
    def state_inputs(self) -> dict[str, StateConfig]:
        """Inputs that take a state, and how; windows are not among them."""
        return {c.config.input: c.config for c in self.carried if c.config.rule != "window"}

    @property
    def windows(self) -> dict[str, StateConfig]:
        """Data inputs that have a window in front."""
        return {c.config.input: c.config for c in self.carried if c.config.rule == "window"}


def make_plan(config: ModelConfig, file: str, graph: Graph, structure: Structure | None) -> Plan:
    """Find the states of a graph and sort its inputs into kinds.

    States that the config lists come first; with ``discover`` (the default) the states
    that it does not name are looked for as well.

    Raises:
        ConfigError: The config names what the graph does not have, or contradicts it.
    """
    _check_names(config, file, graph)
    carried = [Carried(state, "named in the config") for state in config.states or ()]
    doubts: tuple[Pair, ...] = ()
    if config.discover:
        found, doubts = _discover(config, graph, structure, carried)
        carried += found
    for each in carried:
        _check_state(each.config, file, graph)
    _check_distinct(carried, file)
    _check_axes(config, carried, file, graph)
    taken = {c.config.input for c in carried if c.config.rule != "window"}
    optional = [t for t in graph.optional if t.name in config.inputs]
    free = [t for t in (*graph.inputs, *optional) if t.name not in taken]
    if config.only_named_inputs:
        _check_all_named(config, carried, file, graph)
    kinds = _sort_inputs(config, free)
    return Plan(config, file, graph, tuple(carried), kinds, doubts)


def _discover(
    config: ModelConfig, graph: Graph, structure: Structure | None, listed: Sequence[Carried]
) -> tuple[list[Carried], tuple[Pair, ...]]:
    inputs_taken = {c.config.input for c in listed if c.config.rule != "window"}
    outputs_taken = {c.config.output for c in listed}
    inputs = [
        t
        for t in graph.inputs
        if t.dims and t.name not in inputs_taken and not _told(config, t.name)
    ]
    outputs = [t for t in graph.outputs if t.name not in outputs_taken]
    pairing = pair_by_name(inputs, outputs)
    pairs = list(pairing.pairs)
    if structure is not None:
        by_name = {pair.input for pair in pairs}
        fed = {pair.output for pair in pairs}
        rest = [t for t in inputs if t.name not in by_name]
        pairs += pack_pairs(structure, rest, [t for t in outputs if t.name not in fed])
    order = [t.name for t in graph.inputs]
    pairs.sort(key=lambda pair: order.index(pair.input))
    found = [
        Carried(
            StateConfig(
                input=pair.input,
                output=pair.output,
                rule="keep_if_empty" if pair.keeps_if_empty else "replace",
            ),
            pair.why,
        )
        for pair in pairs
    ]
    taken = {pair.input for pair in pairs}
    return found, tuple(doubt for doubt in pairing.doubts if doubt.input not in taken)


def _told(config: ModelConfig, name: str) -> bool:
    """Tell whether the config says how an input is fed, other than by a state."""
    override = config.inputs.get(name)
    return override is not None and (
        override.scalar
        or override.from_client
        or override.control is not None
        or override.default is not None
    )


def _check_names(config: ModelConfig, file: str, graph: Graph) -> None:
    inputs = [t.name for t in (*graph.inputs, *graph.optional)]
    outputs = [t.name for t in graph.outputs]
    for kind, named, known in (
        ("inputs", list(config.inputs), inputs),
        ("outputs", list(config.outputs), outputs),
    ):
        for name in named:
            if name not in known:
                raise ConfigError(
                    f"the model has no such {kind[:-1]}",
                    file=file,
                    key=f"{kind}.{name}",
                    fix=f"its {kind} are {join_names(known)}",
                )


def _check_all_named(
    config: ModelConfig, carried: Sequence[Carried], file: str, graph: Graph
) -> None:
    named = {*config.inputs, *(c.config.input for c in carried)}
    missing = [t.name for t in graph.inputs if t.name not in named]
    if missing:
        raise ConfigError(
            f"unable to load model '{config.name}', configuration expects {len(named)} inputs, "
            f"model provides {len(graph.inputs)}: {join_names(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} in no input, control input or state",
            file=file,
            fix="name them in the config",
        )


def _check_state(state: StateConfig, file: str, graph: Graph) -> None:
    key = f"states.{state.name or state.input}"
    inputs = {t.name: t for t in graph.inputs}
    outputs = {t.name: t for t in graph.outputs}
    if state.input not in inputs:
        fix = f"its inputs are {join_names(list(inputs))}"
        raise ConfigError(f"the model has no input '{state.input}'", file=file, key=key, fix=fix)
    if state.output is not None and state.output not in outputs:
        fix = f"its outputs are {join_names(list(outputs))}"
        raise ConfigError(f"the model has no output '{state.output}'", file=file, key=key, fix=fix)
    tensor = inputs[state.input]
    if state.rule in ("window", "append") and not 0 <= state.axis < len(tensor.dims):
        raise ConfigError(
            f"axis {state.axis} does not exist: '{state.input}' has rank {len(tensor.dims)}",
            file=file,
            key=key,
        )
    if state.rule == "window":
        if state.size < 1:
            raise ConfigError("a window needs its size", file=file, key=key, fix="add 'size: N'")
        return
    if state.output is None:
        if state.rule != "write_once":
            raise ConfigError(
                f"rule '{state.rule}' needs the output that gives the next value",
                file=file,
                key=key,
                fix="add 'output: NAME'",
            )
        return
    target = outputs[state.output]
    if state.rule not in ("append", "write_once") and not agree(tensor, target):
        raise ConfigError(
            f"'{state.output}' ({_describe(target)}) cannot feed '{state.input}' "
            f"({_describe(tensor)})",
            file=file,
            key=key,
            fix="pair an output of the same dtype and shape",
        )


def _check_axes(config: ModelConfig, carried: Sequence[Carried], file: str, graph: Graph) -> None:
    """Refuse a batch axis that does not exist, or whose size the file fixes above 1."""
    dims = {t.name: t.dims for t in (*graph.inputs, *graph.optional)}
    given = [(f"inputs.{name}", name, said.batch_axis) for name, said in config.inputs.items()]
    given += [(f"states.{c.name}", c.config.input, c.config.batch_axis) for c in carried]
    for key, name, axis in given:
        if axis is None:
            continue
        rank = len(dims[name])
        if not 0 <= axis < rank or (isinstance(dims[name][axis], int) and dims[name][axis] != 1):
            raise ConfigError(
                f"axis {axis} of '{name}' cannot be the batch: the model takes "
                f"{show_dims(dims[name])}",
                file=file,
                key=f"{key}.batch_axis",
                fix="count from 0, and name an axis that is open or 1",
            )


def _check_distinct(carried: Sequence[Carried], file: str) -> None:
    for what, values in (
        ("name", [c.name for c in carried]),
        ("input", [c.config.input for c in carried if c.config.rule != "window"]),
        ("output", [c.config.output for c in carried if c.config.output is not None]),
    ):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ConfigError(f"two states have the {what} '{twice}'", file=file, key="states")


def _describe(tensor: GraphTensor) -> str:
    return f"{tensor.dtype} {show_dims(tensor.dims)}"


def show_dims(dims: Sequence[Dim]) -> str:
    """Write dimensions as people do; ``?`` for unknown ones."""
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in dims) + "]"


def _sort_inputs(config: ModelConfig, free: Sequence[GraphTensor]) -> dict[str, InputKind]:
    open_ended = any(not isinstance(dim, int) for tensor in free for dim in tensor.dims)
    kinds = {}
    for tensor in free:
        override = config.inputs.get(tensor.name) or InputConfig()
        if override.control is not None or _is_cache_branch(config, tensor):
            kinds[tensor.name] = InputKind.CONTROL
        elif override.scalar or not tensor.dims:
            kinds[tensor.name] = InputKind.SCALAR
        elif tensor.dims == (1,) and open_ended and override.batch_axis is None:
            # Beside inputs whose batch is open, a lone fixed 1 is a setting, not a row.
            kinds[tensor.name] = InputKind.SCALAR
        else:
            kinds[tensor.name] = InputKind.DATA
    return kinds


def _is_cache_branch(config: ModelConfig, tensor: GraphTensor) -> bool:
    return (
        tensor.name == _CACHE_BRANCH and tensor.dtype == "bool" and not _told(config, tensor.name)
    )
