"""Mistakes in a model.yaml are told with line, key and fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from legato.core.errors import ConfigError
from legato.repository.manifest import Manifest, spell

if TYPE_CHECKING:
    from pathlib import Path


def refusal(folder: Path, text: str) -> ConfigError:
    """Read a manifest that must be refused."""
    path = folder / "model.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Manifest(path).config({"name": "m"})
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "key", "fix"),
    [
        ("name: m\nmax_batchsize: 3", 2, "max_batchsize", "did you mean 'max_batch_size'?"),
        ("states:\n- input: h\n  ruel: append", 3, "states[0].ruel", "did you mean 'rule'?"),
        ("inputs:\n  sr:\n    scaler: true", 3, "inputs.sr.scaler", "did you mean 'scalar'?"),
        (
            "sequences:\n  idle_timeout: 3",
            2,
            "sequences.idle_timeout",
            "did you mean 'idle_timeout_s'?",
        ),
        (
            "outputs: {y: {zzz: 1}}",
            1,
            "outputs.y.zzz",
            "the keys here are dtype, shape, batch_axis, reshape",
        ),
    ],
)
def test_unknown_key_offers_the_near_one(
    tmp_path: Path, text: str, line: int, key: str, fix: str
) -> None:
    """A misspelt key at any depth gets its line and the key that was meant."""
    error = refusal(tmp_path, text)

    assert error.file == f"{tmp_path}/model.yaml:{line}"
    assert (error.key, error.fix) == (key, fix)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("max_batch_size: many", "must be a whole number, not 'many'"),
        ("max_batch_size: 1.5", "must be a whole number, not 1.5"),
        ("max_batch_size: 0", "must be at least 1, not 0"),
        ("instances: 65", "must be at most 64, not 65"),
        ("max_queue_delay_ms: soon", "must be a number, not 'soon'"),
        ("gate: maybe", "must be true or false, not 'maybe'"),
        ("name: 7", "must be text, not 7"),
        ("version: 1.0", "must be text, not 1.0"),
        ("name: a/b", "must be printable text without '/'"),
        ("states: {}", "must be a list, not a mapping"),
        ("inputs: []", "must be a mapping (key: value), not a list"),
        ("states: [h]", "must be a mapping (key: value), not 'h'"),
        ("options:", "must be a mapping (key: value), not nothing"),
        ("states: [{output: hn}]", "is missing"),
        (f"name: {'x' * 300}", "string should have at most 200 characters, not 'xxx"),
    ],
)
def test_wrong_value_says_what_is_right(tmp_path: Path, text: str, problem: str) -> None:
    """A value of the wrong kind is told in the reader's words."""
    error = refusal(tmp_path, text)

    assert error.problem.startswith(problem)
    assert error.file == f"{tmp_path}/model.yaml:1"


def test_wrong_choice_offers_the_near_one(tmp_path: Path) -> None:
    """A misspelt choice lists all choices and the likely one."""
    error = refusal(tmp_path, "states:\n- input: h\n  output: hn\n  rule: apend")

    assert (error.key, error.fix) == ("states[0].rule", "did you mean 'append'?")
    assert "'window'" in error.problem


def test_text_that_looks_like_a_number_is_told_to_be_quoted(tmp_path: Path) -> None:
    """YAML's numbers are the usual reason for a name that is no text."""
    assert refusal(tmp_path, "name: 7").fix == "write it in quotes"


def test_unknown_key_is_told_before_the_missing_one(tmp_path: Path) -> None:
    """'inptu' is one mistake of the writer, though it makes two errors."""
    error = refusal(tmp_path, "states:\n- inptu: h")

    assert error.key == "states[0].inptu"
    assert "1 more" in error.problem


def test_bad_yaml_names_the_line(tmp_path: Path) -> None:
    """A syntax error is told with its line and column."""
    error = refusal(tmp_path, "name: m\nstates: [a, b\nrule: x")

    assert error.file == f"{tmp_path}/model.yaml:3"
    assert "is not valid YAML at column" in error.problem


def test_repeated_key_is_refused(tmp_path: Path) -> None:
    """YAML would silently take the last one."""
    error = refusal(tmp_path, "name: a\ngate: true\nname: b")

    assert error.file == f"{tmp_path}/model.yaml:3"
    assert error.problem == "is given twice, first in line 1"


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "42"])
def test_document_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    """A list or a word at the top is not a config."""
    assert "holds no mapping" in refusal(tmp_path, text).problem


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.getcwd []", "{[a]: 1}", "a: &x [*x]"]
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    """Tags that run code, keys that are no text and loops end in a clear error."""
    assert refusal(tmp_path, text).file.startswith(str(tmp_path))


def test_version_number_is_taken_as_text(tmp_path: Path) -> None:
    """'version: 2' is what people write."""
    path = tmp_path / "model.yaml"
    path.write_text("version: 2")

    config = Manifest(path).config({"name": "m"})

    assert config.version == "2"


def test_location_is_spelt_as_people_do() -> None:
    """Indices stand in brackets, names after dots."""
    assert spell(("states", 0, "rule")) == "states[0].rule"
