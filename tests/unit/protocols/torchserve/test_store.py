"""Where archives are found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from legato.protocols.torchserve.errors import Failure
from legato.protocols.torchserve.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    for name in ("a.mar", "b.tar.gz", "c.model", "notes.txt", ".hidden.mar"):
        (store / name).write_text("")
    (store / "unpacked").mkdir()
    return store


def test_everything_means_archives_and_folders(folder) -> None:
    """Hidden ones and other files are left out."""
    assert ModelStore(folder).everything() == ["a.mar", "b.tar.gz", "c.model", "unpacked"]


def test_names_are_looked_up_in_the_store(folder) -> None:
    """Folders may be absolute, as with no-archive."""
    store = ModelStore(folder)

    assert store.find("a.mar") == folder / "a.mar"
    assert store.find(str(folder / "unpacked")) == folder / "unpacked"


def test_file_urls_are_paths(folder) -> None:
    """Anywhere, as far as they are allowed."""
    assert ModelStore(folder).find(f"file://{folder}/a.mar") == folder / "a.mar"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("../a.mar", "Relative path is not allowed in url: ../a.mar"),
        ("gone.mar", "Model not found at: gone.mar"),
        ("/etc/passwd", "Model not found at: /etc/passwd"),
        ("s3://bucket/a.mar", "Given URL s3://bucket/a.mar does not match any allowed URL(s)"),
    ],
)
def test_what_may_not_be_loaded(folder, url: str, text: str) -> None:
    """404, with TorchServe's texts."""
    with pytest.raises(Failure) as caught:
        ModelStore(folder).find(url)

    assert (caught.value.status, caught.value.message) == (404, text)


def test_allowed_urls_match_as_a_whole_and_in_any_case(folder) -> None:
    """A URL that only begins like an allowed one is another one."""
    store = ModelStore(folder, (f"FILE://{folder}/a\\.mar",))

    assert store.find(f"file://{folder}/a.mar") == folder / "a.mar"
    with pytest.raises(Failure, match="does not match any allowed"):
        store.find(f"file://{folder}/a.mar.exe")


def test_an_archive_is_downloaded_into_the_store(folder, monkeypatch) -> None:
    """Once: the second time it is there."""
    opened = []

    class Answer:
        def __init__(self) -> None:
            self.left = [b"x" * 10, b""]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def read(self, _size):
            return self.left.pop(0)

    monkeypatch.setattr(
        "urllib.request.urlopen", lambda url, timeout: opened.append((url, timeout)) or Answer()
    )
    store = ModelStore(folder)

    paths = [store.find("https://x/y/new.mar?z=1") for _ in range(2)]

    assert paths == [folder / "new.mar"] * 2
    assert paths[0].read_bytes() == b"x" * 10
    assert len(opened) == 1
    assert not list(folder.glob(".*.part"))
