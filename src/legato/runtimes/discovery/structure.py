"""What the nodes of an ONNX graph tell about its states, where names do not.

Two kinds of evidence, both about how a tensor is used rather than how it looks:

- *Packed states*: an input that is only ever cut into n pieces, and an output that is
  put together from n pieces, with equal dtype and shape. Keras and TensorFlow exports
  keep the states of all layers in one such tensor. Data is not used that way.
- *Recurrent nodes*: an input whose piece becomes ``initial_h`` or ``initial_c`` of an
  RNN, GRU or LSTM is state by definition of that operator, and its axis 1 is the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from legato.runtimes.discovery.pairing import GraphTensor, Pair, agree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_CUTS = ("Slice", "Gather", "Split")
_RECURRENT = ("RNN", "GRU", "LSTM")
_INITIAL_STATES = (5, 6)
"""Positions of ``initial_h`` and ``initial_c`` among the inputs of a recurrent node."""
_LARGEST_FILE = 512 << 20
_FURTHEST = 64
"""Nodes followed from a tensor before giving up."""


class Structure:
    """The nodes of a graph, indexed by the tensors they take and give."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._takers: dict[str, list[Any]] = {}
        self._maker: dict[str, Any] = {}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            for name in node.input:
                self._takers.setdefault(name, []).append(node)
            for name in node.output:
                self._maker[name] = node
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constants[node.output[0]] = node.attribute[0].t

    def pieces_in(self, name: str) -> int:
        """Count the pieces that an input is cut into; 0 if anything else is done with it."""
        takers = self._takers.get(name, [])
        if not takers or any(node.op_type not in _CUTS for node in takers):
            return 0
        return sum(len(node.output) for node in takers)

    def pieces_out(self, name: str, budget: int = _FURTHEST) -> int:
        """Count the pieces that an output is put together from; 1 if it is not."""
        node = self._maker.get(name)
        if node is None or budget <= 0:
            return 1
        if node.op_type in ("Unsqueeze", "Identity"):
            return self.pieces_out(node.input[0], budget - 1)
        if node.op_type != "Concat":
            return 1
        return sum(self.pieces_out(part, budget - 1) for part in node.input)

    def recurrent_axis(self, tensor: GraphTensor) -> int | None:
        """Find which axis of an input is the batch of a recurrent node it starts.

        Follows cuts, squeezes and transposes from the input to ``initial_h`` or
        ``initial_c``; ``None`` if it never gets there, or to different axes.
        """
        axes = {
            origins[1]
            for name, origins in self._followed(tensor)
            for node in self._takers.get(name, [])
            if node.op_type in _RECURRENT
            and len(origins) == 3
            and any(name == node.input[at] for at in _INITIAL_STATES if at < len(node.input))
        }
        return axes.pop() if len(axes) == 1 else None

    def _followed(self, tensor: GraphTensor) -> Iterator[tuple[str, tuple[int | None, ...]]]:
        """Walk from an input through nodes that only move axes.

        Yields tensors with, for each of their axes, the input's axis it comes from.
        """
        todo: list[tuple[str, tuple[int | None, ...]]] = [
            (tensor.name, tuple(range(len(tensor.dims))))
        ]
        for _ in range(_FURTHEST):
            if not todo:
                return
            name, origins = todo.pop()
            yield name, origins
            for node in self._takers.get(name, []):
                moved = self._move(node, name, origins)
                if moved is not None:
                    todo += [(out, moved) for out in node.output]

    def _move(
        self, node: Any, name: str, origins: tuple[int | None, ...]
    ) -> tuple[int | None, ...] | None:
        if not node.input or node.input[0] != name:
            return None
        kind = node.op_type
        if kind in ("Slice", "Split", "Identity", "Cast"):
            return origins
        if kind == "Gather":
            return self._gathered(node, origins)
        if kind == "Transpose":
            order = _ints(node, "perm") or tuple(reversed(range(len(origins))))
            return tuple(origins[axis] for axis in order)
        if kind in ("Squeeze", "Unsqueeze"):
            return self._squeezed(node, origins, out=kind == "Unsqueeze")
        return None

    def _gathered(
        self, node: Any, origins: tuple[int | None, ...]
    ) -> tuple[int | None, ...] | None:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % len(origins)
        index = self._constants.get(node.input[1])
        if index is None:
            return None
        return origins[:axis] + (None,) * len(index.dims) + origins[axis + 1 :]

    def _squeezed(
        self, node: Any, origins: tuple[int | None, ...], *, out: bool
    ) -> tuple[int | None, ...] | None:
        axes = _ints(node, "axes")
        if not axes and len(node.input) > 1 and node.input[1] in self._constants:
            import onnx

            constant = onnx.numpy_helper.to_array(self._constants[node.input[1]])
            axes = tuple(int(axis) for axis in constant.ravel())
        if not axes:
            return None
        rank = len(origins) + (len(axes) if out else 0)
        places = {axis % rank for axis in axes}
        if not out:
            return tuple(origin for at, origin in enumerate(origins) if at not in places)
        rest = iter(origins)
        return tuple(None if at in places else next(rest) for at in range(rank))


class Evidence(NamedTuple):
    """What the structure of a graph adds to its names.

    Attributes:
        pairs: Packed states.
        axes: Batch axis by input name, from recurrent nodes.
    """

    pairs: tuple[Pair, ...]
    axes: dict[str, int]


def read_structure(file: Path | None) -> Structure | None:
    """Read the nodes of a model file; ``None`` for ``.ort`` and very large files."""
    if file is None or file.suffix != ".onnx" or file.stat().st_size > _LARGEST_FILE:
        return None
    import onnx

    return Structure(onnx.load(str(file), load_external_data=False))


def pack_pairs(
    structure: Structure, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> tuple[Pair, ...]:
    """Find packed states among tensors that names did not pair.

    A pair must be the only one of its dtype and shape that is cut and put together
    again in the same number of pieces.
    """
    found = []
    for source in inputs:
        pieces = structure.pieces_in(source.name)
        if pieces < 2:
            continue
        fits = [
            target
            for target in outputs
            if agree(source, target) and structure.pieces_out(target.name) == pieces
        ]
        rivals = [
            other
            for other in inputs
            if other is not source
            and agree(source, other)
            and structure.pieces_in(other.name) == pieces
        ]
        if len(fits) == 1 and not rivals:
            why = f"cut into {pieces} pieces, put together from {pieces} of the same shape"
            found.append(Pair(source.name, fits[0].name, why))
    return tuple(found)


def _ints(node: Any, name: str) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in node.attribute if a.name == name), ())
