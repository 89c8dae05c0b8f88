"""From a file or class to a function with named, typed inputs and outputs."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from legato.core.errors import ConfigError, join_names
from legato.runtimes.discovery.pairing import agree, names_state, pair_by_name
from legato.runtimes.python.loading import forget
from legato.runtimes.torch.attributes import Attributes, Slot, is_plain, isolated
from legato.runtimes.torch.exported import open_exported
from legato.runtimes.torch.module import Guard, functional, open_module
from legato.runtimes.torch.naming import groups, input_names, output_names
from legato.runtimes.torch.observing import DECLARED, Observer
from legato.runtimes.torch.program import (
    DTYPES,
    REQUIRED,
    Argument,
    Lifted,
    Program,
    flatten,
    reason,
    to_array,
)
from legato.runtimes.torch.script import open_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from legato.repository.config import ModelConfig
    from legato.runtimes.discovery.pairing import GraphTensor
    from legato.runtimes.torch.module import Built
    from legato.runtimes.torch.observing import Observed
    from legato.runtimes.torch.options import Options
    from legato.runtimes.torch.script import Script

_EXPORTED = ("/models/model.json", "/archive_format", "serialized_exported_program.json")
_STEPS = 3
_SEED = 20261121


@dataclass(frozen=True, slots=True)
class Opened:
    """A program, and what it takes and gives.

    Attributes:
        program: The function.
        inputs: Its arguments, in order.
        outputs: Its results, in order.
        fed: State to the output that feeds it and why, beyond what names tell.
        notes: Sentences for people.
        package: Name under which the user's file was imported, "" for none.
    """

    program: Program
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    fed: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    package: str = ""


def open_program(config: ModelConfig, options: Options) -> Opened:
    """Open whatever the config names.

    Raises:
        ConfigError: It cannot be read, or cannot be served.
    """
    _check_device(options.device, str(config.file or config.folder))
    if config.entry is not None:
        return _open_module(config, options)
    if config.file is None:
        raise ConfigError(
            f"model '{config.name}' has neither file nor class",
            file=str(config.folder),
            key="file",
            fix="name a .pt or .pt2 file, or a class by 'entry: model.py:Class'",
        )
    kind = kind_of(config.file)
    if kind == "exported":
        if options.submodule:
            raise ConfigError(
                "is for TorchScript files: an exported program has no parts",
                file=str(config.file),
                key="options.submodule",
                fix="export the part that is to be served",
            )
        return _open_exported(config, options, config.file)
    return _open_script(config, options, config.file)


def kind_of(path: Path) -> str:
    """Tell ``script`` from ``exported`` by what the file holds; the suffix may be any.

    Raises:
        ConfigError: It is neither.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except FileNotFoundError:
        raise ConfigError("there is no such file", file=str(path), key="file") from None
    except (zipfile.BadZipFile, OSError):
        names = []
    if any("/code/" in name for name in names):
        return "script"
    if any(name.endswith(_EXPORTED) for name in names):
        return "exported"
    if any(name.endswith("/data.pkl") for name in names):
        raise ConfigError(
            "holds weights or a pickled module: there is nothing in it that runs by itself",
            file=str(path),
            key="file",
            fix="save it with torch.export.save or torch.jit.save; or name its class by "
            "'entry: model.py:Class' and let 'file' be its state_dict",
        )
    raise ConfigError(
        "is no PyTorch file",
        file=str(path),
        key="file",
        fix="write it with torch.export.save (.pt2) or torch.jit.save (.pt)",
    )


def _check_device(device: str, file: str) -> None:
    try:
        wanted = torch.device(device)
        torch.zeros(1, device=wanted)
    except Exception as error:
        raise ConfigError(
            f"PyTorch cannot use the device '{device}': {reason(error)}",
            file=file,
            key="options.device",
            fix="use 'cpu', or install a PyTorch and a driver for that device",
        ) from error


# -- torch.export ---------------------------------------------------------------------------


def _open_exported(config: ModelConfig, options: Options, path: Path) -> Opened:
    found = open_exported(path, options.device)
    old_inputs = [tensor.name for tensor in found.inputs]
    old_outputs = [tensor.name for tensor in found.outputs]
    taken = list(found.mutated.values())
    names = input_names(config, old_inputs)
    given = output_names(config, [name for name in old_outputs if name not in taken], names)
    renamed = dict(zip(old_inputs, names, strict=True))
    results = dict(zip((name for name in old_outputs if name not in taken), given, strict=True))
    inputs = tuple(t._replace(name=renamed[t.name]) for t in found.inputs)
    outputs = tuple(t._replace(name=results.get(t.name, t.name)) for t in found.outputs)
    fed = {
        renamed[name]: (output, "the exported program changes this input in place")
        for name, output in found.mutated.items()
    }
    fed |= _fed_by_shape(config, inputs, outputs, fed)
    return Opened(found.program, inputs, outputs, fed)


