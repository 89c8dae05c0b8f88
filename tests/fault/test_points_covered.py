"""Every named fault point of the source is fired by a test of this folder."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src" / "legato"
_CALL = re.compile(r"""\b(?:fault|armed)\(\s*["']([a-z_]+\.[a-z_]+)["']""")


def test_each_point_of_the_source_is_fired_by_a_test() -> None:
    """A new point comes with a test that kills or fails there."""
    points = {
        name for path in SOURCE.rglob("*.py") for name in _CALL.findall(path.read_text("utf-8"))
    }
    tests = "\n".join(
        path.read_text("utf-8") for path in HERE.rglob("test_*.py") if path != Path(__file__)
    )

    fired = {name for name in points if re.search(rf"[\"']{re.escape(name)}[\"':]", tests)}

    assert len(points) > 20
    assert points == fired
