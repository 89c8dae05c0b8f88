"""``config.json`` and versions folders of OpenVINO Model Server become configs."""

from __future__ import annotations

import json

import pytest

from legato.core.errors import ConfigError
from legato.repository.ovms import Options, OvmsRepository, idle_timeout_s, read_config_file
from legato.repository.ovms_folders import find_files, find_versions, served_versions
from legato.repository.ovms_schema import DEFAULT_METRICS, ModelEntry, VersionPolicy
from legato.repository.wanted import RepositoryError

NOT_STATEFUL = "Stateful model config parameter used for non stateful model"


@pytest.fixture
def models(tmp_path):
    """Make the folder of a model with versions; only names of files count here."""

    def models(name, *versions, files=("model.xml", "model.bin")):
        for version in versions:
            folder = tmp_path / name / str(version)
            folder.mkdir(parents=True)
            for file in files:
                (folder / file).write_text(file)
        return tmp_path / name

    return models


@pytest.fixture
def repository(tmp_path):
    """Write a config file with these entries; the repository that reads it."""

    def repository(*entries, cleaner_minutes=5, said=None, **top):
        path = tmp_path / "config.json"
        whole = {"model_config_list": [{"config": entry} for entry in entries], **top}
        path.write_text(json.dumps(whole))
        options = Options(config_path=path, cleaner_minutes=cleaner_minutes, **(said or {}))
        return OvmsRepository(options)

    return repository


# -- metrics --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("top", "said", "metrics"),
    [
        ({}, {}, ()),
        ({}, {"metrics": ("ovms_streams",)}, ("ovms_streams",)),
        ({"monitoring": {"metrics": {"enable": False}}}, {}, ()),
        ({"monitoring": {"metrics": {"enable": True}}}, {}, DEFAULT_METRICS),
        (
            {"monitoring": {"metrics": {"enable": True, "metrics_list": ["ovms_streams"]}}},
            {},
            ("ovms_streams",),
        ),
    ],
)
def test_metrics_are_asked_for_by_flags_or_by_the_file(repository, top, said, metrics) -> None:
    """By one of them."""
    assert repository(said=said, **top).metrics() == metrics


@pytest.mark.parametrize(
    ("metrics", "said", "text"),
    [
        (
            {"enable": True, "metrics_list": ["ovms_nonsense"]},
            {},
            "Invalid name in metrics_list: ovms_nonsense",
        ),
        ({"enable": True}, {"rest": False}, "Missing rest_port parameter in server CLI"),
        (
            {"enable": True},
            {"metrics": ("ovms_streams",)},
            "metrics are asked for on the command line already",
        ),
    ],
)
def test_metrics_that_cannot_be_had_are_an_error_of_the_start(
    repository, metrics, said, text
) -> None:
    """Wrong names, no port to offer them on, and flags beside the file."""
    with pytest.raises(ConfigError, match=text):
        repository(said=said, monitoring={"metrics": metrics}).metrics()


# -- what becomes of an entry --------------------------------------------------------------------


def test_an_entry_becomes_the_newest_version(models, repository) -> None:
    """By default; the defaults of the rest are Model Server's."""
    models("m", 1, 2, 10)

    (model,) = repository({"name": "m", "base_path": "m"}).read().models.values()

    (config,) = model.versions.values()
    assert (config.name, config.version, config.runtime) == ("m", "10", "openvino")
    assert config.file.name == "model.xml"
    assert sorted(model.others) == ["1", "2"]
    assert config.sequences.max_live == 500
    assert config.sequences.idle_timeout_s == 600
    assert config.options == {"target_device": "CPU"}
    assert model.stateful is False


def test_changed_values_take_effect(models, repository) -> None:
    """Those of sequences as limits, the others as options of the runtime."""
    models("m", 1)
    entry = {
        "name": "m",
        "base_path": "m",
        "stateful": True,
        "max_sequence_number": 7,
        "idle_sequence_cleanup": False,
        "low_latency_transformation": True,
        "shape": {"x": "(1,1,40)"},
        "layout": "N...",
        "nireq": 4,
        "target_device": "AUTO",
        "plugin_config": {"NUM_STREAMS": 2, "X": True, "Y": "z"},
    }

    (model,) = repository(entry).read().models.values()

    config = model.versions["1"]
    assert model.stateful
    assert (config.sequences.max_live, config.sequences.idle_timeout_s) == (7, 0)
    assert config.options == {
        "stateful": True,
        "low_latency_transformation": True,
        "shape": {"x": "(1,1,40)"},
        "layout": "N...",
        "nireq": 4,
        "target_device": "AUTO",
        "plugin_config": {"NUM_STREAMS": 2, "X": True, "Y": "z"},
    }


