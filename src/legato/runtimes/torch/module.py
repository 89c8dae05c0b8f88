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
    from collections.abc import Sequence
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
    fixed = {name: value for name, value in module.named_buffers() if name not in names}
    kept = {name: value.clone() for name, value in fixed.items()}

    def call(values: Sequence[Any], lifted: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        given = dict(zip(names, lifted, strict=True))
        versions = [value._version for value in fixed.values()]  # noqa: SLF001 - its public name
        arguments = dict(zip(keywords, values, strict=True))
        result = functional_call(module, given, kwargs=arguments, tie_weights=False)
        if versions != [value._version for value in fixed.values()]:  # noqa: SLF001
            raise _changed_late(fixed, kept)
        return [value for _, value in flatten(result)], [given[name] for name in names]

    return call


def _changed_late(fixed: dict[str, Any], kept: dict[str, Any]) -> ModelError:
    changed = [name for name, value in fixed.items() if not torch.equal(value, kept[name])]
    for name, value in fixed.items():
        value.copy_(kept[name])
    named = join_names(changed or list(fixed))
    return ModelError(
        f"buffer {named} changed in this step, though it did not when the model was loaded; "
        f"name it in 'states' of model.yaml: {{input: {(changed or list(fixed))[0]}}}"
    )


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
