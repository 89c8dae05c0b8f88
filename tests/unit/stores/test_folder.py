"""Whose a data folder is, and in which format."""

from __future__ import annotations

import os

import pytest

from legato.core.errors import ConfigError
from legato.stores.folder import FolderLock, claim_format


def test_folder_is_made_for_its_owner_only(tmp_path) -> None:
    """What is stored may be private."""
    lock = FolderLock(tmp_path / "a" / "b")

    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert lock.held
    lock.release()


def test_second_holder_is_told_folder_and_process(tmp_path) -> None:
    """One process per folder."""
    lock = FolderLock(tmp_path)

    with pytest.raises(ConfigError, match=f"{tmp_path} is in use by process {os.getpid()}"):
        FolderLock(tmp_path)

    lock.release()


def test_released_folder_can_be_held_again(tmp_path) -> None:
    """Releasing twice does no harm."""
    lock = FolderLock(tmp_path)
    lock.release()
    lock.release()

    again = FolderLock(tmp_path)

    assert (lock.held, again.held) == (False, True)
    again.release()


def test_folder_that_cannot_be_made_is_a_start_up_error(tmp_path) -> None:
    """The message names the folder and the fix."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be used") as refused:
        FolderLock(tmp_path / "file" / "data")

    assert refused.value.fix


def test_fresh_folder_is_marked_and_found_again(tmp_path) -> None:
    """The mark is one line of text."""
    claim_format(tmp_path, "legato test 1")
    claim_format(tmp_path, "legato test 1")

    assert (tmp_path / "FORMAT").read_text() == "legato test 1\n"


@pytest.mark.parametrize("found", ["legato test 2", "legato other 1", "\xff\x00"])
def test_other_formats_are_refused_and_left_alone(tmp_path, found) -> None:
    """The message names both formats."""
    (tmp_path / "FORMAT").write_text(found, "latin-1")

    with pytest.raises(ConfigError, match="legato test 1"):
        claim_format(tmp_path, "legato test 1")

    assert (tmp_path / "FORMAT").read_text("latin-1") == found


def test_mark_cut_short_by_a_crash_is_written_again(tmp_path) -> None:
    """An empty mark says nothing, and nothing else was written before it."""
    (tmp_path / "FORMAT").write_text("")

    claim_format(tmp_path, "legato test 1")

    assert (tmp_path / "FORMAT").read_text() == "legato test 1\n"