@pytest.mark.parametrize(
    ("values", "minutes", "expected"),
    [
        ({}, 5, 600),
        ({}, 1, 120),
        ({}, 0, 0),
        ({"idle_sequence_cleanup": False}, 5, 0),
        ({"sequence_timeout_seconds": 60}, 5, 60),
        ({"sequence_timeout_seconds": 60, "idle_sequence_cleanup": False}, 5, 60),
        ({"sequence_timeout_seconds": 0}, 5, 0),
    ],
)
def test_sequences_die_after_two_intervals_of_the_cleaner(values, minutes, expected) -> None:
    """Unless the model does not take part, or says its own seconds."""
    entry = ModelEntry(name="m", stateful=True, **values)

    assert idle_timeout_s(entry, minutes) == expected


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"max_sequence_number": 500}, NOT_STATEFUL),
        ({"idle_sequence_cleanup": True}, NOT_STATEFUL),
        ({"low_latency_transformation": False}, NOT_STATEFUL),
        ({"stateful": False, "max_sequence_number": 1}, NOT_STATEFUL),
        (
            {"stateful": True, "max_sequence_number": 5294967295},
            "Sequence max number parameter too high",
        ),
        ({"stateful": True, "batch_size": "auto"}, "Dynamic shape and dynamic batch size"),
        ({"stateful": True, "shape": "auto"}, "Dynamic shape and dynamic batch size"),
        ({"stateful": True, "shape": {"x": "auto"}}, "Dynamic shape and dynamic batch size"),
        ({"base_path": "../m"}, "must not contain '..'"),
        ({"base_path": "s3://bucket/m"}, "not on this machine"),
        ({"base_path": ""}, "is missing"),
        ({"base_path": "nowhere"}, "cannot be read"),
        ({"custom_loader_options": {}}, "custom loaders"),
        ({"graph_path": "graph.pbtxt"}, "graphs are not served"),
    ],
)
def test_a_wrong_entry_costs_itself_only(models, repository, entry, text) -> None:
    """The others of the file are served."""
    models("m", 1)
    models("good", 1)

    wanted = repository(
        {"name": "m", "base_path": "m", **entry}, {"name": "good", "base_path": "good"}
    ).read()

    assert list(wanted.models) == ["good"]
    assert text in wanted.problems["m"]


@pytest.mark.parametrize("number", [1, 2**32 - 1])
def test_limits_of_the_sequence_number(models, repository, number) -> None:
    """Both ends are accepted."""
    models("m", 1)
    entry = {"name": "m", "base_path": "m", "stateful": True, "max_sequence_number": number}

    config = repository(entry).read().models["m"].versions["1"]

    assert config.sequences.max_live == number


def test_a_name_is_given_once(models, repository) -> None:
    """The first entry stands."""
    models("m", 1)
    entry = {"name": "m", "base_path": "m"}

    wanted = repository(entry, entry).read()

    assert "m" in wanted.problems


def test_pipelines_are_told_not_to_be_served(models, repository) -> None:
    """The models of the file are."""
    models("m", 1)

    wanted = repository({"name": "m", "base_path": "m"}, pipeline_config_list=[{"name": "p"}])

    found = wanted.read()
    assert list(found.models) == ["m"]
    assert "pipeline_config_list" in found.problems


def test_a_version_without_a_model_costs_itself_only(models, repository) -> None:
    """The others of the policy are served."""
    models("m", 1)
    models("m", 2, files=("readme.txt",))
    entry = {"name": "m", "base_path": "m", "model_version_policy": {"all": {}}}

    model = repository(entry).read().models["m"]

    assert list(model.versions) == ["1"]
    assert "holds no model" in model.problems["2"]


def test_public_names_come_from_the_mapping_file(models, repository) -> None:
    """It lies beside the model."""
    folder = models("m", 1)
    (folder / "1" / "mapping_config.json").write_text('{"inputs": {"x": "audio"}}')

    config = repository({"name": "m", "base_path": "m"}).read().models["m"].versions["1"]

    assert config.options["mapping"] == {"inputs": {"x": "audio"}}


def test_one_model_of_the_command_line(models) -> None:
    """It is an entry like any other."""
    folder = models("m", 3)
    options = Options(model={"name": "one", "base_path": str(folder)}, cache_dir="/cache")

    repository = OvmsRepository(options)

    config = repository.read().models["one"].versions["3"]
    assert repository.single
    assert config.options["plugin_config"] == {"CACHE_DIR": "/cache"}


