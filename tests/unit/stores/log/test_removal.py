"""A segment that is no longer needed goes without holding anybody up."""

from __future__ import annotations

import os
import threading

import pytest

from legato.stores.log.segments import Segments

LARGE, SMALL = 16 * 1024 * 1024, 4096


@pytest.mark.parametrize(("size", "elsewhere"), [(LARGE, True), (SMALL, False)])
def test_the_blocks_of_a_large_file_are_freed_elsewhere(
    tmp_path, monkeypatch, size, elsewhere
) -> None:
    """Closing a full one takes a third of a second; a small one's room is back at once."""
    segments = Segments(tmp_path, size)
    segments.append([bytes(size)], size)
    segments.roll()
    fd = segments.by_number[0].fd
    closed: dict[int, str] = {}
    close = os.close

    def note(number: int) -> None:
        closed.setdefault(number, threading.current_thread().name)  # numbers are used again
        close(number)

    monkeypatch.setattr(os, "close", note)
    segments.remove(segments.by_number[0])
    for thread in threading.enumerate():
        if thread.name == "legato-unlink":
            thread.join()
    monkeypatch.undo()
    segments.close()

    assert (closed[fd] == "legato-unlink") is elsewhere
    assert not segments.path(0).exists()
