"""The file that says which server runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from legato.cli.pidfile import PidFile

WORD = "pidfile-test-word"


@pytest.fixture
def process():
    """A process whose command line has the word."""
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    made = subprocess.Popen(
        [sys.executable, "-c", script, WORD], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    made.stdout.readline()
    yield made
    made.kill()
    made.communicate()


def test_no_file_is_no_server(tmp_path) -> None:
    """Nor is one with something else in it."""
    file = PidFile(tmp_path / "pid", WORD)
    assert file.running() is None
    (tmp_path / "pid").write_text("x")

    assert file.running() is None
    assert file.stop(0)


def test_a_server_is_known_by_its_command_line(tmp_path, process) -> None:
    """A pid that belongs to another process is none of ours."""
    file = PidFile(tmp_path / "pid", WORD)

    file.write(process.pid)
    ours = file.running()
    file.write(1)

    assert ours == process.pid
    assert file.running() is None


def test_a_server_is_asked_to_stop_and_waited_for(tmp_path, process) -> None:
    """One that is dead and not waited for counts as gone."""
    file = PidFile(tmp_path / "pid", WORD)
    file.write(process.pid)

    assert file.stop(20)
    assert process.wait(20) == -signal.SIGTERM


def test_the_file_goes_only_with_its_own_server(tmp_path) -> None:
    """Another one may have been started since."""
    file = PidFile(tmp_path / "pid", WORD)
    file.write(os.getpid())

    file.remove(1)
    kept = file.path.exists()
    file.remove(os.getpid())
    file.remove(os.getpid())

    assert kept
    assert not file.path.exists()
