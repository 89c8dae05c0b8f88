"""TorchServe archives become configs; whatever is wrong with one is said."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml

from legato.core.errors import ConfigError
from legato.repository.digest import content_digest
from legato.repository.torchserve import ArchiveSettings, load_archive

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST = {
    "createdOn": "01/02/2026 03:04:05",
    "runtime": "python",
    "model": {
        "modelName": "sum",
        "modelVersion": "2.1",
        "handler": "handler.py:run",
        "configFile": "config.yaml",
    },
}
FILES = {"handler.py": "def run(data, context):\n    return data\n", "extra/words.txt": "a"}


def members(manifest=MANIFEST, **keys) -> dict[str, str]:
    return {
        **FILES,
        "config.yaml": yaml.safe_dump(keys),
        **({"MAR-INF/MANIFEST.json": json.dumps(manifest)} if manifest else {}),
    }


def mar(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def tgz(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"top/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


def tree(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


@pytest.fixture
def load(tmp_path):
    """Load an archive below a test's own workspace."""

    def load(path: Path, **settings):
        name = settings.pop("name", "")
        given = {"workspace": tmp_path / "work", **settings}
        return load_archive(path, name=name, settings=given)

    return load


def test_every_form_gives_the_same_model(load, tmp_path) -> None:
    """.mar, .tar.gz, a folder, and a folder in a folder: same files, same content digest."""
    files = members(batchSize=3)
    paths = [
        mar(tmp_path / "a.mar", files),
        tgz(tmp_path / "a.tar.gz", files),
        tree(tmp_path / "a", files),
        tree(tmp_path / "outer" / "inner", files).parent,
    ]

    configs = [load(path) for path in paths]

    assert {config.name for config in configs} == {"sum"}
    assert {config.version for config in configs} == {"2.1"}
    assert {config.options["handler"] for config in configs} == {"handler.py:run"}
    assert {config.max_batch_size for config in configs} == {3}
    assert len({content_digest(config) for config in configs}) == 1
    for config in configs:
        assert (config.folder / "extra" / "words.txt").read_text() == "a"


def test_limits_are_no_part_of_a_models_content(load, tmp_path) -> None:
    """A larger batch does not cut off live sequences; another handler does."""
    one = load(mar(tmp_path / "a.mar", members(batchSize=1)))
    two = load(mar(tmp_path / "b.mar", members(batchSize=8)))
    other = load(mar(tmp_path / "c.mar", {**members(), "handler.py": "run = print\n"}))

    assert content_digest(one) == content_digest(two) != content_digest(other)


@pytest.mark.parametrize("name", ["../out.txt", "/abs.txt", "a/../../out.txt"])
def test_entries_outside_the_archive_are_refused(load, tmp_path, name: str) -> None:
    """Nothing is written outside, and nothing is left inside."""
    files = {**members(), name: "x"}

    paths = [mar(tmp_path / "a.mar", files)]
    if not name.startswith("/"):  # below the top folder of a tar it is none
        paths.append(tgz(tmp_path / "a.tgz", files))
    for path in paths:
        with pytest.raises(ConfigError, match="outside"):
            load(path)

    assert not (tmp_path / "out.txt").exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_wrong_types_are_passed_over_and_said(load, tmp_path) -> None:
    """Nothing in the YAML makes loading fail; keys that are not ours are the handler's."""
    keys = {"batchSize": "8", "minWorkers": 2.5, "sequenceBatching": 1, "mine": {"x": 1}}

    config = load(mar(tmp_path / "a.mar", members(**keys)))

    assert config.max_batch_size == 1
    assert len(config.options["notes"]) == 3
    assert config.options["yaml"] == keys


def test_sequence_keys_become_limits(load, tmp_path) -> None:
    """Live sequences, their queues and their times."""
    keys = {
        "sequenceBatching": True,
        "sequenceMaxIdleMSec": 1500,
        "maxNumSequence": 9,
        "maxSequenceJobQueueSize": 7,
        "sequenceTimeoutMSec": 5000,
    }

    sequences = load(mar(tmp_path / "a.mar", members(**keys))).sequences

    assert (sequences.idle_timeout_s, sequences.max_live) == (1.5, 9)
    assert sequences.max_queued_steps == 7


def test_who_wins(load, tmp_path) -> None:
    """Batch: register call, YAML, models property. Workers and time limits: YAML first."""
    yaml_keys = {"batchSize": 4, "minWorkers": 2, "maxWorkers": 3, "responseTimeout": 50}
    asked = {
        "batch_size": 8,
        "initial_workers": 5,
        "response_timeout": 70,
        "startup_timeout": 80,
        "model": {"batchSize": 2, "startupTimeout": 90, "minWorkers": 4},
    }

    both = load(mar(tmp_path / "a.mar", members(**yaml_keys)), **asked)
    bare = load(mar(tmp_path / "b.mar", members()), model=asked["model"])
    default = load(mar(tmp_path / "c.mar", members()), default_workers_per_model=3)

    assert (both.max_batch_size, both.instances) == (8, 2)
    assert both.worker.response_timeout_s == 50
    assert both.worker.startup_timeout_s == 80
    assert (bare.max_batch_size, bare.instances, bare.worker.startup_timeout_s) == (2, 4, 90)
    assert (default.instances, default.worker.response_timeout_s) == (3, 120)


def test_archive_without_manifest_needs_a_name_and_a_handler(load, tmp_path) -> None:
    """The name comes from the file, the handler from the register call."""
    path = mar(tmp_path / "my-model.v2.mar", members(manifest=None))

    with pytest.raises(ConfigError, match="no handler"):
        load(path)
    config = load(path, handler="handler:run")

    assert config.name == "my_model_v2"
    assert config.version == "1.0"
    assert config.options["manifest"] is None


def test_broken_and_missing_archives_are_said(load, tmp_path) -> None:
    """With the file's name and what to do."""
    broken = tmp_path / "broken.mar"
    broken.write_bytes(b"PK\x03\x04 nothing")

    with pytest.raises(ConfigError, match=r"broken\.mar.*cannot be unpacked"):
        load(broken)
    with pytest.raises(ConfigError, match="not found"):
        load(tmp_path / "none.mar")


def test_failing_requirements_are_a_config_error(load, tmp_path) -> None:
    """Only where they are asked for."""
    manifest = {**MANIFEST, "model": {**MANIFEST["model"], "requirementsFile": "needs.txt"}}
    files = {**members(manifest=manifest), "needs.txt": "./there-is-no-such.whl\n"}
    path = mar(tmp_path / "a.mar", files)

    load(path)
    with pytest.raises(ConfigError, match="Custom pip package installation failed for model sum"):
        load(path, install_py_dep_per_model=True)


def test_settings_take_what_is_theirs() -> None:
    """Other properties are no mistake."""
    settings = ArchiveSettings.of({"job_queue_size": 5, "inference_address": "x"})

    assert settings.job_queue_size == 5


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"asyncCommunication": True}, "asyncCommunication"),
        ({"parallelType": "tp"}, "parallelType"),
        ({"torchrun": {"nproc-per-node": 4}}, "torchrun"),
        ({"asyncCommunication": False, "parallelType": "", "torchrun": {"nnodes": 1}}, ""),
    ],
)
def test_keys_that_ask_for_what_there_is_not_are_named(tmp_path, keys, said: str) -> None:
    """The archive is served, and the log says which of its keys are passed over."""
    config = load_archive(mar(tmp_path / "m.mar", members(**keys)))

    notes = config.options["notes"]
    assert len(notes) == bool(said)
    assert all(said in note and "passed over" in note for note in notes)
