"""Read a ``model.yaml``: YAML to :class:`ModelConfig`, mistakes to sentences.

Every mistake becomes a :class:`ConfigError` that names the file and line, the
key, and the fix; the reader never needs to know YAML's or pydantic's own words.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydantic_core import ErrorDetails

Location = tuple[int | str, ...]

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
}


class Manifest:
    """The contents of one ``model.yaml``, with the line of every key.

    Raises:
        ConfigError: The file cannot be read, is no YAML, repeats a key or is no mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[Location, int] = {}
        self._walked: set[int] = set()  # nodes: an alias is the same node again
        self.values = self._read()

    def _read(self) -> dict[str, Any]:
        try:
            loader = yaml.SafeLoader(self.path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
            if node is None:
                return {}
            self._walk(node, ())
            values = loader.construct_document(node)
        except yaml.MarkedYAMLError as error:
            raise self._bad_yaml(error) from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"cannot be read: {error}", file=str(self.path), fix="make it a UTF-8 YAML file"
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(
                "holds no mapping", file=str(self.path), fix="write lines of the form 'key: value'"
            )
        return values

    def _walk(self, node: yaml.Node, location: Location) -> None:
        """Note the line of every key, and refuse a key given twice (YAML takes the last)."""
        if id(node) in self._walked:
            return
        self._walked.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self._lines[*location, index] = item.start_mark.line + 1
                self._walk(item, (*location, index))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*location, str(key.value))
                if here in self._lines:
                    raise self.problem(
                        f"is given twice, first in line {self._lines[here]}",
                        here,
                        line=key.start_mark.line + 1,
                        fix="remove one of the two",
                    )
                self._lines[here] = key.start_mark.line + 1
                self._walk(value, here)

    def _bad_yaml(self, error: yaml.MarkedYAMLError) -> ConfigError:
        mark = error.problem_mark or error.context_mark
        where = f"{self.path}:{mark.line + 1}" if mark else str(self.path)
        column = f" at column {mark.column + 1}" if mark else ""
        return ConfigError(
            f"is not valid YAML{column}: {error.problem or error.context}",
            file=where,
            fix="check indentation, colons and quotes in this line and the one before",
        )

    def problem(
        self, text: str, location: Location = (), *, line: int | None = None, fix: str = ""
    ) -> ConfigError:
        """Make a ConfigError that points at ``location`` of this file."""
        line = line or self._line(location)
        file = f"{self.path}:{line}" if line else str(self.path)
        return ConfigError(text, file=file, key=spell(location), fix=fix)

    def _line(self, location: Location) -> int | None:
        while location:
            if location in self._lines:
                return self._lines[location]
            location = location[:-1]
        return None

    def config(self, defaults: Mapping[str, Any]) -> ModelConfig:
        """Check the values, with ``defaults`` for what the file leaves out.

        Raises:
            ConfigError: A key is unknown or a value is wrong; the first one is told.
        """
        try:
            return ModelConfig.model_validate({**defaults, **self.values})
        except ValidationError as error:
            raise self._explained(error.errors(include_url=False)) from None

    def _explained(self, errors: Sequence[ErrorDetails]) -> ConfigError:
        # An unknown key is told first: a key that is missing is often one misspelt.
        first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        text, fix = _explain(first)
        if len(errors) > 1:
            text += f" (and {len(errors) - 1} more to correct in this file)"
        return self.problem(text, first["loc"], fix=fix)


def spell(location: Location) -> str:
    """Write a location as people do: ``states[0].rule``."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _explain(error: ErrorDetails) -> tuple[str, str]:
    """Tell one pydantic error as (problem, fix)."""
    kind, value = error["type"], error.get("input")
    context = error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(error["loc"])
    if kind == "missing":
        return "is missing", "add it"
    if kind in _KINDS:
        fix = "write it in quotes" if kind == "string_type" and not _nested(value) else ""
        return f"must be {_KINDS[kind]}, not {_show(value)}", fix
    if kind == "literal_error":
        expected = str(context.get("expected", ""))
        choices = expected.replace("'", "").replace(",", " ").replace(" or ", " ").split()
        near = difflib.get_close_matches(str(value), choices, n=1)
        fix = f"did you mean '{near[0]}'?" if near else ""
        return f"must be {expected}, not {_show(value)}", fix
    if kind == "value_error":
        return str(context.get("error", error["msg"])), ""
    bounds = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if kind in bounds:
        words, bound = bounds[kind]
        return f"must be {words} {context[bound]}, not {_show(value)}", ""
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}, not {_show(value)}", ""


def _unknown_key(location: Location) -> tuple[str, str]:
    known = _keys_at(location[:-1])
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    fix = f"did you mean '{near[0]}'?" if near else f"the keys here are {', '.join(known)}"
    return "is not a key that Legato knows", fix


def _keys_at(location: Location) -> list[str]:
    """List the keys that a config knows at ``location``."""
    model: type[BaseModel] = ModelConfig
    for part in location:
        # Indices and keys of dictionaries lead into the same model.
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)


def _nested(value: object) -> bool:
    return isinstance(value, dict | list)


def _show(value: object) -> str:
    if value is None:
        return "nothing"
    if _nested(value):
        return "a list" if isinstance(value, list) else "a mapping"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
