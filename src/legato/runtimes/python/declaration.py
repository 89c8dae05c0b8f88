"""From declared tensors to a :class:`Signature`, with every mistake named."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from legato.core.errors import ConfigError, join_names
from legato.core.types import InputKind, Signature, StateSpec, TensorSpec
from legato.runtimes.python.api import Input, Model, Output, RowModel, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from legato.core.types import Array

AnyModel = Model | RowModel
T = TypeVar("T", Input, Output, State)

_EXAMPLE = {
    Input: 'Input("x", "float32", (1, 1))',
    Output: 'Output("y", "float32", (1, 1))',
    State: 'State("h", "float32", (1, 128))',
}


class _Place(NamedTuple):
    """Where a declaration stands, for messages."""

    file: str
    owner: str

    def error(self, problem: str, key: str, fix: str) -> ConfigError:
        return ConfigError(problem, file=self.file, key=f"{self.owner}.{key}", fix=fix)


def signature_of(model: AnyModel, *, file: str, batching: bool) -> Signature:
    """Check what a model declares and put it into the contract's terms.

    Args:
        model: The user's model, after ``load``.
        file: The user's file, for messages.
        batching: False where model.yaml turns batching off.

    Raises:
        ConfigError: A declaration is wrong; names file, class attribute and fix.
    """
    place = _Place(file, type(model).__name__)
    inputs = _checked(model.inputs, Input, place, "inputs")
    outputs = _checked(model.outputs, Output, place, "outputs")
    states = _checked(model.states, State, place, "states")
    if not outputs:
        raise place.error("a model must give something back", "outputs", f"[{_EXAMPLE[Output]}]")
    together, why = _verdict(model, batching)
    return Signature(
        inputs=tuple(_input_spec(item, place) for item in inputs),
        outputs=tuple(
            TensorSpec(
                item.name, _dtype(item, place, "outputs"), tuple(item.shape), item.batch_axis
            )
            for item in outputs
        ),
        states=tuple(_state_spec(item, place) for item in states),
        batching=together,
        why=why,
        platform="python",
    )


def check_step(cls: type[AnyModel], file: str) -> None:
    """Refuse a class without its one method, before an object of it is made."""
    if not inspect.isabstract(cls):
        return
    name, other, base = ("step", "step_row", "RowModel")
    if issubclass(cls, RowModel):
        name, other, base = ("step_row", "step", "Model")
    fix = f"def {name}(self, ...) -> Result: ..."
    if hasattr(cls, other):
        fix = f"derive {cls.__name__} from {base}"
    raise _Place(file, cls.__name__).error(f"the class does not define {name}", name, fix)


def _checked(items: object, kind: type[T], place: _Place, key: str) -> list[T]:
    """The declared tensors, each of the right kind, named once, with a sound shape."""
    if not isinstance(items, list | tuple):
        raise place.error(f"{items!r} is not a list", key, f"{key} = [{_EXAMPLE[kind]}]")
    checked: list[T] = []
    for item in items:
        if not isinstance(item, kind):
            raise place.error(
                f"{item!r} is not of type {kind.__name__}", key, f"[{_EXAMPLE[kind]}]"
            )
        if not item.name:
            raise place.error(f"{item!r} has no name", key, f"[{_EXAMPLE[kind]}]")
        if item.name in {other.name for other in checked}:
            raise place.error(f"'{item.name}' is declared twice", key, "give each its own name")
        _dtype(item, place, key)
        _check_shape(item, place, key)
        checked.append(item)
    return checked


def _dtype(item: Input | Output | State, place: _Place, key: str) -> str:
    """The canonical dtype name."""
    try:
        dtype = np.dtype(item.dtype)
    except TypeError:
        dtype = None
    allowed = "biuf" if isinstance(item, State) else "biufO"
    if dtype is None or dtype.kind not in allowed:
        text = "" if isinstance(item, State) else ", or object for BYTES"
        raise place.error(
            f"'{item.name}' has the dtype {item.dtype!r}",
            key,
            f"a numpy number type such as 'float32', 'int64' or 'bool'{text}",
        )
    return dtype.name


def _check_shape(item: Input | Output | State, place: _Place, key: str) -> None:
    shape = item.shape
    if not isinstance(shape, list | tuple) or not all(
        isinstance(size, int) and size >= -1 for size in shape
    ):
        raise place.error(
            f"'{item.name}' has the shape {shape!r}", key, "a tuple of sizes, -1 for any: (1, 128)"
        )
    if isinstance(item, Input) and item.scalar:
        return
    axis = item.batch_axis
    if not 0 <= axis < len(shape):
        raise place.error(
            f"'{item.name}' has batch_axis {axis}, but its shape {tuple(shape)} has "
            f"{len(shape)} axes",
            key,
            "name the axis where rows lie side by side, counted from 0",
        )
    if shape[axis] != 1:
        fixed = (*shape[:axis], 1, *shape[axis + 1 :])
        raise place.error(
            f"'{item.name}' has the size {shape[axis]} on its batch axis {axis}: a shape is "
            "that of one row, whose batch axis is 1",
            key,
            f"shape {fixed}, or {(1, *shape)} if {tuple(shape)} is without a batch axis",
        )


def _input_spec(item: Input, place: _Place) -> TensorSpec:
    return TensorSpec(
        name=item.name,
        dtype=_dtype(item, place, "inputs"),
        shape=tuple(item.shape),
        batch_axis=None if item.scalar else item.batch_axis,
        kind=InputKind.SCALAR if item.scalar else InputKind.DATA,
        default=None if item.default is None else _fitted(item, item.default, place, "inputs"),
    )


def _state_spec(item: State, place: _Place) -> StateSpec:
    return StateSpec(
        name=item.name,
        input=item.name,
        output=item.name,
        dtype=_dtype(item, place, "states"),
        shape=tuple(item.shape),
        batch_axis=item.batch_axis,
        initial=None if item.initial is None else _fitted(item, item.initial, place, "states"),
    )


def _fitted(item: Input | State, value: Any, place: _Place, key: str) -> Array:
    """A declared value as a read-only array of the declared dtype and shape."""
    shape = tuple(item.shape)
    try:
        array: Array = np.asarray(value).astype(item.dtype)
        if array.ndim == 0 and -1 not in shape:
            array = np.full(shape, array)
    except (TypeError, ValueError) as error:
        raise place.error(
            f"the value of '{item.name}' cannot be read as {item.dtype}: {error}",
            key,
            f"a number, or an array of {item.dtype} {shape}",
        ) from error
    if not fits(array.shape, shape):
        raise place.error(
            f"the value of '{item.name}' has the shape {array.shape}, declared is {shape}",
            key,
            "a number, or an array of the declared shape",
        )
    array.setflags(write=False)
    return array


def fits(shape: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether an array's shape is one that a declaration (with -1) allows."""
    return len(shape) == len(declared) and all(
        want in (-1, size) for size, want in zip(shape, declared, strict=True)
    )


def _verdict(model: AnyModel, batching: bool) -> tuple[bool, str]:
    """May rows share a call, and why."""
    if not batching:
        return False, "batching is off in model.yaml"
    if not model.batching:
        return False, f"{type(model).__name__} declares batching = False"
    if isinstance(model, RowModel):
        loose = [item.name for item in model.outputs if -1 in item.shape]
        loose += [item.name for item in model.states if -1 in item.shape]
        if loose:
            return False, (
                f"rows run one at a time: the size of {join_names(loose)} may differ from "
                "row to row"
            )
        return True, "rows share a call, and step_row runs them in turn"
    return True, "the class takes a batch of rows"
