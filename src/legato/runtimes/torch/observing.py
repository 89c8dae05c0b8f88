"""Learn the shapes of a model that does not declare any, by running it on made-up rows.

TorchScript and Python modules name what they take and say nothing of sizes. The config
may say them. What it leaves out is tried: usual ranks and frame lengths for data; for a
state, nothing at all (``None``, the default, an empty tensor), and then the size of the
output that feeds it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from legato.core.errors import ConfigError
from legato.runtimes.discovery.pairing import GraphTensor, names_state, pair_by_name
from legato.runtimes.rehearsal import SIZES
from legato.runtimes.torch.program import DTYPES, NUMBER_DTYPES, REQUIRED, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from legato.repository.config import ModelConfig
    from legato.runtimes.discovery.pairing import Dim
    from legato.runtimes.torch.program import Argument

    Named = list[tuple[str, Any]]
    Run = Callable[[list[Any]], Named]

DECLARED = "named in the config"
_GUESSES: tuple[tuple[int, ...], ...] = ((1, -1), (1, -1, -1), (1, 1, -1))
_BEGINNINGS = 3
_RATE = 16000
_DATA = GraphTensor("legato:data", "float32", ())
"""Stands for the data of a step where names are compared: not everything is state."""
_RATES = ("sr", "fs", "sample_rate", "samplerate", "sampling_rate")


@dataclass(frozen=True, slots=True)
class Observed:
    """What a model takes and gives.

    Attributes:
        inputs: Arguments by name, in order.
        outputs: What it returned, by name, in order.
        size: Size of open dimensions at which it ran.
        fed: State to the output that feeds it, and why.
        notes: Sentences for people.
        row: Values that it ran with.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    size: int
    fed: Mapping[str, tuple[str, str]]
    notes: tuple[str, ...] = ()
    row: Sequence[Any] = field(default_factory=list)