# -- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"max_sequence_number": -1},
        {"max_sequence_number": 1.5},
        {"stateful": "true"},
        {"stateful": 1},
        {"idle_sequence_cleanup": "yes"},
        {"low_latency_transformation": 0},
        {"nireq": "4"},
        {"batch_size": -1},
        {"shape": [1, 2]},
        {"plugin_config": {"A": [1]}},
        {"unknown": 1},
        {"name": 1},
        {"model_version_policy": {}},
        {"model_version_policy": {"all": {}, "latest": {}}},
        {"model_version_policy": {"latest": {"num_versions": 0}}},
        {"model_version_policy": {"specific": {"versions": [0]}}},
        {"sequence_timeout_seconds": -1},
    ],
)
def test_what_breaks_the_schema_breaks_the_file(models, repository, change) -> None:
    """As in Model Server: no model of it is served."""
    models("m", 1)

    with pytest.raises(RepositoryError) as caught:
        repository({"name": "m", "base_path": "m", "stateful": True, **change}).read()

    assert caught.value.kind == "config"


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"model_config_list": {}}',
        '{"model_config_list": [], "more": 1}',
        '{"model_config_list": [{"config": {"name": "m"}, "more": 1}]}',
        '{"model_config_list": [{}]}',
        "[]",
        "nonsense",
        '{"model_config_list": []',
        '{"model_config_list": [], "monitoring": {"metrics": {"enable": "yes"}}}',
    ],
)
def test_what_is_no_config_is_refused(tmp_path, text) -> None:
    """With the name of the file."""
    path = tmp_path / "config.json"
    path.write_text(text)

    with pytest.raises(RepositoryError) as caught:
        read_config_file(path)

    assert str(path) in caught.value.message


def test_all_known_keys_are_taken(tmp_path) -> None:
    """Also those that nothing is done with."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "model_config_list": [
                    {"config": {"name": "m", "base_path": "m", "allow_cache": True}}
                ],
                "pipeline_config_list": [],
                "mediapipe_config_list": [],
                "custom_loader_config_list": [],
                "custom_node_library_config_list": [],
                "monitoring": {"metrics": {"enable": True, "metrics_list": ["ovms_streams"]}},
            }
        )
    )

    assert read_config_file(path).model_config_list[0].config.allow_cache


def test_a_missing_file_is_told_apart(tmp_path) -> None:
    """It may come back."""
    with pytest.raises(RepositoryError) as caught:
        read_config_file(tmp_path / "none.json")

    assert caught.value.kind == "missing"


# -- folders -------------------------------------------------------------------------------------


def test_versions_are_positive_numbers(tmp_path) -> None:
    """Other folders and files are passed over, and 0 too."""
    for name in ("1", "02", "0", "10", "-3", "x", "1a"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")

    assert find_versions(tmp_path) == [1, 2, 10]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, [9]),
        ({"latest": {}}, [9]),
        ({"latest": {"num_versions": 2}}, [4, 9]),
        ({"latest": {"num_versions": 20}}, [1, 4, 9]),
        ({"all": {}}, [1, 4, 9]),
        ({"specific": {"versions": [4, 5]}}, [4]),
        ({"specific": {"versions": []}}, []),
    ],
)
def test_policies(policy, expected) -> None:
    """The newest one by default."""
    parsed = None if policy is None else VersionPolicy.model_validate(policy)

    assert served_versions([1, 4, 9], parsed) == expected


@pytest.mark.parametrize(
    ("files", "model", "others"),
    [
        (["a.xml", "a.bin", "b.onnx"], "a.xml", []),
        (["a.xml", "b.onnx"], "b.onnx", []),
        (["a.pdmodel", "a.pdiparams", "z.tflite"], "a.pdmodel", ["a.pdiparams"]),
        (["frozen.pb"], "frozen.pb", []),
        (["saved_model.pb", "variables/v.index"], "saved_model.pb", ["variables/v.index"]),
        (["z.tflite", "readme.md"], "z.tflite", []),
    ],
)
def test_the_first_kind_of_model_is_taken(tmp_path, files, model, others) -> None:
    """Whatever its name; what belongs to it is known, for its content."""
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")

    found = find_files(tmp_path)

    assert found.file.name == model
    assert [path.as_posix() for path in found.others] == others


@pytest.mark.parametrize("files", [[], ["a.xml"], ["a.bin"], ["a.pdmodel"], ["readme.md"]])
def test_half_a_model_is_none(tmp_path, files) -> None:
    """An .xml needs its .bin."""
    for name in files:
        (tmp_path / name).write_text("x")

    with pytest.raises(ConfigError):
        find_files(tmp_path)


# -- changes -------------------------------------------------------------------------------------


def test_the_fingerprint_sees_what_matters(models, repository, tmp_path) -> None:
    """The config file, new versions and their files; not what lies beside."""
    folder = models("m", 1)
    watched = repository({"name": "m", "base_path": "m"})
    seen = [watched.fingerprint()]

    (folder / "notes.txt").write_text("x")
    same = watched.fingerprint()
    models("m", 2)
    seen.append(watched.fingerprint())
    (folder / "2" / "model.xml").write_text("longer than before")
    seen.append(watched.fingerprint())
    repository({"name": "m", "base_path": "m", "nireq": 2})
    seen.append(watched.fingerprint())
    (tmp_path / "config.json").write_text("broken")
    seen.append(watched.fingerprint())

    assert same == seen[0]
    assert len(set(seen)) == 5