def _fed_by_shape(
    config: ModelConfig,
    inputs: Sequence[GraphTensor],
    outputs: Sequence[GraphTensor],
    known: dict[str, tuple[str, str]],
) -> dict[str, tuple[str, str]]:
    """Pair inputs whose names say state with the only output of their dtype and shape."""
    listed = {state.input for state in config.states or ()} | set(known)
    claimed = {state.output for state in config.states or ()} | {o for o, _ in known.values()}
    if not config.discover:
        return {}
    free = [t for t in inputs if t.dims and t.name not in listed and t.name not in config.inputs]
    left = [t for t in outputs if t.name not in claimed]
    tuples = _fed_by_tuples(free, left)
    free = [t for t in free if t.name not in tuples]
    left = [t for t in left if t.name not in {output for output, _ in tuples.values()}]
    by_name = pair_by_name(free, left).pairs
    free = [t for t in free if names_state(t.name) and t.name not in {p.input for p in by_name}]
    left = [t for t in left if t.name not in {p.output for p in by_name}]
    fits = {t.name: [o.name for o in left if agree(t, o)] for t in free}
    counts = [name for names in fits.values() for name in names]
    return tuples | {
        name: (names[0], "its name says state, and only this output has its shape")
        for name, names in fits.items()
        if len(names) == 1 and counts.count(names[0]) == 1 and len(left) > 1
    }


def _fed_by_tuples(
    inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
) -> dict[str, tuple[str, str]]:
    """Pair a tuple whose name says state with the only tuple returned that is like it."""
    taken = {t.name: t for t in inputs}
    given = {t.name: t for t in outputs}
    made = groups(given)
    fed: dict[str, tuple[str, str]] = {}
    for stem, parts in groups(taken).items():
        alike = [
            names
            for names in made.values()
            if len(names) == len(parts)
            and all(agree(taken[a], given[b]) for a, b in zip(parts, names, strict=True))
        ]
        if names_state(stem) and len(alike) == 1:
            why = f"'{stem}' is a tuple, and only one like it is returned"
            fed |= {part: (name, why) for part, name in zip(parts, alike[0], strict=True)}
    return fed


# -- TorchScript ----------------------------------------------------------------------------


