"""A real server with an accumulator of four numbers, its state in a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.models.tiny import accumulator, fails_on, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """A folder with the models of these tests."""
    folder = tmp_path_factory.mktemp("models")
    for name, model, extra in (
        ("accumulator", accumulator(4), ""),
        ("deep", accumulator(4), "sequences: {receipts: 8}\n"),
        ("picky", fails_on(7), ""),
    ):
        (folder / name).mkdir()
        save(model, folder / name, "model")
        (folder / name / "model.yaml").write_text(f"name: {name}\nfile: model.onnx\n{extra}")
    return folder


@pytest.fixture(scope="module")
def server(serve: Callable, models: Path, tmp_path_factory):
    """A server whose sequences survive its process."""
    return serve(models, store="log", data=tmp_path_factory.mktemp("data"))
