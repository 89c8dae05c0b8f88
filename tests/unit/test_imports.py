"""Imports point one way: the rooms of ``docs/design.md`` and who may know whom.

The walk reads source, so it sees imports inside functions and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[2] / "src" / "legato"

# A room and the rooms that it may import. The longest name that fits a module is its
# room; "gen" is the generated messages of all protocols. A new room is a new line here
# and in docs/design.md, "Rooms".
BELOW_ENGINE = {"core", "faults", "observe.log", "repository", "stores", "runtimes"}
BELOW_APP = BELOW_ENGINE | {
    "archive", "engine", "observe", "protocols", "protocols.http", "protocols.rpc", "gen",
    "recorder", "settings",
}  # fmt: skip
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "faults": set(),
    "observe.log": set(),
    "gen": set(),
    "settings": {"core"},
    "repository": {"core", "gen", "observe.log"},
    "stores": {"core", "faults", "observe.log"},
    "runtimes": {"core", "faults", "observe.log", "repository", "torchserve"},
    "model": {"core", "runtimes"},
    "torchserve": set(),
    "triton": {"torchserve"},
    "runtimes.worker.boot": {"runtimes"},
    "archive": {"core"},
    "engine": BELOW_ENGINE,
    "recorder": BELOW_ENGINE | {"archive", "engine"},
    "observe": {"core", "stores", "engine", "observe.log"},
    "protocols.http": {"protocols.rpc"},
    "protocols.rpc": {"core", "faults", "observe.log", "gen"},
    "protocols": BELOW_APP - {"protocols"},
    "ui": BELOW_APP,
    "app": BELOW_APP | {"ui"},
    "serving": BELOW_APP | {"ui", "app"},
    "client": {"core", "gen"},
    "demo": {"client", "core", "gen", "observe.log", "serving", "settings"},
    "bench": {"client", "core", "gen", "observe.log", "serving", "settings"},
    "cli": BELOW_APP | {"app", "bench", "client", "demo", "model", "serving", "ui"},
    "__main__": {"cli"},
}

# Settings are read in one place. Fault points are no setting: they must work in every room
# of a process that a test starts with nothing but a variable. A worker process makes the
# environment that other people's libraries find in it.
READ_ENVIRONMENT = ("settings", "faults", "runtimes.worker.boot")

# The core is pure: what it decides depends on its arguments alone.
IMPURE = {
    "asyncio", "concurrent", "datetime", "http", "logging", "multiprocessing", "os", "queue",
    "random", "secrets", "select", "selectors", "signal", "socket", "subprocess", "threading",
    "time", "urllib", "uuid", "grpc", "onnxruntime", "pyvoy", "starlette", "structlog", "uvloop",
}  # fmt: skip


class Import(NamedTuple):
    """One import statement's module, and where it stands."""

    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE.parent)}:{self.line} imports {self.module}"


def modules() -> list[Path]:
    """List the source files that people write."""
    return [path for path in sorted(SOURCE.rglob("*.py")) if "gen" not in path.parts]


def name_of(path: Path) -> str:
    """Return a file's module name below ``legato``; the package itself is ""."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(path: Path) -> Iterator[Import]:
    """Yield every import of a file, with the names taken from packages spelt out."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(path, node.lineno, f"{node.module}.{alias.name}")


def room_of(name: str) -> str | None:
    """Return the room of a module name below ``legato``."""
    if "gen" in name.split("."):
        return "gen"
    fitting = (room for room in MAY_IMPORT if f"{name}.".startswith(f"{room}."))
    return max(fitting, key=len, default=None)


def wrong_way(path: Path) -> Iterator[str]:
    """Yield a sentence for each import of a file that the rooms do not allow."""
    name = name_of(path)
    room = room_of(name)
    for found in imports(path):
        target = found.module.removeprefix("legato.")
        if target == found.module or target.startswith("__"):
            continue
        there = room_of(target)
        if there is None:
            yield f"{found}: no room has that name (docs/design.md, MAY_IMPORT)"
        elif there == room == "protocols" and target.split(".")[1] != name.split(".")[1]:
            yield f"{found}: a dialect knows no other dialect"
        elif there != room and there not in MAY_IMPORT[room or "core"]:
            allowed = ", ".join(sorted(MAY_IMPORT[room or "core"])) or "nothing"
            yield f"{found}: '{room}' may import {allowed}"


def test_every_module_has_a_room() -> None:
    """A new folder states whom it may know before it grows."""
    homeless = [str(p.relative_to(SOURCE)) for p in modules() if not room_of(name_of(p))]

    assert homeless == ["__init__.py"]


def test_imports_point_one_way() -> None:
    """Rooms: core <- stores, runtimes, repository <- engine <- protocols <- app <- cli."""
    wrong = [sentence for path in modules() for sentence in wrong_way(path)]

    assert not wrong, "imports against the direction:\n  " + "\n  ".join(wrong)


def test_core_is_pure() -> None:
    """The core has no sockets, no threads and no clock."""
    impure = [
        str(found)
        for path in modules()
        if room_of(name_of(path)) == "core"
        for found in imports(path)
        if found.module.split(".")[0] in IMPURE
    ]

    assert not impure, "the core must stay pure:\n  " + "\n  ".join(impure)


def test_only_settings_reads_the_environment() -> None:
    """What steers the server is written down in one place."""
    readers = [
        f"{path.relative_to(SOURCE.parent)}:{node.lineno}"
        for path in modules()
        if room_of(name_of(path)) not in READ_ENVIRONMENT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "environb", "getenv")
    ]

    assert not readers, f"only settings.py reads the environment, not {', '.join(readers)}"


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("core/x.py", "import legato.engine.engine"),
        ("stores/x.py", "from legato.runtimes import base"),
        ("engine/x.py", "def f():\n    from legato.protocols.rpc import app"),
        ("protocols/kserve/x.py", "from legato.protocols.sequences import rest"),
        ("protocols/rpc/x.py", "from legato.engine.engine import Engine"),
        ("client/x.py", "from legato.protocols.kserve.infer import x"),
        ("engine/x.py", "from legato.nowhere import x"),
    ],
)
def test_wrong_import_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, statement: str
) -> None:
    """The walk itself finds what it is there to find."""
    monkeypatch.setitem(globals(), "SOURCE", tmp_path)
    path = tmp_path / module
    path.parent.mkdir(parents=True)
    path.write_text(statement)

    assert len(list(wrong_way(path))) == 1
