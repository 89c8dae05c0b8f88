"""TorchScript files: what their graph says, and what they hide in attributes."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from legato.core.errors import ConfigError, join_names
from legato.runtimes.torch.attributes import Slot
from legato.runtimes.torch.program import NUMBERS, REQUIRED, Argument, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NUMBERED = re.compile(r"\.\d+$")


class Script(NamedTuple):
    """A TorchScript module, and what its graph tells.

    Attributes:
        module: The module that is served.
        arguments: What its forward takes.
        assigned: Attributes that it assigns to: surely state.
        read: Tensors that it reads and that are no parameters: state if they change.
        returned: Names of the variables that it returns, "" for one without a name.
    """

    module: Any
    arguments: tuple[Argument, ...]
    assigned: tuple[Slot, ...]
    read: tuple[Slot, ...]
    returned: tuple[str, ...]


def open_script(path: Path, submodule: str, device: str) -> Script:
    """Read a TorchScript file.

    Raises:
        ConfigError: It cannot be read, or has no such submodule.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated, and it is what people have
            whole = torch.jit.load(str(path), map_location=device)
    except Exception as error:
        raise ConfigError(
            f"PyTorch {torch.__version__} cannot load it: {reason(error)}",
            file=str(path),
            fix="check that the file is complete, and made by torch.jit.save",
        ) from error
    module = _part(whole, submodule, str(path))
    module.eval()
    arguments = _arguments(module, str(path))
    assigned, read = _attributes(module)
    names = tuple(_returned(module, {argument.name for argument in arguments}))
    return Script(module, arguments, assigned, read, names)


def _part(whole: Any, submodule: str, file: str) -> Any:
    if not submodule:
        return whole
    parts = dict(whole.named_modules())
    if submodule not in parts:
        raise ConfigError(
            f"the module has no part '{submodule}'",
            file=file,
            key="options.submodule",
            fix=f"its parts are {join_names([n for n in parts if n and '.' not in n])}",
        )
    return parts[submodule]


def _arguments(module: Any, file: str) -> tuple[Argument, ...]:
    found = []
    for given in module.forward.schema.arguments[1:]:
        kind = str(given.type)
        default = given.default_value if given.has_default_value() else REQUIRED
        optional = kind.startswith("Optional[")
        inner = kind.removeprefix("Optional[").removesuffix("]") if optional else kind
        if inner == "Tensor":
            found.append(Argument(given.name, None, default, optional))
        elif inner in NUMBERS:
            found.append(Argument(given.name, NUMBERS[inner], default, optional))
        elif default is REQUIRED:
            raise ConfigError(
                f"forward takes '{given.name}' as {kind}, which no client can send",
                file=file,
                fix="script a wrapper whose forward takes tensors and numbers",
            )
        else:
            break  # what follows is left at its default too
    return tuple(found)


def _attributes(module: Any) -> tuple[tuple[Slot, ...], tuple[Slot, ...]]:
    """Find the attributes that a graph assigns to, and the tensors that it reads."""
    graph = module.inlined_graph
    paths = {next(graph.inputs()).debugName(): ""}
    parameters = {name for name, _ in module.named_parameters()}
    assigned: dict[Slot, None] = {}
    read: dict[Slot, None] = {}
    for node in _nodes(graph):
        kind = node.kind()
        if kind not in ("prim::GetAttr", "prim::SetAttr"):
            continue
        owner = paths.get(next(node.inputs()).debugName())
        if owner is None:
            continue
        slot = Slot(owner, node.s("name"))
        if kind == "prim::SetAttr":
            assigned[slot] = None
        elif node.output().type().kind() == "ClassType":
            paths[node.output().debugName()] = str(slot)
        elif node.output().type().kind() == "TensorType" and str(slot) not in parameters:
            read[slot] = None
    return tuple(assigned), tuple(slot for slot in read if slot not in assigned)


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _returned(module: Any, arguments: set[str]) -> Iterator[str]:
    """Name what forward returns by its variables; one called as an argument is its next value."""
    (result,) = module.graph.outputs()
    node = result.node()
    packed = node.kind() == "prim::TupleConstruct"
    for value in node.inputs() if packed else [result]:
        name = _NUMBERED.sub("", value.debugName())
        if not name.isidentifier():
            yield ""
            continue
        stem = name.rstrip("0123456789")
        yield f"next_{stem}" if stem in arguments else name
