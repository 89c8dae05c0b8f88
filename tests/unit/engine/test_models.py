"""Loading, replacing and unloading models under live sequences; instances and threads."""

from __future__ import annotations

import pytest

from doubles import STATELESS, ChainRuntime, EchoRuntime, chain_of, state_of
from legato.core.errors import (
    ClientError,
    ConfigError,
    ModelChangedError,
    StateDamagedError,
    UnknownModelError,
)
from legato.core.types import KSERVE, Signature, StateSpec, TensorSpec

A, B, C = "a" * 16, "b" * 16, "c" * 16


def test_sequences_go_on_after_a_reload_of_the_same_content(make) -> None:
    """The old instance is closed; the state does not move."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)

    h.load(digest=A)

    assert h.runtimes[0].closed
    assert h.ask(1, 2).data[0] == chain_of([1, 2])


def test_sequences_wait_in_the_store_while_their_model_is_away(make) -> None:
    """Unloaded: refused, and nothing stays in memory. Loaded again: they go on."""
    h = make(max_resident_bytes=1 << 20)
    h.load(digest=A)
    h.ask(1, 1, start=True)

    h.loop.finish(h.engine.unload("m"))
    away = h.ask(1, 2)
    assert isinstance(away, UnknownModelError)
    assert h.engine.residence.bytes == 0
    assert len(h.engine.residence.idle) == 0
    assert h.runtimes[0].closed
    h.load(digest=A)

    assert h.ask(1, 3).data[0] == chain_of([1, 3])


def test_other_content_does_not_read_the_state(make) -> None:
    """D8: refused with both contents named; a new START works."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)

    h.load(digest=B)
    error = h.ask(1, 2)

    assert isinstance(error, ModelChangedError)
    assert (error.written_by, error.served) == (A, B)
    assert h.state() == state_of([1])
    assert h.ask(1, 3, start=True).step == 1


def test_content_declared_compatible_reads_the_state(make) -> None:
    """From then on the state is the new content's."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)
    h.load(digest=B, compatible_with=[A])

    assert h.ask(1, 2).data[0] == chain_of([1, 2])
    assert h.stored()[0].model_digest == B


def test_who_wrote_the_state_is_remembered_in_memory_too(make) -> None:
    """A state written by B is not read by A again, also not out of a resident copy."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)
    h.load(digest=B, compatible_with=[A])
    h.ask(1, 2)

    h.load(digest=C, compatible_with=[B])
    assert h.ask(1, 3).step == 3
    h.load(digest=A)

    assert isinstance(h.ask(1, 4), ModelChangedError)


def test_a_step_in_flight_during_a_reload_is_committed(make) -> None:
    """And the next one runs on the new instance, not on the closed one."""
    h = make()
    old = h.load(digest=A, execution="thread")
    room = h.hold_instances(old)
    first = h.send(1, 1, start=True)
    h.settle()

    from legato.engine import engine as module

    build, digest = module.registry.build, module.content_digest
    module.registry.build = lambda _c: h.runtimes.append(ChainRuntime()) or h.runtimes[-1]
    module.content_digest = lambda _c: A
    try:
        loading = h.loop.create_task(h.engine.load(old.config.model_copy()))
        h.loop.settle()
        assert not loading.done()
        h.let_run(room)
        h.pass_time(0.1)
        new = loading.result()
    finally:
        module.registry.build, module.content_digest = build, digest
    room = h.hold_instances(new)
    second = h.send(1, 2)
    h.settle()
    h.let_run(room)
    h.settle()

    assert (first.reply.step, second.reply.step) == (1, 2)
    assert h.runtimes[0].closed
    assert h.runtimes[1].calls == [[1]]


# -- versions --------------------------------------------------


def test_a_sequence_stays_on_the_version_it_began_with(make) -> None:
    """New ones take the highest; asking for another in the middle is refused."""
    h = make()
    h.load(version="2", digest=A)
    h.ask(1, 1, start=True)

    h.load(version="10", digest=B)

    assert h.ask(1, 2).version == "2"
    assert h.ask(2, 1, start=True).version == "10"
    assert h.ask(3, 1, start=True, version="2").version == "2"
    assert isinstance(h.ask(1, 3, version="10"), ClientError)
    assert h.ask(1, 3, version="2").step == 3


def test_a_sequence_of_an_unloaded_version_goes_on_where_its_state_fits(make) -> None:
    """Same content under another version name, or one that declares it."""
    h = make()
    h.load(version="1", digest=A)
    h.ask(1, 1, start=True)
    h.load(version="2", digest=B, compatible_with=[A])

    h.loop.finish(h.engine.unload("m", "1"))

    assert h.ask(1, 2).version == "2"
    assert h.stored()[0].version == "2"


def test_a_sequence_whose_version_is_gone_is_refused(make) -> None:
    """By name of the version."""
    h = make()
    h.load(version="1", digest=A)
    h.ask(1, 1, start=True)
    h.load(version="2", digest=B)

    h.loop.finish(h.engine.unload("m", "1"))
    error = h.ask(1, 2)

    assert isinstance(error, UnknownModelError)
    assert (error.version, error.unloaded) == ("1", True)


def test_an_unknown_version_is_refused_at_the_start(make) -> None:
    """And opens nothing."""
    h = make()
    h.load()

    assert isinstance(h.ask(1, 1, start=True, version="9"), UnknownModelError)
    assert h.stored() is None


def test_unloading_what_is_not_there_is_an_error(make) -> None:
    """Model or version."""
    h = make()
    h.load()

    with pytest.raises(UnknownModelError):
        h.loop.finish(h.engine.unload("nope"))
    with pytest.raises(UnknownModelError):
        h.loop.finish(h.engine.unload("m", "9"))


