"""A digest tells models apart by what they compute, not by where they are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from legato.core.errors import ConfigError
from legato.repository.config import ModelConfig
from legato.repository.loader import content_digest

if TYPE_CHECKING:
    from pathlib import Path


def onnx_config(file: Path) -> ModelConfig:
    """Config of a bare model file."""
    return ModelConfig(name="m", file=file, folder=file.parent)


def python_config(folder: Path, **changes: object) -> ModelConfig:
    """Config of a Python model in ``folder``."""
    values = {"name": "m", "runtime": "python", "entry": "m.py:M", "folder": folder}
    return ModelConfig.model_validate({**values, **changes})


def test_same_content_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    """A model that was moved or renamed keeps its sequences; sha256sum shows the same."""
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"graph")

    digests = {content_digest(onnx_config(tmp_path / name)) for name in ("a.onnx", "b.onnx")}

    assert digests == {hashlib.sha256(b"graph").hexdigest()[:16]}


@pytest.mark.parametrize("other", [b"graph2", b"Graph", b""])
def test_other_content_has_another_digest(tmp_path: Path, other: bytes) -> None:
    """One changed byte is another model."""
    (tmp_path / "a.onnx").write_bytes(b"graph")
    before = content_digest(onnx_config(tmp_path / "a.onnx"))

    (tmp_path / "a.onnx").write_bytes(other)

    assert content_digest(onnx_config(tmp_path / "a.onnx")) != before


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch"])
def test_weights_beside_the_model_file_count(tmp_path: Path, place: str) -> None:
    """External data belongs to the content, wherever the graph refers to it."""
    tensor = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location="w.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    branch = helper.make_graph([constant], "branch", [], [y])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    nodes = {"initializer": [], "attribute": [constant], "branch": [choice]}[place]
    weights = [tensor] if place == "initializer" else []
    graph = helper.make_graph(nodes, "g", [], [y], initializer=weights)
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "w.bin").write_bytes(bytes(16))
    before = content_digest(onnx_config(tmp_path / "m.onnx"))

    (tmp_path / "w.bin").write_bytes(bytes(15) + b"\1")

    assert content_digest(onnx_config(tmp_path / "m.onnx")) != before


def test_python_model_counts_source_class_options_and_files(tmp_path: Path) -> None:
    """Each of them changes what a Python model computes; the order of options does not."""
    (tmp_path / "m.py").write_text("class M: ...")
    (tmp_path / "w.npz").write_bytes(b"1")
    plain = content_digest(python_config(tmp_path, options={"a": 1, "b": 2}))

    others = [
        content_digest(python_config(tmp_path, options={"a": 1, "b": 3})),
        content_digest(python_config(tmp_path, options={"a": 1, "b": 2}, entry="m.py:N")),
        content_digest(python_config(tmp_path, options={"a": 1, "b": 2}, files=["w.npz"])),
    ]
    (tmp_path / "w.npz").write_bytes(b"2")
    others.append(
        content_digest(python_config(tmp_path, options={"a": 1, "b": 2}, files=["w.npz"]))
    )

    assert content_digest(python_config(tmp_path, options={"b": 2, "a": 1})) == plain
    assert len({plain, *others}) == 5


def test_options_of_an_onnx_model_do_not_count(tmp_path: Path) -> None:
    """Provider settings change how fast a graph runs, not what its state means."""
    config = onnx_config(tmp_path / "a.onnx")
    (tmp_path / "a.onnx").write_bytes(b"graph")

    assert content_digest(config) == content_digest(
        config.model_copy(update={"options": {"providers": ["cpu"]}})
    )


def test_missing_file_is_a_config_error(tmp_path: Path) -> None:
    """The file is named."""
    with pytest.raises(ConfigError, match=r"gone\.onnx"):
        content_digest(onnx_config(tmp_path / "gone.onnx"))


def test_broken_model_file_is_a_config_error(tmp_path: Path) -> None:
    """Bytes that only look like a graph with external data are refused by name."""
    (tmp_path / "a.onnx").write_bytes(b"\xff\xfflocation")

    with pytest.raises(ConfigError, match="is no ONNX model"):
        content_digest(onnx_config(tmp_path / "a.onnx"))
