"""Names of tensors that a model file does not name, or that the config calls otherwise. Pure.

Triton's PyTorch backend counts: ``INPUT__0`` is the first argument of forward, ``OUTPUT__1``
the second thing that it returns. Such names stand for those places here too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from legato.repository.config import ModelConfig

_COUNTED = re.compile(r".*__(\d+)")
_NUMBERED = re.compile(r"output(_\d+)+")


def input_names(config: ModelConfig, names: Sequence[str]) -> list[str]:
    """Return the arguments' names, as the config counts them where it does."""
    mentioned = [*config.inputs, *(state.input for state in config.states or ())]
    return _counted(names, mentioned)


def output_names(
    config: ModelConfig,
    names: Sequence[str],
    arguments: Sequence[str],
    variables: Sequence[str] = (),
) -> list[str]:
    """Return the outputs' names: as the config counts or lists them, or as variables.

    Args:
        config: The model's config.
        names: Names from what forward returned; ``output_0`` for places without one.
        arguments: Names of the inputs; other states of the config are no outputs.
        variables: Names of the variables that it returned, "" for none.
    """
    mentioned = list(config.outputs)
    fed = [s.output for s in config.states or () if s.output and s.input in arguments]
    mentioned += [name for name in fed if name not in mentioned]
    given = list(names)
    unnamed = all(_NUMBERED.fullmatch(name) for name in names)
    named = [variable for variable in variables if variable]
    if unnamed and len(variables) == len(names) and len(named) == len(set(named)):
        given = [variable or name for variable, name in zip(variables, names, strict=True)]
    if unnamed and len(mentioned) == len(names) and not set(mentioned) & set(names):
        known = set(given)
        counted = all(_COUNTED.fullmatch(name) for name in mentioned)
        if not counted and not known.issuperset(mentioned):
            return mentioned
    return _counted(given, mentioned)


def groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Collect the parts of tuples: ``hx_0`` and ``hx_1`` are ``hx``."""
    found: dict[str, list[str]] = {}
    for name in names:
        stem, _, place = name.rpartition("_")
        if stem and place == str(len(found.get(stem, ()))):
            found.setdefault(stem, []).append(name)
    return {stem: parts for stem, parts in found.items() if len(parts) > 1}


def _counted(names: Sequence[str], mentioned: Iterable[str]) -> list[str]:
    renamed = list(names)
    for name in mentioned:
        found = _COUNTED.fullmatch(name)
        if found and name not in names and int(found[1]) < len(renamed):
            renamed[int(found[1])] = name
    return renamed
