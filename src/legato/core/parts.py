"""Answers that are not the last to their request, as a worker hands them to a protocol. Pure.

A part is the encoded outputs (:mod:`legato.core.reply`) and what is to be said of it. Several
parts that leave together, after the step that made them was committed, travel as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from legato.core.errors import ModelSaysError
from legato.core.reply import decode_reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from legato.core.types import OutputHeader

PARTS: Final = "parts"
ERROR: Final = "error"
CATEGORY: Final = "category"


class Outputs(NamedTuple):
    """The outputs of a part, as a reply has them."""

    headers: tuple[OutputHeader, ...]
    data: tuple[bytes, ...]


def from_part(body: bytes, meta: dict[str, Any]) -> Iterator[Outputs | ModelSaysError]:
    """Take apart what ``Step.partial`` is called with."""
    for part, said in meta.get(PARTS, [(body, meta)]):
        if ERROR in said:
            yield ModelSaysError(said[ERROR], said[CATEGORY])
        else:
            yield Outputs(*decode_reply(part))
