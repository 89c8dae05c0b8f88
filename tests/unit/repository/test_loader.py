"""What a path on the command line becomes, and what is said when it becomes nothing."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from legato.core.errors import ConfigError
from legato.repository.loader import load_paths


def put(path: Path, text: str = "content") -> Path:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


def refusal(*paths: Path) -> ConfigError:
    """Load paths that must be refused."""
    with pytest.raises(ConfigError) as caught:
        load_paths(paths)
    return caught.value


# -- what is found --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad.ort"])
def test_bare_file_is_served_under_its_stem(tmp_path: Path, name: str) -> None:
    """A model file alone is a model named as its stem, with absolute paths."""
    file = put(tmp_path / name)

    [config] = load_paths([file])

    assert (config.name, config.version, config.runtime) == ("silero_vad", "1", "onnx")
    assert (config.file, config.folder) == (file, tmp_path)


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config does not depend on the folder that the server was started in."""
    file = put(tmp_path / "a.onnx")
    monkeypatch.chdir(tmp_path)

    [config] = load_paths([Path("a.onnx")])

    assert config.file == file


def test_folder_with_manifest_is_named_as_the_folder(tmp_path: Path) -> None:
    """Without 'name' the folder's name is the model's, and the only model file is found."""
    put(tmp_path / "vad/model.yaml", "max_batch_size: 32")
    file = put(tmp_path / "vad/any.onnx")

    [config] = load_paths([tmp_path / "vad"])

    assert (config.name, config.max_batch_size, config.file) == ("vad", 32, file)


def test_manifest_names_model_file_and_version(tmp_path: Path) -> None:
    """'name', 'version' (a number is fine) and 'file' are taken as written."""
    put(tmp_path / "model.yaml", "name: vad\nversion: 7\nfile: b.onnx")
    put(tmp_path / "a.onnx")
    put(tmp_path / "b.onnx")

    [config] = load_paths([tmp_path / "model.yaml"])

    assert (config.name, config.version, config.file) == ("vad", "7", tmp_path / "b.onnx")


def test_empty_manifest_is_all_defaults(tmp_path: Path) -> None:
    """A model.yaml without a line serves the model file of its folder."""
    put(tmp_path / "m/model.yaml", "")
    put(tmp_path / "m/x.onnx")

    [config] = load_paths([tmp_path / "m"])

    assert config.name == "m"


def test_entry_makes_a_python_model(tmp_path: Path) -> None:
    """'entry' alone says that the runtime is Python; no model file is looked for."""
    put(tmp_path / "ema/model.yaml", "entry: ema.py:Average\noptions: {alpha: 0.5}")
    put(tmp_path / "ema/ema.py")

    [config] = load_paths([tmp_path / "ema"])

    assert (config.runtime, config.entry, config.file) == ("python", "ema.py:Average", None)
    assert config.options == {"alpha": 0.5}


def test_folder_of_models_gives_each_of_them(tmp_path: Path) -> None:
    """Bare files, folders with a config and folders with a lone model file; the rest is passed."""
    put(tmp_path / "a.onnx")
    put(tmp_path / "b/model.yaml", "entry: b.py:B")
    put(tmp_path / "b/b.py")
    put(tmp_path / "c/weights.onnx")
    put(tmp_path / "docs/readme.md")
    put(tmp_path / ".hidden/x.onnx")
    put(tmp_path / "_old/x.onnx")

    configs = load_paths([tmp_path])

    assert [config.name for config in configs] == ["a", "b", "c"]


def test_version_folders_share_one_manifest(tmp_path: Path) -> None:
    """Each numbered subfolder is a version, in the order of the numbers."""
    put(tmp_path / "m/model.yaml", "max_batch_size: 3\nfile: net.onnx")
    for number in ("10", "9"):
        put(tmp_path / f"m/{number}/net.onnx")

    configs = load_paths([tmp_path / "m"])

    assert [(c.name, c.version, c.max_batch_size) for c in configs] == [
        ("m", "9", 3),
        ("m", "10", 3),
    ]
    assert [c.file for c in configs] == [tmp_path / "m/9/net.onnx", tmp_path / "m/10/net.onnx"]


def test_version_folders_need_no_manifest(tmp_path: Path) -> None:
    """The layout of a Triton repository without a config is served as it is."""
    put(tmp_path / "repo/m/1/model.onnx")
    put(tmp_path / "repo/m/2/model.onnx")

    configs = load_paths([tmp_path / "repo"])

    assert [(c.name, c.version) for c in configs] == [("m", "1"), ("m", "2")]


def test_version_folder_may_hold_its_own_manifest(tmp_path: Path) -> None:
    """A version with a config of its own still belongs to the model of the outer folder."""
    put(tmp_path / "m/1/model.onnx")
    put(tmp_path / "m/2/model.yaml", "entry: m.py:M")
    put(tmp_path / "m/2/m.py")

    configs = load_paths([tmp_path / "m"])

    assert [(c.name, c.version, c.runtime) for c in configs] == [
        ("m", "1", "onnx"),
        ("m", "2", "python"),
    ]


