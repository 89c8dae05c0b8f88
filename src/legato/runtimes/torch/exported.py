"""Programs of ``torch.export`` (``.pt2``): their graph says what they take, give and change."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from legato.core.errors import ConfigError
from legato.runtimes.discovery.pairing import GraphTensor
from legato.runtimes.torch.program import (
    DTYPES,
    Argument,
    Call,
    Lifted,
    Program,
    name_of,
    reason,
    to_array,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from legato.runtimes.discovery.pairing import Dim


class Exported(NamedTuple):
    """An exported program and the tensors that it declares.

    ``mutated`` maps inputs that it changes in place to the output that tells their next value.
    """

    program: Program
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    mutated: dict[str, str]


def open_exported(path: Path, device: str) -> Exported:
    """Read a program, and make it a function: buffers that it changes go in and come out.

    Raises:
        ConfigError: It cannot be read, or does something that a function cannot.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.export.load(path)
            if device != "cpu":
                loaded = move_to_device_pass(loaded, device)
            # As it was exported it changes buffers in place; this makes the changes outputs.
            functional = loaded.run_decompositions({})
    except Exception as error:
        raise ConfigError(
            f"PyTorch {torch.__version__} cannot load it: {reason(error)}",
            file=str(path),
            fix="export it again with torch.export.save, with this version of PyTorch",
        ) from error
    graph = _Graph(functional, str(path), device)

    def decomposed() -> Call:
        # In small operations: vmap would run some of the large ones in a loop over rows.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Graph(loaded.run_decompositions(), str(path), device).call()

    program = Program(
        tuple(Argument(tensor.name) for tensor in graph.inputs),
        graph.lifted(),
        graph.call(),
        per_row=(graph.call, decomposed),
        shareable=True,
        pure=True,
    )
    return Exported(program, graph.inputs, graph.outputs, graph.mutated)


class _Graph:
    """The functional graph of a program, and the places of everything in it."""

    def __init__(self, program: Any, file: str, device: str) -> None:
        self._program = program
        self._file = file
        self._device = device
        signature = program.graph_signature
        self._changed: list[str] = list(dict.fromkeys(signature.buffers_to_mutate.values()))
        self._nodes = {node.name: node for node in program.graph.nodes}
        self._feeds: list[tuple[str, Any]] = [self._feed(spec) for spec in signature.input_specs]
        self._order = [what for how, what in self._feeds if how == "input"]
        self.inputs = tuple(self._tensor(name, name) for name in self._order)
        self.mutated: dict[str, str] = {}
        self._results, self._following = self._places(signature.output_specs)
        self.outputs = tuple(self._tensor(name, node) for name, node, _ in self._results)

    def _feed(self, spec: Any) -> tuple[str, Any]:
        """Say what stands in a place of the graph's arguments."""
        kind, name = spec.kind.name, getattr(spec.arg, "name", "")
        if kind == "USER_INPUT":
            if hasattr(spec.arg, "value"):
                return "value", spec.arg.value
            return "input", name
        if kind == "BUFFER" and spec.target in self._changed:
            return "buffer", spec.target
        held = self._program.state_dict.get(spec.target)
        if held is None:
            held = self._program.constants.get(spec.target)
        if not isinstance(held, torch.Tensor):
            raise ConfigError(
                f"it needs '{name}' ({kind.lower()}), which cannot be served",
                file=self._file,
                fix="export it with tensors only",
            )
        return "value", held.detach().to(self._device)

    def _places(self, specs: Sequence[Any]) -> tuple[list[tuple[str, str, int]], dict[str, int]]:
        """Find the places of outputs and of next values among the graph's results."""
        users = [spec for spec in specs if spec.kind.name == "USER_OUTPUT"]
        tree = pytree.tree_unflatten(list(range(len(users))), self._program.call_spec.out_spec)
        names = {leaf: name_of(path) for path, leaf in pytree.tree_flatten_with_path(tree)[0]}
        outputs, following, seen = [], {}, 0
        for at, spec in enumerate(specs):
            kind = spec.kind.name
            if kind == "USER_OUTPUT":
                if hasattr(spec.arg, "name") and not hasattr(spec.arg, "value"):
                    outputs.append((names[seen], spec.arg.name, at))
                seen += 1
            elif kind == "BUFFER_MUTATION":
                following[spec.target] = at
            elif kind == "USER_INPUT_MUTATION":
                name = f"{spec.target}:next"
                self.mutated[spec.target] = name
                outputs.append((name, spec.arg.name, at))
        return outputs, following

    def _tensor(self, name: str, node: str) -> GraphTensor:
        value = self._nodes[node].meta["val"]
        if not isinstance(value, torch.Tensor):
            return GraphTensor(name, "int64" if isinstance(value, int | torch.SymInt) else "?", ())
        if value.dtype not in DTYPES:
            raise ConfigError(
                f"'{name}' is a {value.dtype}, which numpy does not have",
                file=self._file,
                fix="export the model in float32: model.float()",
            )
        dims: tuple[Dim, ...] = tuple(
            dim if isinstance(dim, int) else str(dim) for dim in value.shape
        )
        return GraphTensor(name, DTYPES[value.dtype], dims)

    def lifted(self) -> tuple[Lifted, ...]:
        """List the buffers that the graph changes."""
        held = {**self._program.constants, **self._program.state_dict}
        made = []
        for name in self._changed:
            value = held[name]
            if value.dtype not in DTYPES:
                raise ConfigError(
                    f"buffer '{name}' is a {value.dtype}, which numpy does not have",
                    file=self._file,
                    fix="export the model in float32: model.float()",
                )
            why = "buffer that the exported program changes"
            made.append(Lifted(name, DTYPES[value.dtype], tuple(value.shape), to_array(value), why))
        return tuple(made)

    def call(self) -> Call:
        """Make the function."""
        run = self._program.graph_module
        run = run.to(self._device).forward
        feeds, order = self._feeds, {name: at for at, name in enumerate(self._order)}
        buffers = {name: at for at, name in enumerate(self._changed)}
        template = [what if how == "value" else None for how, what in feeds]
        from_values = [(at, order[what]) for at, (how, what) in enumerate(feeds) if how == "input"]
        from_lifted = [(at, buffers[w]) for at, (how, w) in enumerate(feeds) if how == "buffer"]
        outputs = [at for _, _, at in self._results]
        following = [self._following[name] for name in self._changed]

        def call(values: Sequence[Any], lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            filled = list(template)
            for at, source in from_values:
                filled[at] = values[source]
            for at, source in from_lifted:
                filled[at] = lifted[source]
            results = run(*filled)
            return [results[at] for at in outputs], [results[at] for at in following]

        return call