def test_unloading_turns_the_backlog_away(make) -> None:
    """Nobody waits for a model that is gone."""
    h = make()
    h.load(sequences={"max_live": 1})
    h.ask(1, 1, start=True)
    waiting = h.send(2, 1, start=True, dialect=KSERVE)
    h.settle()

    h.loop.finish(h.engine.unload("m"))

    assert isinstance(waiting.error, UnknownModelError)


def test_versions_agree_on_having_state(make) -> None:
    """A mixture is refused, and what was loaded for it is freed."""
    h = make()
    h.load(version="1")
    h.make_runtime = lambda: ChainRuntime(STATELESS)

    with pytest.raises(ConfigError, match="does not carry"):
        h.load(version="2")
    assert h.runtimes[-1].closed
    assert h.ask(1, 1, start=True).step == 1


def test_further_instances_are_copies_of_the_first(make) -> None:
    """Where a runtime can be copied, a model is examined once, however often it is loaded."""
    h = make()
    copies = []

    class Copied(ChainRuntime):
        def clone(self):
            copies.append(ChainRuntime())
            return copies[-1]

    h.make_runtime = Copied

    handle = h.load(instances=3)

    assert len(h.runtimes) == 1
    assert [each.runtime for each in handle.instances] == [*h.runtimes, *copies]


def test_a_load_that_fails_closes_what_it_built(make) -> None:
    """The second instance does not fit: the first is freed."""
    h = make()

    def build():
        if h.runtimes:
            raise ConfigError("no room")
        return ChainRuntime()

    h.make_runtime = build

    with pytest.raises(ConfigError):
        h.load(instances=2)
    assert h.runtimes[0].closed
    assert isinstance(h.ask(1, 1), UnknownModelError)


def test_a_stored_state_of_another_shape_is_damage(make) -> None:
    """Equal digest, other shapes: refused loudly, never continued."""
    h = make()
    h.load(digest=A)
    h.ask(1, 1, start=True)
    other = Signature(
        (TensorSpec("x", "int64", (1, 1)),),
        (),
        (StateSpec("chain", "i", "o", "uint8", (1, 8)),),
    )
    h.make_runtime = lambda: ChainRuntime(other)
    h.load(digest=A)

    assert isinstance(h.ask(1, 2), StateDamagedError)


def test_models_are_found_by_name_and_version(make) -> None:
    """The default is the highest number."""
    h = make()
    for version in ("9", "10", "beta"):
        h.load(version=version)

    assert h.engine.model("m").version == "10"
    assert h.engine.model("m", "beta").version == "beta"
    assert [handle.version for handle in h.engine.models()] == ["9", "10", "beta"]
    with pytest.raises(UnknownModelError):
        h.engine.model("m", "11")
    with pytest.raises(UnknownModelError):
        h.engine.model("n")


# -- instances --------------------------------------------------


def test_any_instance_may_take_any_sequence(make) -> None:
    """Two instances run two batches at once; order within a sequence holds."""
    h = make()
    handle = h.load(execution="thread", instances=2, max_batch_size=1)
    room = h.hold_instances(handle)
    sent = [h.send(1, 1, start=True), h.send(2, 2, start=True), h.send(3, 3, start=True)]
    sent += [h.send(1, 4), h.send(2, 5)]
    h.settle()

    assert len(room) == 2
    assert handle.statistics.running == 2
    room.reverse()  # the second is done first
    while room:
        h.let_run(room)
        h.settle()

    assert [s.reply.step for s in sent] == [1, 1, 1, 2, 2]
    assert {h.state(1), h.state(2)} == {state_of([1, 4]), state_of([2, 5])}
    assert all(runtime.calls for runtime in h.runtimes)
    assert handle.statistics.running == 0


def test_what_arrives_while_a_batch_runs_is_the_next_batch(make) -> None:
    """Natural batching: nothing waits for a batch to fill."""
    h = make()
    handle = h.load(execution="thread")
    room = h.hold_instances(handle)
    h.send(1, 1, start=True)
    h.settle()
    for cid in (2, 3, 4):
        h.send(cid, 1, start=True)
        h.settle()

    h.let_run(room)
    h.settle()
    h.let_run(room)
    h.settle()

    assert h.runtime.calls == [[1], [2, 3, 4]]


def test_auto_execution_measures_and_then_decides(make) -> None:
    """The first call runs in a thread; a fast model is then run inline, a slow one is not."""
    h = make()
    handle = h.load(execution="auto")

    assert handle.inline is False
    handle.note_call(0.0001)
    assert handle.inline is True
    for _ in range(50):
        handle.note_call(0.5)
    assert handle.inline is False


def test_a_stateless_model_can_be_reloaded(make) -> None:
    """It has no sequences to look after."""
    import numpy as np

    h = make(runtimes=EchoRuntime)
    h.load()
    h.load()

    reply = h.ask(None, inputs={"x": np.array([[4]], np.int64)})

    assert np.frombuffer(reply.data[0], np.int64).tolist() == [8]
    h.loop.finish(h.engine.unload("m"))
    assert h.engine.models() == []


def test_names_of_unloaded_models_are_kept_until_they_come_back(make) -> None:
    """Protocols tell them from models that never were."""
    h = make()
    h.load()
    before = set(h.engine.unloaded)

    h.loop.finish(h.engine.unload("m"))
    gone = set(h.engine.unloaded)
    h.load()

    assert (before, gone, h.engine.unloaded) == (set(), {"m"}, set())


def test_decoupled_models_are_known_by_name(make) -> None:
    """Until they are loaded as something else."""
    h = make()
    h.load(origin={"model_transaction_policy": {"decoupled": True}})
    decoupled = set(h.engine.decoupled)

    h.load(origin={})

    assert (decoupled, h.engine.decoupled) == ({"m"}, set())
