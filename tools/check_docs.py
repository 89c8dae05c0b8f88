"""Check that the docs are true where a machine can tell.

- Every relative link leads to a file, and to a heading in it where it names one.
- Every ``yaml`` block that begins with ``# model.yaml`` is a config that loads.
- Every ``python`` block runs to its end, warnings as errors.
- ``docs/model-yaml.md`` names every key of a config, ``docs/observability.md`` every metric.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from legato.core.errors import ConfigError
from legato.observe import triton
from legato.observe.metrics import EngineCollector
from legato.repository import config as repository_config
from legato.repository.manifest import Manifest
from legato.stores.base import StoreStatistics

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
BLOCK_LIMIT_S = 60


class Block(NamedTuple):
    """A fenced block: its language, text and first line."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """List all pages that people read."""
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for found in re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)


def slugs(text: str) -> set[str]:
    """Return the anchors that a page's headings have."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def check_links(page: Path, text: str) -> Iterator[str]:
    """Yield links that lead nowhere."""
    for pair in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        target = pair[0] or pair[1]
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        if not path.exists():
            yield f"link to '{target}', which is not there"
        elif anchor and path.suffix == ".md" and anchor not in slugs(path.read_text()):
            yield f"link to '{target}': no such heading"


def check_config(block: Block) -> Iterator[str]:
    """Yield what a config of the docs would be refused for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.yaml"
        path.write_text(block.text)
        try:
            Manifest(path).config({"name": "model"})
        except ConfigError as error:
            yield f"line {block.line}: {error}"


def check_python(block: Block) -> Iterator[str]:
    """Yield how a code block fails."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block.text],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=BLOCK_LIMIT_S,
            check=False,
        )
    if done.returncode:
        yield f"line {block.line}: the code fails\n{done.stderr}"


def check_keys(text: str) -> Iterator[str]:
    """Yield keys of a config that the reference leaves out."""
    for name in (
        "ModelConfig",
        "InputConfig",
        "OutputConfig",
        "StateConfig",
        "SequenceConfig",
        "RecordConfig",
    ):
        for key in getattr(repository_config, name).model_fields:
            if f"`{key}`" not in text and key != "folder":
                yield f"key '{key}' of {name} is not described"


class _NoStore:
    name = "memory"

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(0, 0, 0, writable=True)


class _NoEngine:
    ready, draining, store = True, False, _NoStore()

    def models(self) -> list[object]:
        return []


def check_metrics(text: str) -> Iterator[str]:
    """Yield metrics that the reference leaves out."""
    for family in EngineCollector(_NoEngine()).collect():  # type: ignore[arg-type]
        name = family.name + ("_total" if family.type == "counter" else "")
        if f"`{name}`" not in text:
            yield f"metric '{name}' is not described"
    page = triton.render(_NoEngine(), triton.Processor()).decode()  # type: ignore[arg-type]
    for name in re.findall(r"^# TYPE (\w+)", page, re.MULTILINE):
        if f"`{name}`" not in text:
            yield f"metric '{name}' is not described"


def check(page: Path) -> Iterator[str]:
    """Yield everything that is wrong with a page."""
    text = page.read_text()
    yield from check_links(page, text)
    for block in blocks(text):
        if block.language == "yaml" and block.text.startswith("# model.yaml"):
            yield from check_config(block)
        elif block.language == "python":
            yield from check_python(block)
    if page.name == "model-yaml.md":
        yield from check_keys(text)
    if page.name == "observability.md":
        yield from check_metrics(text)


def main() -> None:
    """Check all pages; exit with 1 if anything is wrong."""
    wrong = [f"{page.relative_to(ROOT)}: {fault}" for page in pages() for fault in check(page)]
    print("\n".join(wrong), end="\n" if wrong else "")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
