"""What a commit needs of a sequence in use, kept so that it is not made each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from legato.core.types import SequenceKey
    from legato.stores.base import Ok
    from legato.stores.codec import StepEncoder

_GENERATION = 16 * 1024


class Hot:
    """A sequence in use.

    Attributes:
        page: Page of the table that its row lies in, and
        at: where in it.
        encode: Encodes its steps.
        fields: Five fields of the commit that the encoder was made from: those from the version on.
        reached: The answer to its commits.
    """

    __slots__ = ("at", "encode", "fields", "page", "reached")

    def __init__(
        self,
        place: tuple[bytearray, int],
        encoder: StepEncoder,
        fields: tuple[object, ...],
        reached: Ok,
    ) -> None:
        self.page, self.at = place
        self.encode = encoder.encode
        self.fields = fields
        self.reached = reached


class HotCache:
    """The sequences used last, in two generations: cheaper than an exact order.

    ``young`` may be read directly; what is not there is asked of :meth:`revive`.
    """

    def __init__(self, generation: int = _GENERATION) -> None:
        self._generation = generation
        self.young: dict[SequenceKey, Hot] = {}
        self._old: dict[SequenceKey, Hot] = {}

    def __len__(self) -> int:
        return len(self.young) + len(self._old)

    def revive(self, key: SequenceKey) -> Hot | None:
        """Take one over from the older generation."""
        hot = self._old.pop(key, None)
        if hot is not None:
            self.put(key, hot)
        return hot

    def put(self, key: SequenceKey, hot: Hot) -> None:
        """Keep one."""
        if len(self.young) >= self._generation:
            self._old = self.young
            self.young = {}
        self.young[key] = hot

    def drop(self, key: SequenceKey) -> None:
        """Forget one: what it was made from has changed."""
        self.young.pop(key, None)
        self._old.pop(key, None)
