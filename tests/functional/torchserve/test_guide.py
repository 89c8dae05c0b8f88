"""The migration guide does what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.functional.torchserve.conftest import environment, write_properties

GUIDE = Path(__file__).parents[3] / "docs" / "migrating-from-torchserve.md"
PORTS = {"8080": "inference", "8081": "management"}


def test_the_commands_of_the_guide_run(tmp_path) -> None:
    """From packing a handler to the sum after a restart; on ports that are free."""
    text = GUIDE.read_text()
    for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body)
    script = "set -e\n" + "".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = write_properties(tmp_path)
    for port, name in PORTS.items():
        script = script.replace(f":{port}/", f":{named[name]}/")
    variables = environment(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "legato").write_text(f'#!/bin/sh\nexec {sys.executable} -m legato "$@"\n')
    (tools / "legato").chmod(0o755)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), variables["PATH"]])

    found = subprocess.run(
        ["sh", "-c", script],
        cwd=tmp_path,
        env={**variables, "PATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert found.returncode == 0, found.stderr + (tmp_path / "logs" / "ts_log.log").read_text()
    answers = re.sub(r'\{\s*"status": "Healthy"\s*\}', "", found.stdout)
    before, described, after = answers.partition("[")
    assert before.split() == ["136"]
    assert '"modelName": "adder"' in after
    assert found.stdout.count("TorchServe has stopped.") == 3
    assert re.search(r"\]\s*TorchServe has stopped\.\s*10TorchServe has stopped\.", after)
    assert described
