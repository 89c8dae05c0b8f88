"""An ``nn.Module`` of the user's own: built, filled with weights, called as a function."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.func import functional_call

from legato.core.errors import ConfigError, ModelError, join_names
from legato.runtimes.python.loading import forget, import_entry, user_line
from legato.runtimes.torch.attributes import Slot, is_plain
from legato.runtimes.torch.program import NUMBERS, REQUIRED, Argument, Call, flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from legato.repository.config import ModelConfig
    from legato.runtimes.torch.options import Options

_ANNOTATED: dict[Any, type] = {**NUMBERS, **{kind: kind for kind in NUMBERS.values()}}


class Built(NamedTuple):
    """A module and what its forward takes.

    Attributes:
        module: In eval mode, on its device, with its weights.
        arguments: What forward takes.
        buffers: Its buffers.
        plain: Attributes that could hold state: tensors, numbers, text, lists of them.
        package: Name under which its file was imported.
    """

    module: Any
    arguments: tuple[Argument, ...]
    buffers: tuple[Slot, ...]
    plain: tuple[Slot, ...]
    package: str


def open_module(config: ModelConfig, options: Options) -> Built:
    """Import the class that ``entry`` names, build it and load its weights.

    Raises:
        ConfigError: The entry, the class or the weights are wrong.
    """
    imported = import_entry(config)
    cls = getattr(imported.module, imported.name, None)
    file = str(imported.file)
    try:
        if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
            raise _no_module(imported.module, cls, file, imported.name)
        module = _built(cls, config, options, imported.file)
        arguments = _arguments(cls, file)
    except BaseException:
        forget(imported.package)
        raise
    buffers = tuple(
        Slot(*_split(name)) for name, value in module.named_buffers() if value is not None
    )
    plain = tuple(
        Slot(path, name)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if not name.startswith("_") and name != "training" and is_plain(value)
    ) + tuple(_private(module))
    return Built(module, arguments, buffers, plain, imported.package)


def functional(module: Any, names: Sequence[str], keywords: Sequence[str]) -> Call:
    """Call a module with buffers from outside; its own are left as they are.

    Args:
        module: The module.
        names: Buffers that are handed in and taken out.
        keywords: Names of the arguments that it is given.
    """
    guard = Guard({name: b for name, b in module.named_buffers() if name not in names})

    def call(values: Sequence[Any], lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        given = dict(zip(names, lifted, strict=True))
        arguments = dict(zip(keywords, values, strict=True))
        with guard:
            result = functional_call(module, given, kwargs=arguments, tie_weights=False)
        return [value for _, value in flatten(result)], [given[name] for name in names]

    return call


class Guard:
    """Sees whether a call writes to tensors that it should leave alone, and puts them back.

    A write that no step did while the model was loaded would carry from one sequence to the
    next. PyTorch counts the writes to a tensor, so looking costs next to nothing.
    """

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        self._tensors = dict(tensors)
        self._kept = {name: value.clone() for name, value in tensors.items()}
        self._versions = self._now()

    def __enter__(self) -> None:
        """Nothing to do: the versions are those after the last call."""

    def __exit__(self, *_: object) -> None:
        """Compare.

        Raises:
            ModelError: A tensor was written to; it has its old value again.
        """
        if self._versions == self._now():
            return
        written = [
            name for name, at, was in zip(self._tensors, self._now(), self._versions, strict=True)
            if at != was
        ]  # fmt: skip
        for name in written:
            self._tensors[name].copy_(self._kept[name])
        self._versions = self._now()
        raise ModelError(
            f"buffer {join_names(written)} changed in this step, though it did not when the model "
            f"was loaded; name it in 'states' of model.yaml: {{input: {written[0]}, "
            f"output: {written[0]}:next}}"
        )

    def _now(self) -> list[int]:
        return [value._version for value in self._tensors.values()]  # noqa: SLF001


def _private(module: Any) -> list[Slot]:
    """List attributes whose names begin with one underscore, but not those of nn.Module."""
    ours = set(vars(torch.nn.Module()))
    return [
        Slot(path, name)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name.startswith("_") and name not in ours and is_plain(value)
    ]


def _split(name: str) -> tuple[str, str]:
    module, _, last = name.rpartition(".")
    return module, last


def _built(cls: Any, config: ModelConfig, options: Options, file: Path) -> Any:
    try:
        module = cls(**options.arguments)
    except Exception as error:
        where = user_line(error, file.parent)
        raise ConfigError(
            f"{cls.__name__} could not be built: {type(error).__name__}: {error}"
            + (f" ({where})" if where else ""),
            file=str(file),
            key=cls.__name__,
            fix="its keyword arguments come from 'options: {arguments: {...}}' of model.yaml",
        ) from error
    if config.file is not None:
        _fill(module, config.file, cls.__name__)
    return module.eval().requires_grad_(requires_grad=False).to(options.device)


def _fill(module: Any, path: Path, name: str) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        module.load_state_dict(weights)
    except Exception as error:
        raise ConfigError(
            f"are no weights of {name}: {' '.join(str(error).split())[:300]}",
            file=str(path),
            key="file",
            fix="write them with torch.save(module.state_dict(), ...) or as safetensors",
        ) from error


def _arguments(cls: Any, file: str) -> tuple[Argument, ...]:
    found = []
    taken = list(inspect.signature(cls.forward).parameters.values())[1:]
    for each in taken:
        if each.kind not in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            if each.default is each.empty and each.kind is each.KEYWORD_ONLY:
                raise ConfigError(
                    f"forward takes '{each.name}' by keyword only",
                    file=file,
                    key=cls.__name__,
                    fix="let forward take its tensors by position",
                )
            break
        default = REQUIRED if each.default is each.empty else each.default
        said = each.annotation
        optional = default is None or "None" in str(said) or "Optional" in str(said)
        number = _ANNOTATED.get(said) if isinstance(said, str | type) else None
        if number is None and isinstance(default, bool | int | float):
            number = type(default)
        found.append(Argument(each.name, number, default, optional))
    return tuple(found)


def _no_module(imported: Any, cls: object, file: str, name: str) -> ConfigError:
    if cls is not None:
        return ConfigError(
            f"'{name}' is not a torch.nn.Module",
            file=file,
            key=name,
            fix=f"class {name}(torch.nn.Module): ..., or 'runtime: python' for a class of Legato's",
        )
    found = [
        each
        for each, value in vars(imported).items()
        if isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == imported.__name__
    ]
    fix = f"one of {join_names(found)}" if found else f"class {name}(torch.nn.Module): ..."
    return ConfigError(f"has no class '{name}'", file=file, key="entry", fix=fix)