def _open_script(config: ModelConfig, options: Options, path: Path) -> Opened:
    script = open_script(path, options.submodule, options.device)
    for slot in script.assigned:
        if not is_plain(_value_of(script.module, slot)):
            raise ConfigError(
                f"it keeps state in attribute '{slot}', which is neither tensor nor number",
                file=str(path),
                fix="script it with its state as inputs and outputs of forward",
            )
    watched = Attributes(script.module, (*script.assigned, *script.read))
    subject = _Subject(config, options, str(path), script.module, script.arguments, watched)
    observed = subject.observe(script.returned)
    changed = subject.changed(observed) | set(script.assigned)
    if not changed:
        forward = subject.forward
        guard = Guard({str(slot): _value_of(script.module, slot) for slot in script.read})

        def call(values: Sequence[Any], _lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            with guard:
                result = forward(*values)
            return [value for _, value in flatten(result)], []

        program = Program(subject.arguments, (), call, shareable=True)
        return subject.opened(program, observed)
    names = join_names(sorted(map(str, changed)))
    why = f"it keeps its state in attributes ({names}), which hold that of one sequence only"
    hint = _explicit_part(script)
    return subject.opened(subject.isolated(changed, why), observed, hint)


def _value_of(module: Any, slot: Slot) -> Any:
    for part in slot.module.split(".") if slot.module else ():
        module = getattr(module, part)
    return getattr(module, slot.name)


def _explicit_part(script: Script) -> tuple[str, ...]:
    """Name a part of a module that takes its state as an input, if there is one."""
    for name, part in script.module.named_children():
        try:
            taken = [each.name for each in part.forward.schema.arguments[1:]]
        except (AttributeError, RuntimeError):
            continue
        states = [each for each in taken if names_state(each)]
        if states:
            hint = f"its part '{name}' takes '{states[0]}' as an input: "
            return (hint + f"with 'options: {{submodule: {name}}}' sequences may share calls",)
    return ()


# -- a class of the user's own ----------------------------------------------------------------


def _open_module(config: ModelConfig, options: Options) -> Opened:
    built = open_module(config, options)
    try:
        return _open_built(config, options, built)
    except BaseException:
        forget(built.package)
        raise


def _open_built(config: ModelConfig, options: Options, built: Built) -> Opened:
    file = str(config.folder / str(config.entry).rpartition(":")[0])
    watched = Attributes(built.module, (*built.buffers, *built.plain))
    subject = _Subject(config, options, file, built.module, built.arguments, watched)
    observed = subject.observe(())
    changed = subject.changed(observed)
    named = {state.input for state in config.states or ()}
    buffers = [slot for slot in built.buffers if slot in changed or str(slot) in named]
    plain = changed.intersection(built.plain)
    if plain:
        listed = join_names(sorted(map(str, plain)))
        why = f"it keeps state in attributes that are no buffers ({listed})"
        hint = f"sequences can share calls if {listed} are made buffers: self.register_buffer(...)"
        program = subject.isolated(changed, why)
        return subject.opened(program, observed, (hint,), built.package)
    names = [str(slot) for slot in buffers]
    forward = functional(built.module, names, subject.keywords)
    lifted = tuple(_lifted(slot, _value_of(built.module, slot), file) for slot in buffers)
    program = Program(subject.arguments, lifted, forward, per_row=(lambda: forward,))
    return subject.opened(program, observed, package=built.package)


def _lifted(slot: Slot, value: Any, file: str) -> Lifted:
    if value.dtype not in DTYPES:
        raise ConfigError(
            f"buffer '{slot}' is a {value.dtype}, which numpy does not have",
            file=file,
            fix="keep it in float32",
        )
    why = "buffer that forward changes"
    shape = tuple(value.shape)
    return Lifted(str(slot), DTYPES[value.dtype], shape, to_array(value).copy(), why)


class _Subject:
    """A module under observation: run from its first state, and put back after it."""

    def __init__(
        self,
        config: ModelConfig,
        options: Options,
        file: str,
        module: Any,
        arguments: Sequence[Argument],
        watched: Attributes,
    ) -> None:
        wanted = [each for each in arguments if _is_wanted(config, arguments, each)]
        self.keywords = tuple(each.name for each in wanted)
        names = input_names(config, [each.name for each in arguments])
        renamed = dict(zip((each.name for each in arguments), names, strict=True))
        self.arguments = tuple(each._replace(name=renamed[each.name]) for each in wanted)
        self._config = config
        self._options = options
        self._file = file
        self._module = module
        self._watched = watched
        self._variables: tuple[str, ...] = ()
        self._observer = Observer(config, file, options.device, self.arguments, self._run)

    def forward(self, *values: Any) -> Any:
        """Call the module with its arguments by name."""
        return self._module(**dict(zip(self.keywords, values, strict=True)))

    def observe(self, variables: tuple[str, ...]) -> Observed:
        """Learn its shapes.

        Args:
            variables: Names of the variables that it returns, where known.

        Raises:
            ConfigError: It does not run.
        """
        self._variables = variables
        return self._observer.observe()

    def _run(self, row: list[Any]) -> list[tuple[str, Any]]:
        self._watched.reset()
        try:
            with torch.no_grad():
                return self._named(flatten(self.forward(*row)))
        finally:
            self._watched.reset()

    def _named(self, found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        arguments = [each.name for each in self.arguments]
        names = output_names(self._config, [name for name, _ in found], arguments, self._variables)
        return [(name, value.clone()) for name, (_, value) in zip(names, found, strict=True)]

    def changed(self, observed: Observed) -> set[Slot]:
        """Run a few steps and see which attributes are no longer what they were.

        Raises:
            ConfigError: It remembers something that nobody can see.
        """
        self._watched.watch()
        changed: set[Slot] = set()
        try:
            with torch.no_grad():
                for _ in range(_STEPS):
                    self.forward(*self._observer.another_row(observed.row))
                    changed |= self._watched.changed()
        except Exception as error:
            raise ConfigError(
                f"it runs one step, but not the next: {reason(error)}", file=self._file
            ) from error
        finally:
            self._watched.reset()
        self._check_repeatable(observed)
        return changed

    def _check_repeatable(self, observed: Observed) -> None:
        """Run the same step from the same state twice, with the same random numbers."""
        runs = []
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_SEED)
                runs.append(self._run(list(observed.row)))
            self._run(self._observer.another_row(observed.row))
        for (name, first), (_, second) in zip(*runs, strict=True):
            if first.shape != second.shape or not torch.allclose(
                first.double(), second.double(), rtol=1e-4, atol=1e-6, equal_nan=True
            ):
                raise ConfigError(
                    f"the same step from the same state gives another '{name}': it remembers "
                    "something that is neither a buffer nor a tensor or number attribute",
                    file=self._file,
                    fix="keep what it remembers in buffers: self.register_buffer(...)",
                )

    def isolated(self, changed: Iterable[Slot], why: str) -> Program:
        """Make a program that keeps attributes outside, one row a call."""
        slots = sorted(changed)
        attributes = Attributes(self._module, slots)
        return isolated(
            self.arguments,
            attributes,
            self.forward,
            why=why,
            reject_non_finite=self._config.reject_non_finite,
        )

    def opened(
        self,
        program: Program,
        observed: Observed,
        notes: tuple[str, ...] = (),
        package: str = "",
    ) -> Opened:
        """Put together what was found."""
        fed = {name: pair for name, pair in observed.fed.items() if pair[1] != DECLARED}
        whole = (*observed.notes, *notes)
        return Opened(program, observed.inputs, observed.outputs, fed, whole, package)


def _is_wanted(config: ModelConfig, arguments: Sequence[Argument], each: Argument) -> bool:
    """Tell whether an argument is fed: without a default, named in the config, or a state."""
    if each.default is REQUIRED:
        return True
    names = input_names(config, [argument.name for argument in arguments])
    name = dict(zip((argument.name for argument in arguments), names, strict=True))[each.name]
    told = name in config.inputs or name in {state.input for state in config.states or ()}
    return told or (config.discover and each.number is None and names_state(name))
