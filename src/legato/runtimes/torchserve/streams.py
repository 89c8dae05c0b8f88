"""Which requests of a sequence are answered in parts now, and when it is over.

A handler may end a sequence of which another request is still answered. That one gets its last
answer first, from the state that it knows: the sequence ends with it.
"""

from __future__ import annotations


class Streams:
    """Requests that are handed in again, by sequence."""

    def __init__(self) -> None:
        self._running: dict[str, set[str]] = {}
        self._ending: set[str] = set()

    def __repr__(self) -> str:
        return f"<Streams sequences={len(self._running)} ending={len(self._ending)}>"

    def ends(self, sequence: str, request: str, *, more: bool, said: bool) -> bool:
        """Tell whether an answer is the last one of its sequence.

        Args:
            sequence: Its id.
            request: Id of the request that is answered.
            more: It will have further answers.
            said: The handler ends the sequence with this answer.
        """
        running = self._running.setdefault(sequence, set())
        if more:
            running.add(request)
        else:
            running.discard(request)
        if said:
            self._ending.add(sequence)
        if running:
            return False
        del self._running[sequence]
        over = sequence in self._ending
        self._ending.discard(sequence)
        return over

    def forget(self, sequence: str) -> None:
        """Let go of a sequence that is over, or that begins anew."""
        self._running.pop(sequence, None)
        self._ending.discard(sequence)
