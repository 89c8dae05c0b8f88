"""What docs/client.md and the microphone example promise is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.assets import asset

ROOT = Path(__file__).resolve().parents[3]
ADDRESS = "127.0.0.1:8000"


def test_guide_runs_from_top_to_bottom(server, capsys) -> None:
    """All its blocks, one after the other, as a reader would paste them."""
    text = (ROOT / "docs" / "client.md").read_text()
    blocks = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}

    for block in blocks:
        exec(block.replace(ADDRESS, server.address), names)  # noqa: S102 - our own page

    assert len(blocks) >= 8
    assert "input 'x: FP32[-1,4]' does not fit: got shape [1, 3]" in capsys.readouterr().out


def test_microphone_prints_the_same_at_any_speed(serve) -> None:
    """Fifty times as fast as life, line by line as in expected.txt."""
    asset("silero", "silero_vad.onnx")
    asset("silero", "test.wav")
    folder = ROOT / "examples" / "05_microphone"
    served = serve(folder)

    done = subprocess.run(
        [sys.executable, folder / "client.py", served.address, "--speed", "50"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.stdout == (folder / "expected.txt").read_text(), done.stderr
