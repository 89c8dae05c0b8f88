"""The real models and recordings, for tests: fetched on first use, or a clear failure."""

from __future__ import annotations

import functools
import importlib.util
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from types import ModuleType


@functools.cache
def _tool(name: str) -> ModuleType:
    path = Path(__file__).parent.parent / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def asset(name: str, file: str) -> Path:
    """Return the path of an asset's file, fetching it if need be.

    A test that needs a real model never skips: without the model it fails and says
    what to do.
    """
    tool = _tool("fetch_assets")
    try:
        tool.fetch(name)
    except tool.FetchError as error:
        pytest.fail(f"asset '{name}' is needed by this test: {error}", pytrace=False)
    return tool.path_of(name, file)


def recording(name: str, file: str) -> np.ndarray:
    """Read a 16-bit mono WAV file as float32 samples in [-1, 1)."""
    with wave.open(str(asset(name, file))) as wav:
        assert wav.getnchannels() == 1
        assert wav.getsampwidth() == 2
        frames = wav.readframes(wav.getnframes())
    return np.frombuffer(frames, "<i2").astype(np.float32) / 32768.0


def moonshine() -> tuple[Path, Path]:
    """Return Moonshine's encoder and decoder, made of the package's files on first use."""
    source = asset("moonshine", "decoder_model_merged.ort")
    encoder, decoder = _tool("export_moonshine").export(source.parent)
    return encoder, decoder