def test_file_called_model_wins(tmp_path: Path) -> None:
    """Where several model files lie together, model.onnx is the model."""
    put(tmp_path / "m/model.onnx")
    put(tmp_path / "m/encoder.onnx")

    [config] = load_paths([tmp_path / "m"])

    assert (config.name, config.file) == ("m", tmp_path / "m/model.onnx")


# -- what is refused ------------------------------------------------------------------


def test_missing_path_offers_the_near_one(tmp_path: Path) -> None:
    """A path that is not there is refused with the name that was probably meant."""
    put(tmp_path / "silero.onnx")

    error = refusal(tmp_path / "silera.onnx")

    assert error.file == str(tmp_path / "silera.onnx")
    assert error.fix == "did you mean 'silero.onnx'?"


@pytest.mark.parametrize("inside", [[], ["notes.txt"], ["deep/deeper/a.onnx"], ["1/notes.txt"]])
def test_folder_without_models_is_refused(tmp_path: Path, inside: list[str]) -> None:
    """A folder in which no model is found says what could be given instead."""
    for name in inside:
        put(tmp_path / name)

    error = refusal(tmp_path)

    assert error.problem == "no model is found here"
    assert "model.yaml" in error.fix


def test_other_files_are_refused(tmp_path: Path) -> None:
    """A file that is no model says what can be given."""
    assert ".onnx" in refusal(put(tmp_path / "model.py")).fix


def test_bare_file_with_an_unusable_name_is_refused(tmp_path: Path) -> None:
    """A stem that cannot stand in a URL path is refused at start, not at the first request."""
    error = refusal(put(tmp_path / "a\tb.onnx"))

    assert "cannot be the name of a model" in error.problem


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    """Both places are named, so that one of them can be changed."""
    first, second = put(tmp_path / "a/vad.onnx"), put(tmp_path / "b/vad.onnx")

    error = refusal(first, second)

    assert error.file == str(second)
    assert str(first) in error.problem
    assert "version 1 of model 'vad'" in error.problem


def test_several_model_files_ask_for_the_right_one(tmp_path: Path) -> None:
    """Two candidates are never guessed between."""
    put(tmp_path / "m/model.yaml", "")
    put(tmp_path / "m/a.onnx")
    put(tmp_path / "m/b.onnx")

    error = refusal(tmp_path / "m")

    assert error.key == "file"
    assert error.problem == "which of 'a.onnx', 'b.onnx' is the model?"
    assert error.fix == "name it in model.yaml: 'file: a.onnx'"


def test_manifest_without_model_file_is_refused(tmp_path: Path) -> None:
    """A config beside no model file says what is missing."""
    put(tmp_path / "model.yaml", "name: m")

    error = refusal(tmp_path)

    assert error.key == "file"
    assert "holds no model file" in error.problem


def test_missing_model_file_offers_the_near_one(tmp_path: Path) -> None:
    """A misspelt 'file' names line, key and the file that was probably meant."""
    put(tmp_path / "model.yaml", "name: m\nfile: silera.onnx")
    put(tmp_path / "silero.onnx")

    error = refusal(tmp_path)

    assert (error.file, error.key) == (f"{tmp_path}/model.yaml:2", "file")
    assert error.fix == "did you mean 'silero.onnx'?"


@pytest.mark.parametrize(
    ("text", "key", "problem"),
    [
        ("entry: gone.py:Model", "entry", "names 'gone.py'"),
        ("entry: code.py", "entry", "must name a file and a class"),
        ("entry: code.py:2nd", "entry", "must name a file and a class"),
        ("runtime: python", "entry", "is missing"),
        ("entry: code.py:A\nruntime: onnx", "entry", "does not go with 'runtime: onnx'"),
        ("entry: code.py:A\nfiles: [code.py, gone.npz]", "files[1]", "names 'gone.npz'"),
        ("states:\n- {input: h, output: hn, initial: gone.npy}", "states[0].initial", "gone.npy"),
        ("folder: elsewhere", "folder", "cannot be set"),
    ],
)
def test_wrong_references_name_their_key(tmp_path: Path, text: str, key: str, problem: str) -> None:
    """Everything that a config refers to is looked at before the server starts."""
    put(tmp_path / "model.yaml", text)
    put(tmp_path / "code.py")
    put(tmp_path / "model.onnx")

    error = refusal(tmp_path)

    assert error.key == key
    assert problem in error.problem


def test_version_given_twice_is_refused(tmp_path: Path) -> None:
    """Numbered subfolders and a 'version' key contradict one another."""
    put(tmp_path / "model.yaml", "version: 3")
    put(tmp_path / "1/model.onnx")

    assert refusal(tmp_path).key == "version"


def test_manifest_under_a_manifest_is_refused(tmp_path: Path) -> None:
    """A version's own config is not silently overruled by the one above it."""
    put(tmp_path / "model.yaml", "max_batch_size: 3")
    put(tmp_path / "1/model.yaml", "max_batch_size: 4")
    put(tmp_path / "1/model.onnx")

    error = refusal(tmp_path)

    assert error.file == str(tmp_path / "1/model.yaml")


def test_unreadable_manifest_is_a_config_error(tmp_path: Path) -> None:
    """Bytes that are no text are refused by the name of their file."""
    (tmp_path / "model.yaml").write_bytes(b"\xff\xfe\x00 not text")

    assert "cannot be read" in refusal(tmp_path).problem
