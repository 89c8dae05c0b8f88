"""For Triton Python models that want to say what their sequences' state is.

Models need not: an entry of a dictionary under a sequence's correlation id, or an element in its
slot, is found by itself. A :class:`SequenceCache` says so explicitly: what is in it is the
whole state, is stored with every step, and what cannot be stored is refused instead of being
kept in memory::

    from legato.triton import SequenceCache

    class TritonPythonModel:
        def initialize(self, args):
            self.sums = SequenceCache("sums")

        def execute(self, requests):
            for request in requests:
                key = request.correlation_id()
                self.sums[key] = self.sums.get(key, 0) + 1

Outside of Legato it is a plain dictionary, so the same model runs under Triton.
"""

from __future__ import annotations

from legato.torchserve import SequenceCache

__all__ = ["SequenceCache"]
