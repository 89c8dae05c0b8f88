"""What loading a model found out about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from legato.runtimes.discovery.pairing import Pair
    from legato.runtimes.gate import Verdict


@dataclass(frozen=True, slots=True)
class Findings:
    """What loading a model found out about it, for people.

    Attributes:
        why: State name to the reason it is taken for one.
        doubts: Pairs that look like state but are not taken for it.
        verdict: What the gate said; ``None`` where it was not asked.
        made_dynamic: The file fixes its batch at 1, and was changed in memory.
        size: Size of open dimensions at which made-up rows ran; ``None`` = none did.
        notes: Further sentences.
    """

    why: Mapping[str, str]
    doubts: tuple[Pair, ...] = ()
    verdict: Verdict | None = None
    made_dynamic: bool = False
    size: int | None = None
    notes: tuple[str, ...] = ()
