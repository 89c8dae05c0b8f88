"""OpenVINO's files among the others: found, told apart, and part of the content digest."""

from pathlib import Path

import pytest

from legato.repository.config import ModelConfig
from legato.repository.digest import content_digest
from legato.repository.loader import load_paths


def write(folder: Path, name: str = "model", weights: bytes = b"w") -> Path:
    path = folder / f"{name}.xml"
    path.write_text("<net/>")
    path.with_suffix(".bin").write_bytes(weights)
    return path


def test_an_xml_file_is_served_by_openvino(tmp_path: Path) -> None:
    """The suffix chooses the runtime."""
    (config,) = load_paths([write(tmp_path, "summator")])

    assert (config.name, config.runtime) == ("summator", "openvino")


def test_versions_of_an_xml_are_found(tmp_path: Path) -> None:
    """The folders of Model Server."""
    for version in ("1", "2"):
        (tmp_path / "net" / version).mkdir(parents=True)
        write(tmp_path / "net" / version, "anything")

    found = load_paths([tmp_path / "net"])

    assert [(c.name, c.version, c.runtime) for c in found] == [
        ("net", "1", "openvino"),
        ("net", "2", "openvino"),
    ]


@pytest.mark.parametrize("text", ["", "file: net.xml\n", "runtime: openvino\n"])
def test_a_model_yaml_need_not_name_the_runtime(tmp_path: Path, text: str) -> None:
    """The file tells it."""
    write(tmp_path, "net")
    (tmp_path / "model.yaml").write_text(text)

    (config,) = load_paths([tmp_path])

    assert config.runtime == "openvino"
    assert config.file == tmp_path / "net.xml"


def test_an_onnx_file_goes_to_openvino_on_request(tmp_path: Path) -> None:
    """What the config says holds."""
    (tmp_path / "net.onnx").write_bytes(b"")
    (tmp_path / "model.yaml").write_text("runtime: openvino\noptions: {nireq: 2}\n")

    (config,) = load_paths([tmp_path])

    assert (config.runtime, config.options) == ("openvino", {"nireq": 2})


def test_other_xml_files_in_a_folder_are_no_models(tmp_path: Path) -> None:
    """A model has its weights beside it."""
    (tmp_path / "pom.xml").write_text("<project/>")
    write(tmp_path, "net")

    assert [config.name for config in load_paths([tmp_path])] == ["net"]


def digest(path: Path, **options: object) -> str:
    return content_digest(
        ModelConfig(name="m", runtime="openvino", file=path, folder=path.parent, options=options)
    )


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """The state of one must not be read by the other."""
    before = digest(write(tmp_path))

    assert digest(write(tmp_path, weights=b"v")) != before


def test_options_that_change_the_graph_change_the_digest(tmp_path: Path) -> None:
    """Those that only say how it runs do not: sequences outlive them."""
    path = write(tmp_path)

    assert digest(path, nireq=4, plugin_config={"NUM_STREAMS": 2}) == digest(path)
    assert digest(path, low_latency_transformation=False) == digest(path)
    assert digest(path, low_latency_transformation=True) != digest(path)
    assert digest(path, shape="(1,2)") != digest(path, shape="(1,3)")
