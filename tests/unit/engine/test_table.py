"""A served name: which version a sequence goes on with, and what the gauges say."""

from __future__ import annotations

import pytest

from doubles import CHAIN_SIGNATURE, ChainRuntime, state_of
from legato.core.errors import ModelChangedError, StateDamagedError, UnknownModelError
from legato.core.types import RecordHead, SequenceKey, StateRow
from legato.engine.model import ModelHandle
from legato.engine.residence import OVERHEAD, Residence
from legato.engine.table import Model
from legato.engine.work import Sequence
from legato.repository.config import ModelConfig, SequenceConfig


def version(name: str, digest: str, compatible=(), **limits) -> ModelHandle:
    config = ModelConfig(
        name="m",
        version=name,
        compatible_with=list(compatible),
        sequences=SequenceConfig(**limits),
    )
    return ModelHandle(config, [ChainRuntime(CHAIN_SIGNATURE)], digest)


def model_of(*handles: ModelHandle) -> Model:
    model = Model("m")
    for handle in handles:
        model.add(handle)
    return model


def sequence(written_in: str, digest: str, state: StateRow | None = None) -> Sequence:
    one = Sequence(SequenceKey("m", 1))
    one.head = RecordHead(b"i" * 16, 1, 1, (), written_in, digest, "kserve", 0.0, 0.0, "none")
    one.state = state or state_of([1])
    one.loaded = True
    return one


def test_the_highest_version_is_the_default() -> None:
    """Numbers count as numbers and before names; its limits are the model's."""
    model = model_of(
        version("9", "a"), version("10", "b", max_live=5), version("beta", "c", max_live=7)
    )

    assert model.handle().version == "10"
    assert model.max_live == 5
    model.remove(model.handle("10"))
    assert model.handle().version == "9"


def test_a_preferred_version_is_the_default_while_it_is_served() -> None:
    """Its limits count; when it goes, the highest one is the default again."""
    model = model_of(version("1", "a", max_live=3), version("2", "b"))

    model.prefer("1")

    assert (model.handle().version, model.max_live) == ("1", 3)
    model.remove(model.handle("1"))
    assert model.handle().version == "2"


def test_a_version_that_is_not_there_is_refused() -> None:
    """So is the default of an empty model."""
    model = model_of(version("1", "a"))

    with pytest.raises(UnknownModelError):
        model.handle("2")
    model.remove(model.handle("1"))
    with pytest.raises(UnknownModelError) as caught:
        model.handle()
    assert caught.value.unloaded


def test_removing_a_replaced_handle_does_nothing() -> None:
    """The one that took its place stays."""
    old, new = version("1", "a"), version("1", "b")
    model = model_of(old, new)

    model.remove(old)

    assert model.handle() is new


def test_a_sequence_goes_on_with_its_own_version() -> None:
    """Also where another one has the same content."""
    model = model_of(version("1", "a"), version("2", "a"))

    assert model.pinned(sequence("1", "a")).version == "1"


def test_a_sequence_goes_on_with_whoever_can_read_its_state() -> None:
    """Equal content, or declared to be compatible."""
    model = model_of(version("2", "b"), version("3", "c", compatible=["a"]))

    assert model.pinned(sequence("1", "b")).version == "2"
    assert model.pinned(sequence("1", "a")).version == "3"
    assert model.pinned(sequence("2", "a")).version == "3"


def test_a_sequence_that_nobody_can_read_is_refused() -> None:
    """Its version is gone, or has other content."""
    model = model_of(version("1", "b"))

    with pytest.raises(ModelChangedError) as changed:
        model.pinned(sequence("1", "a"))
    assert (changed.value.written_by, changed.value.served) == ("a", "b")
    with pytest.raises(UnknownModelError):
        model.pinned(sequence("7", "a"))


def test_a_state_of_another_shape_is_damage() -> None:
    """Never continued."""
    model = model_of(version("1", "a"))
    short = StateRow((bytes(8), bytes(8)), ((1, 8), (2, 1)))

    with pytest.raises(StateDamagedError, match="other shapes"):
        model.pinned(sequence("1", "a", short))
    bare = sequence("1", "a")
    bare.state = None
    with pytest.raises(StateDamagedError, match="no state"):
        model.pinned(bare)


def test_gauges_count_what_is_in_memory() -> None:
    """Resident sequences of this version, their bytes, waiting steps."""
    mine, other = version("1", "a"), version("2", "b")
    model, residence = model_of(mine, other), Residence(0)
    held = {cid: Sequence(SequenceKey("m", cid)) for cid in range(1, 6)}
    for cid, handle in ((1, mine), (2, mine), (3, other), (4, mine), (5, other)):
        residence.keep(held[cid], state_of([1]))
        residence.pin(held[cid], handle)
    residence.forget(held[4])
    residence.pin(held[5], mine)
    residence.keep(held[5], StateRow((b"longer",), ((6,),)))
    model.unanswered = 6

    model.refresh(mine, live=9)

    gauges = mine.statistics
    assert (gauges.live, gauges.resident, gauges.queued) == (9, 3, 6)
    assert gauges.state_bytes == 2 * state_of([]).nbytes + 6
    assert (other.statistics.resident, other.statistics.state_bytes) == (1, state_of([]).nbytes)
    assert residence.bytes == 3 * state_of([]).nbytes + 6 + 4 * OVERHEAD


def test_a_sequence_is_live_as_long_as_its_record_is() -> None:
    """Forgotten, it is not known to be."""
    one = sequence("1", "a")

    assert one.live
    one.forget()
    assert not one.live
    assert one.state is None


def test_sequences_with_a_waiting_step_are_counted() -> None:
    """A busy sequence waits, unless it is in a model call."""
    handle = version("1", "d")
    model = model_of(handle)
    model.unanswered = 5
    model.asking = 1
    model.backlog.append(Sequence(SequenceKey("m", "c")))
    handle.statistics.running = 2
    handle.statistics.committing = 1

    model.refresh(handle, live=3)

    gauges = handle.statistics
    assert (gauges.waiting, gauges.queued, gauges.backlog) == (3, 2, 1)