class Observer:
    """Runs a model until it accepts what it is given.

    Args:
        config: The model's config; what it says of a tensor is not guessed.
        file: File name for messages.
        device: Where made-up tensors are put.
        arguments: What the model takes.
        run: Calls it from its first state, and names what it returns.
    """

    def __init__(
        self,
        config: ModelConfig,
        file: str,
        device: str,
        arguments: Sequence[Argument],
        run: Run,
    ) -> None:
        self._config = config
        self._file = file
        self._device = device
        self._arguments = arguments
        self._run = run
        self._states = {state.input: state for state in config.states or ()}
        self._generator = torch.Generator().manual_seed(0)
        self._guess: tuple[int, ...] = _GUESSES[0]
        self._bare = False

    def observe(self) -> Observed:
        """Find shapes at which the model runs, and note what it gives.

        Raises:
            ConfigError: It runs at none, or begins in a way that zeros cannot stand for.
        """
        beginning, size, row, given = self._first_run()
        fed = self._fed_by(row, given)
        shapes = {name: tuple(value.shape) for name, value in given}
        states = {}
        for argument in self._arguments:
            if self._begins_unknown(argument):
                if argument.name not in fed or fed[argument.name][0] not in shapes:
                    raise self._unknown_shape(argument.name)
                states[argument.name] = shapes[fed[argument.name][0]]
        if states:
            self._check_zeros(row, given, states)
            row = self._with(row, states)
        varying = self._varying(size, beginning, states, given) if self._open() else {}
        inputs = [
            self._input(argument, states, value)
            for argument, value in zip(self._arguments, row, strict=True)
        ]
        outputs = [
            GraphTensor(name, self._dtype(name, value), self._dims(value, varying.get(name)))
            for name, value in given
        ]
        return Observed(tuple(inputs), tuple(outputs), size, fed, self._notes(), row)

    def another_row(self, row: Sequence[Any]) -> list[Any]:
        """Make other data of the same shapes; states and numbers stay."""
        return [
            self._random(tuple(value.shape), value.dtype)
            if isinstance(value, torch.Tensor) and not self._is_state(argument)
            else value
            for argument, value in zip(self._arguments, row, strict=True)
        ]

    # -- trying ---------------------------------------------------------------------------

    def _first_run(self) -> tuple[int, int, list[Any], Named]:
        problem: Exception | None = None
        unknown = any(map(self._begins_unknown, self._arguments))
        guesses = _GUESSES if any(map(self._is_guessed, self._arguments)) else _GUESSES[:1]
        # A row's shape has an axis for rows; a model may do without.
        for self._bare, self._guess in itertools.product((False, True), guesses):
            sizes = SIZES if self._open() else SIZES[:1]
            beginnings = range(_BEGINNINGS if unknown else 1)
            for size, beginning in itertools.product(sizes, beginnings):
                row = [self._value(each, size, beginning) for each in self._arguments]
                try:
                    return beginning, size, row, self._run(row)
                except ConfigError:
                    raise
                except Exception as error:  # noqa: BLE001 - the model's own refusal
                    problem = problem or error
        assert problem is not None  # noqa: S101 - a run succeeds or raises
        told = ", ".join(
            f"{each.name}: {{shape: [1, ...]}}"
            for each in self._arguments
            if each.number is None and not self._is_state(each)
        )
        raise ConfigError(
            f"it does not run on made-up rows: {reason(problem)}",
            file=self._file,
            key="inputs",
            fix="say the shape of a step's inputs, the batch axis as 1: "
            f"'inputs: {{{told}}}', and that of states likewise",
        ) from problem

    def _value(self, argument: Argument, size: int, beginning: int) -> Any:
        if argument.number is not None:
            return self._number(argument)
        if self._begins_unknown(argument):
            default = None if argument.default is REQUIRED else argument.default
            empty = torch.zeros(0, device=self._device)
            return (None if argument.optional else empty, default, empty)[beginning]
        state = self._states.get(argument.name)
        if state is not None and state.rule != "window":
            shape = tuple(max(dim, 0) for dim in self._without_rows(state.shape or ()))
            return torch.zeros(shape, dtype=self._wanted(argument.name), device=self._device)
        shape = tuple(size if dim == -1 else dim for dim in self._shape(argument.name))
        return self._random(shape, self._wanted(argument.name))

    def _number(self, argument: Argument) -> Any:
        said = self._config.inputs.get(argument.name)
        if said is not None and said.default is not None:
            return said.default
        if argument.default is not REQUIRED and argument.default is not None:
            return argument.default
        rate = argument.name.lower() in _RATES
        return _RATE if rate else argument.number(1) if argument.number else 1

    def _random(self, shape: tuple[int, ...], dtype: Any) -> Any:
        if dtype.is_floating_point:
            value = torch.randn(shape, generator=self._generator, dtype=torch.float32) * 0.25
        else:
            value = torch.randint(0, 2, shape, generator=self._generator)
        return value.to(self._device, dtype)

    # -- what is known ----------------------------------------------------------------------

    def _is_state(self, argument: Argument) -> bool:
        state = self._states.get(argument.name)
        if state is not None:
            return state.rule != "window"
        told = argument.name in self._config.inputs or not self._config.discover
        return argument.number is None and not told and names_state(argument.name)

    def _begins_unknown(self, argument: Argument) -> bool:
        """Tell whether an argument is a state of which nobody said the shape."""
        if not self._is_state(argument):
            return False
        state = self._states.get(argument.name)
        return state is None or state.shape is None

    def _is_guessed(self, argument: Argument) -> bool:
        if argument.number is not None or self._is_state(argument):
            return False
        said = self._config.inputs.get(argument.name)
        return said is None or said.shape is None

    def _open(self) -> bool:
        return any(
            -1 in self._shape(each.name)
            for each in self._arguments
            if each.number is None and not self._is_state(each)
        )

    def _shape(self, name: str) -> tuple[int, ...]:
        said = self._config.inputs.get(name)
        shape = self._guess if said is None or said.shape is None else tuple(said.shape)
        if said is not None and said.scalar and said.shape is None:
            return ()
        state = self._states.get(name)
        if state is not None and state.rule == "window" and shape[state.axis] > 0:
            # The model sees the window and the new samples as one.
            longer = shape[state.axis] + state.size
            shape = (*shape[: state.axis], longer, *shape[state.axis + 1 :])
        return self._without_rows(shape)

    def _without_rows(self, shape: Sequence[int]) -> tuple[int, ...]:
        bare = self._bare and len(shape) > 1 and shape[0] == 1
        return tuple(shape[1:] if bare else shape)

    def _wanted(self, name: str) -> Any:
        said = self._config.inputs.get(name)
        state = self._states.get(name)
        wanted = (state.dtype if state is not None and state.rule != "window" else None) or (
            said.dtype if said is not None else None
        )
        if wanted is None:
            return torch.float32
        known = {text: dtype for dtype, text in DTYPES.items()}
        if wanted not in known:
            raise ConfigError(
                f"{wanted} is no dtype of PyTorch", file=self._file, key=f"inputs.{name}.dtype"
            )
        return known[wanted]

    # -- what came out ------------------------------------------------------------------------

    def _fed_by(self, row: list[Any], given: Named) -> dict[str, tuple[str, str]]:
        """Pair states with the outputs that feed them: by config, by name, by feeding back."""
        fed = {
            state.input: (state.output, DECLARED) for state in self._states.values() if state.output
        }
        taken = {output for output, _ in fed.values()}
        asked = [each.name for each in self._arguments if self._is_state(each)]
        free = [GraphTensor(name, "float32", ()) for name in asked if name not in fed]
        left = [GraphTensor(name, "float32", ()) for name, _ in given if name not in taken]
        for pair in pair_by_name([*free, _DATA], left).pairs:
            fed[pair.input] = pair.output, pair.why
            taken.add(pair.output)
        rest = [name for name in asked if name not in fed]
        if len(rest) == 1:
            others = [(name, value) for name, value in given if name not in taken]
            fits = [name for name, value in others if self._takes_back(row, given, rest[0], value)]
            if len(fits) == 1:
                fed[rest[0]] = fits[0], "its name says state, and it takes only this output back"
        return fed

    def _takes_back(self, row: list[Any], given: Named, name: str, value: Any) -> bool:
        """Tell whether zeros of an output's shape begin a sequence as nothing at all does."""
        again = self._tried(self._with(row, {name: tuple(value.shape)}))
        return again is not None and all(map(_alike, given, again))

    def _check_zeros(
        self, row: list[Any], given: Named, states: Mapping[str, tuple[int, ...]]
    ) -> None:
        again = self._run(self._with(row, states))
        for first, second in zip(given, again, strict=True):
            if not _alike(first, second):
                raise ConfigError(
                    f"it begins with something else than zeros ('{first[0]}' differs)",
                    file=self._file,
                    key="states",
                    fix="say 'shape' and 'initial' of each state",
                )

    def _with(self, row: list[Any], states: Mapping[str, tuple[int, ...]]) -> list[Any]:
        return [
            torch.zeros(states[each.name], device=self._device) if each.name in states else value
            for each, value in zip(self._arguments, row, strict=True)
        ]

    def _varying(
        self,
        size: int,
        beginning: int,
        states: Mapping[str, tuple[int, ...]],
        given: Named,
    ) -> dict[str, set[int]]:
        """Find the axes of outputs that follow the open dimensions of inputs."""
        for other in [each for each in (2 * size, *SIZES) if each != size]:
            row = [self._value(each, other, beginning) for each in self._arguments]
            longer = self._tried(self._with(row, states))
            if longer is not None:
                return {
                    name: _differing(value, now)
                    for (name, value), (_, now) in zip(given, longer, strict=True)
                }
        return {}

    def _tried(self, row: list[Any]) -> Named | None:
        try:
            return self._run(row)
        except Exception:  # noqa: BLE001 - the model's own refusal of these shapes
            return None

    def _input(
        self, argument: Argument, states: Mapping[str, tuple[int, ...]], value: Any
    ) -> GraphTensor:
        if argument.number is not None:
            return GraphTensor(argument.name, NUMBER_DTYPES[argument.number], ())
        dtype = self._dtype(argument.name, value)
        if argument.name in states:
            return GraphTensor(argument.name, dtype, states[argument.name])
        state = self._states.get(argument.name)
        if state is not None and state.rule != "window":
            shape = self._without_rows(state.shape or ())
        else:
            shape = self._shape(argument.name)
        dims: tuple[Dim, ...] = tuple(None if dim == -1 else dim for dim in shape)
        return GraphTensor(argument.name, dtype, dims)

    def _dtype(self, name: str, value: Any) -> str:
        if value.dtype not in DTYPES:
            raise ConfigError(
                f"'{name}' is a {value.dtype}, which numpy does not have",
                file=self._file,
                fix="convert the model to float32: model.float()",
            )
        return DTYPES[value.dtype]

    @staticmethod
    def _dims(value: Any, varying: set[int] | None) -> tuple[Dim, ...]:
        return tuple(
            None if varying and at in varying else dim for at, dim in enumerate(value.shape)
        )

    def _unknown_shape(self, name: str) -> ConfigError:
        return ConfigError(
            f"the shape of '{name}' is not known: it sounds like state, but no output feeds it",
            file=self._file,
            key="states",
            fix=f"add {{input: {name}, output: NAME, shape: [1, ...]}} to 'states', or its shape "
            "to 'inputs' if it is data",
        )

    def _notes(self) -> tuple[str, ...]:
        guessed = [each.name for each in self._arguments if self._is_guessed(each)]
        return tuple(
            f"the file does not say the shape of '{name}': it runs as {list(self._guess)}; "
            f"'inputs: {{{name}: {{shape: [1, ...]}}}}' says it"
            for name in guessed
        )


def _alike(a: tuple[str, Any], b: tuple[str, Any]) -> bool:
    first, second = a[1], b[1]
    return first.shape == second.shape and bool(
        torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
    )


def _differing(a: Any, b: Any) -> set[int]:
    return {at for at, (x, y) in enumerate(zip(a.shape, b.shape, strict=False)) if x != y}
