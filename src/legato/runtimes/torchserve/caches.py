"""What a handler keeps for its sequences, found, taken out and put back.

Handlers keep state in dictionaries of their own, under the id of the sequence: an attribute
of the handler, of the context or of their module, or an LRU anywhere. An entry under the
id of a row *is* that sequence's state: after a step it is encoded and committed with it, before
a step it is put back where it differs. So any worker can take any sequence, and a step
that failed leaves nothing behind.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any, Final

from xxhash import xxh3_128_digest

from legato.runtimes.torchserve import lru
from legato.runtimes.torchserve.values import UnsupportedValueError, decode, encode
from legato.torchserve import made_caches

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Iterable,
        Iterator,
        Mapping,
        MutableMapping,
        Sequence,
    )

_PLAIN: Final = (dict, OrderedDict, defaultdict)


class Caches:
    """The dictionaries of one handler.

    Args:
        roots: Where to look, by the name that an entry is stored under.
        warn: Takes sentences for people.
        keys: Gives the keys under which something may be kept for a sequence, by the form that
            its id has there. Entries are stored by form, so that a fork finds them under its own.
        further: Gives what else keeps something for sequences, by name.
    """

    def __init__(
        self,
        roots: Callable[[], Mapping[str, Mapping[str, Any]]],
        warn: Callable[[str], None],
        keys: Callable[[Any], Mapping[str, Any]] | None = None,
        further: Callable[[], Iterable[tuple[str, MutableMapping[Any, Any]]]] = tuple,
    ) -> None:
        self._roots = roots
        self._warn = warn
        self._keys = keys or _keys
        self._further = further
        self._warned: set[str] = set()
        self._found: list[tuple[str, MutableMapping[Any, Any]]] = []

    def look(self) -> None:
        """Find the dictionaries anew: before a step, and again after the handler's call."""
        self._found = list(self._places())

    def _places(self) -> Iterator[tuple[str, MutableMapping[Any, Any]]]:
        """Every dictionary once, under a name that is the same in every worker."""
        seen: set[int] = set()
        for root, members in self._roots().items():
            for name, value in list(members.items()):
                if type(value) in _PLAIN and not name.startswith("__"):
                    found = value
                elif isinstance(value, lru.LRU):
                    found = lru.entries(value)
                else:
                    continue
                if id(found) not in seen:
                    seen.add(id(found))
                    yield f"{root}.{name}", found
        for number, cache in enumerate(lru.made()):
            found = lru.entries(cache)
            if id(found) not in seen:
                yield f"lru.{number}", found
        for name, explicit in made_caches():
            yield f"explicit.{name}", explicit.entries
        yield from self._further()

    # -- before a step ------------------------------------------------------------------

    def has(self, sequence: Any, digest: bytes) -> bool:
        """Tell whether memory holds exactly the state of a sequence that has this digest."""
        return xxh3_128_digest(self._encoded(sequence)[0]) == digest

    def restore(self, sequence: Any, state: bytes) -> None:
        """Make memory hold this state of a sequence.

        What is there is encoded and compared, so whoever changed it, a step that failed or
        one of another sequence, it is as it was committed. What agrees is left alone.

        Raises:
            ValueError: The state cannot be read.
        """
        if self._encoded(sequence)[0] == state:
            return
        stored: dict[tuple[str, Any], tuple[str, bytes]] = {
            (name, key): (opaque, blob)
            for name, key, opaque, blob in (decode(state) if state else ())
        }
        for name, entries in self._found:
            for form, key in self._keys(sequence).items():
                # Older records have the key itself.
                entry = stored.pop((name, form), None) or stored.pop((name, key), None)
                if entry is None:
                    entries.pop(key, None)
                elif not entry[0]:
                    entries[key] = decode(entry[1])
                elif key not in entries:
                    self._lost(sequence, name, entry[0])
        for name, _key in stored:
            self._warn_once(
                f"nowhere:{name}",
                f"the handler has no '{name}' yet into which the state of sequence "
                f"'{sequence}' goes; create it in initialize()",
            )

    def _lost(self, sequence: Any, name: str, kind: str) -> None:
        self._warn(
            f"the entry of sequence '{sequence}' in '{name}' is lost: it was a {kind}, kept in "
            "the memory of a worker that is gone"
        )

    # -- after a step -------------------------------------------------------------------

    def capture(self, sequence: Any) -> tuple[bytes, bool]:
        """Encode what memory holds of a sequence.

        Returns:
            The state, and whether part of it can only stay in memory.

        Raises:
            UnsupportedValueError: An explicit cache holds what cannot be stored.
        """
        return self._encoded(sequence, strict=True)

    def _encoded(self, sequence: Any, *, strict: bool = False) -> tuple[bytes, bool]:
        found: list[tuple[str, Any, str, bytes]] = []
        bound = False
        for name, entries in self._found:
            for form, key in self._keys(sequence).items():
                if key not in entries:
                    continue
                try:
                    found.append((name, form, "", encode(entries[key])))
                except UnsupportedValueError as error:
                    if strict:
                        self._stays(name, error)
                    bound = True
                    found.append((name, form, error.kind, b""))
        return encode(found) if found else b"", bound

    def _stays(self, name: str, error: UnsupportedValueError) -> None:
        """Say what only stays in memory; an explicit cache holds no such thing."""
        if name.startswith("explicit."):
            raise error
        self._warn_once(
            f"{name}:{error.kind}",
            f"entries of '{name}' hold a {error.kind}, which cannot be stored: they stay in the "
            "memory of one worker and are lost with it",
        )

    def forget(self, sequence: Any) -> None:
        """Let go of a sequence that is over."""
        for _name, entries in self._found:
            for key in self._keys(sequence).values():
                entries.pop(key, None)

    def forget_requests(self, requests: Iterable[str]) -> None:
        """Let go of new requests whose step failed.

        Handlers of continuous batches keep something under a request's id, and take a request
        that they know for one that is handed in again. A row that is run again by itself,
        because of its neighbour's error, must be new to them.
        """
        for request in requests:
            for _name, entries in self._found:
                entries.pop(request, None)

    def pin(self, sequences: Sequence[Any]) -> None:
        """Keep the entries of these sequences from eviction until :meth:`unpin`."""
        lru.pin(key for sequence in sequences for key in self._keys(sequence).values())

    def unpin(self) -> None:
        """End a step."""
        lru.unpin()

    def _warn_once(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            self._warn(text)


def _keys(sequence: str) -> dict[str, Any]:
    """The keys under which handlers keep a sequence: its id, or the number it spells."""
    if sequence.isdecimal():
        return {"id": sequence, "number": int(sequence)}
    return {"id": sequence}
