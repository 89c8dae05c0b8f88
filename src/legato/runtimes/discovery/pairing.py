"""Which inputs of a graph are state, and which outputs feed them. Pure.

A state is an input that an output of the *same step* replaces for the next one.
Graphs seldom say so, but their names do: ``cache_0`` and ``next_cache_0``, ``h0`` and
``hN``, ``past_key_values.3.key`` and ``present.3.key``. Names are read as words:
words of time (``next``, ``old``, ``past``...) and of direction (``in``, ``out``) are set
aside, and what is left must be the same on both sides. Dtype and shape must agree
too. Position is never looked at, and equal shapes alone prove nothing: a denoiser's
data input has the shape of its output.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Dim = int | str | None
"""A number, a symbol that the file names, or unknown."""


class GraphTensor(NamedTuple):
    """An input or output as the model file declares it."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A state found: what takes its value, what gives the next one, and why.

    Attributes:
        input, output: Tensor names.
        why: Half a sentence for people.
        keeps_if_empty: An empty output means "unchanged".
    """

    input: str
    output: str
    why: str
    keeps_if_empty: bool = False


@dataclass(frozen=True, slots=True)
class Pairing:
    """What the names of a graph tell.

    Attributes:
        pairs: States, in the order of the graph's inputs.
        doubts: Pairs that fit by name but that nothing shows to be state.
    """

    pairs: tuple[Pair, ...]
    doubts: tuple[Pair, ...] = ()


_STATE_WORDS = frozenset(
    "state states cache caches cached hidden h c hx cx cell recurrent recurrence mem memory "
    "memories buffer buffers buf context ctx carry rnn lstm gru ssm history accumulator kv".split()
)
_EITHER_TIME = frozenset("last current cur".split())
_IN_TIME = _EITHER_TIME | frozenset("past previous prev old initial init".split())
_OUT_TIME = _EITHER_TIME | frozenset("present next new updated update final n".split())
_IN_PLACE = frozenset(("in", "input"))
_OUT_PLACE = frozenset(("out", "output"))
_WORD = re.compile(r"(?<![A-Za-z])[hc](?=n(?![A-Za-z]))|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
"""Words of camelCase, snake_case and numbered names; ``hn`` and ``cn`` are two words."""
_ENCODER_CACHE = re.compile(r"^past_key_values\..*\bencoder\b")


class _Reading(NamedTuple):
    """A name as words: the stem, and what was set aside from it."""

    stem: tuple[str, ...]
    time: tuple[str, ...]
    place: tuple[str, ...]


def _read(name: str, time: frozenset[str], place: frozenset[str]) -> _Reading:
    plain = name.replace("past_key_values", "past").replace("present_key_values", "present")
    words = [word.lower() for word in _WORD.findall(plain)]
    return _Reading(
        tuple(word for word in words if word not in time and word not in place),
        tuple(word for word in words if word in time),
        tuple(word for word in words if word in place),
    )


def _zero_dropped(reading: _Reading) -> _Reading | None:
    """Read ``h0`` as "h at time 0"; right only beside an ``hN``."""
    if len(reading.stem) < 2 or reading.stem[-1] != "0":
        return None
    return _Reading(reading.stem[:-1], ("0",), reading.place)


def agree(a: GraphTensor, b: GraphTensor) -> bool:
    """Tell whether one tensor can be fed with the other: dtype, rank and known sizes."""
    if a.dtype != b.dtype or len(a.dims) != len(b.dims):
        return False
    return all(
        x == y or not (isinstance(x, int) and isinstance(y, int))
        for x, y in zip(a.dims, b.dims, strict=True)
    )


def _match(source: GraphTensor, target: GraphTensor) -> tuple[_Reading, _Reading] | None:
    """Find the reading under which the two names are one, if there is any."""
    out = _read(target.name, _OUT_TIME, _OUT_PLACE)
    given = _read(source.name, _IN_TIME, _IN_PLACE)
    zero = _zero_dropped(given)
    if zero is not None and zero.stem == out.stem and "n" in out.time:
        return zero, out
    cache = "past" in given.time and "present" in out.time
    if given.stem != out.stem or not (cache or any(word.isalpha() for word in out.stem)):
        return None
    marked = given.time or given.place or out.time or out.place
    return (given, out) if marked else None


def _strength(given: _Reading, out: _Reading) -> int:
    """3: a word for state, or past and present; 2: words of time; 1: only in and out."""
    if _STATE_WORDS.intersection(given.stem) or ("past" in given.time and "present" in out.time):
        return 3
    return 2 if given.time or out.time else 1


def _reason(given: _Reading, out: _Reading) -> str:
    ours, theirs = given.time + given.place, out.time + out.place
    marks = [word for word in ours if word not in theirs]
    marks += [word for word in theirs if word not in ours]
    return "names differ only by " + " and ".join(f"'{word}'" for word in marks)


def pair_by_name(inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> Pairing:
    """Find the states of a graph by the names of its tensors.

    Args:
        inputs: Inputs that may be state (no scalars).
        outputs: Outputs that may be state.

    Returns:
        Pairs that are surely or very likely state. A pair is a *doubt* when its names
        only say "in" and "out", or only words of time and taking it would leave the
        model without data: ``image`` and ``image_out`` may well be an image filter.
    """
    found: list[tuple[int, Pair]] = []
    doubts: list[Pair] = []
    for source in inputs:
        best: list[tuple[int, Pair]] = []
        for target in outputs:
            match = _match(source, target) if agree(source, target) else None
            if match is None:
                continue
            why = _reason(*match)
            keeps = bool(_ENCODER_CACHE.match(source.name))
            pair = Pair(source.name, target.name, why, keeps)
            best.append((_strength(*match), pair))
        if len(best) == 1:
            found += best
        else:
            doubts += [pair for _, pair in best]
    doubts += [pair for _, pair in found]
    found = _one_input_an_output(found)
    sure = [pair for strength, pair in found if strength == 3]
    likely = [pair for strength, pair in found if strength == 2 and _is_float(pair, inputs)]
    taken = sure if len(sure) + len(likely) >= len(inputs) else sure + likely
    order = [tensor.name for tensor in inputs]
    taken.sort(key=lambda pair: order.index(pair.input))
    return Pairing(tuple(taken), tuple(pair for pair in doubts if pair not in taken))


def _one_input_an_output(found: Iterable[tuple[int, Pair]]) -> list[tuple[int, Pair]]:
    """Drop pairs that claim the same output: nothing tells which is right."""
    listed = list(found)
    outputs = [pair.output for _, pair in listed]
    return [(strength, pair) for strength, pair in listed if outputs.count(pair.output) == 1]


def _is_float(pair: Pair, inputs: Sequence[GraphTensor]) -> bool:
    dtype = next(tensor.dtype for tensor in inputs if tensor.name == pair.input)
    return dtype.startswith(("float", "double", "complex"))


def names_state(name: str) -> bool:
    """Tell whether an input's name says that it is state: ``h``, ``cache_0``, ``past_key``."""
    reading = _read(name, _IN_TIME, _IN_PLACE)
    return "past" in reading.time or bool(_STATE_WORDS.intersection(reading.stem))
