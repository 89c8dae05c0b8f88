"""Models that clients load and unload, under live sequences; and the index."""

from __future__ import annotations

import pytest

from doubles import CHAIN_SIGNATURE, ChainRuntime, chain_of
from legato.core.errors import ConfigError, ModelError, StateDamagedError, UnknownModelError
from legato.core.types import Signature, StateSpec
from legato.engine import engine as engine_module
from legato.engine.catalog import CONTROL_IS_OFF, Catalog, ControlError, Indexed
from legato.engine.control import Controlled
from legato.repository.config import ModelConfig
from legato.repository.wanted import RepositoryError, Wanted, WantedModel


class FakeRepository:
    """Holds models by name; each has a digest, a stamp and options."""

    def __init__(self, *, explicit: bool = True) -> None:
        self.explicit = explicit
        self.poll_s = 0.0
        self.there: dict[str, dict] = {}
        self.wanted: set[str] = set()
        self.asked: list[tuple] = []
        self.wrong: dict[str, str] = {}

    def put(self, name: str, *, digest: str = "a" * 16, stamp: bytes = b"", **options) -> None:
        self.there[name] = {"digest": digest, "stamp": stamp, **options}

    def names(self) -> list[str]:
        return sorted(self.there)

    def model(self, name: str) -> WantedModel:
        said = dict(self.there[name])
        stamp = said.pop("stamp")
        config = ModelConfig(name=name, execution="inline", options=said)
        return WantedModel(name, True, {"1": config}, stamps={"1": stamp})

    def read(self) -> Wanted:
        names = self.wanted if self.explicit else self.there.keys() - self.wrong.keys()
        return Wanted({name: self.model(name) for name in names}, dict(self.wrong))

    def fingerprint(self) -> bytes:
        return b""

    def ask(self, name, config=None, files=()):
        self.asked.append((name, config, dict(files)))
        if name in self.wrong:
            raise ConfigError(self.wrong[name])
        if name not in self.there:
            raise KeyError(name)
        self.wanted.add(name)
        return self.model(name)

    def forget(self, name: str) -> None:
        self.wanted.discard(name)

    def close(self) -> None:
        self.wanted.clear()


@pytest.fixture
def world(make, monkeypatch):
    """An engine, a repository that clients ask of, and what stands between."""
    signatures: dict[str, Signature] = {}

    def build(config):
        if config.options.get("fails"):
            raise ConfigError("it cannot be loaded")
        runtime = ChainRuntime(signatures.get(config.options["digest"], CHAIN_SIGNATURE))
        built.append(runtime)
        return runtime

    built: list[ChainRuntime] = []
    monkeypatch.setattr(engine_module.registry, "build", build)
    monkeypatch.setattr(engine_module, "content_digest", lambda config: config.options["digest"])
    h = make()
    h.repository = FakeRepository()
    h.control = Controlled(h.engine, h.repository)
    h.built, h.signatures = built, signatures
    h.loop.finish(h.control.load())
    yield h
    h.loop.finish(h.control.close())


def load(world, name="m", **options):
    world.loop.finish(world.control.load_model(name, **options))


def refused(world, coroutine) -> ControlError:
    with pytest.raises(ControlError) as caught:
        world.loop.finish(coroutine)
    return caught.value


def test_the_index_tells_of_everything(world) -> None:
    """Never loaded, ready, unloaded, and wrong."""
    for name in ("never", "ready", "gone", "wrong"):
        world.repository.put(name)
    load(world, "ready")
    load(world, "gone")
    world.loop.finish(world.control.unload_model("gone"))
    world.settle()
    world.repository.wrong["wrong"] = "a bad config"
    refused(world, world.control.load_model("wrong"))

    assert world.control.index() == [
        Indexed("gone", "1", "UNAVAILABLE", "unloaded"),
        Indexed("never"),
        Indexed("ready", "1", "READY", ""),
        Indexed("wrong", "", "UNAVAILABLE", "a bad config"),
    ]


def test_what_cannot_be_loaded_is_told_and_costs_nothing(world) -> None:
    """The kinds tell a protocol what to answer."""
    world.repository.put("m")
    load(world)
    world.ask(1, 5, start=True)
    world.repository.put("m", fails=True, stamp=b"new")
    world.repository.put("bad")
    world.repository.wrong["bad"] = "no such key"

    failed = refused(world, world.control.load_model("m"))
    unknown = refused(world, world.control.load_model("none"))
    invalid = refused(world, world.control.load_model("bad"))

    assert (failed.kind, unknown.kind, invalid.kind) == ("invalid", "unknown", "invalid")
    assert "load failed for model 'm': version 1 is at UNAVAILABLE state" in failed.message
    assert "it cannot be loaded" in failed.message
    assert "no such key" in invalid.message
    assert world.ask(1, 6).step == 2


def test_only_explicit_mode_listens(world) -> None:
    """Others answer what Triton answers, and so does a server without a repository."""
    world.repository.put("m")
    world.repository.explicit = False
    plain = Catalog(world.engine)

    texts = {
        refused(world, each).message
        for each in (
            world.control.load_model("m"),
            world.control.unload_model("m"),
            plain.load_model("m"),
            plain.unload_model("m"),
        )
    }

    assert texts == {CONTROL_IS_OFF}
    assert plain.index() == []


def test_a_repository_that_is_gone_is_told(world) -> None:
    """What is served goes on."""
    world.repository.put("m")
    load(world)

    def gone(*_asked):
        raise RepositoryError("no such folder", kind="missing")

    world.repository.ask = gone

    assert "no such folder" in refused(world, world.control.load_model("m")).message
    assert world.ask(1, 5, start=True).step == 1


def test_a_model_that_did_not_change_is_not_loaded_again(world) -> None:
    """One whose files changed is, though its config is the same."""
    world.repository.put("m")
    load(world)
    load(world)
    same = len(world.built)
    world.repository.put("m", stamp=b"other")
    load(world)

    assert (same, len(world.built)) == (1, 2)


def test_overrides_reach_the_repository(world) -> None:
    """As they came."""
    world.repository.put("m")

    load(world, config="{}", files={"1/model.onnx": b"x"})

    assert world.repository.asked == [("m", "{}", {"1/model.onnx": b"x"})]


def test_sequences_go_on_with_the_same_content(world) -> None:
    """Another config, the same model: the next step runs on what was loaded last."""
    world.repository.put("m")
    load(world)
    world.ask(1, 5, start=True)
    world.repository.put("m", note="another config")
    load(world)

    assert world.ask(1, 6).step == 2
    assert world.state(1).data[0] == chain_of([5, 6])
    assert [len(runtime.calls) for runtime in world.built] == [1, 1]


def test_sequences_stay_where_their_state_does_not_fit(world) -> None:
    """The same content with a state of another shape, or other content: the old copy goes on."""
    chain, _count = CHAIN_SIGNATURE.states
    world.repository.put("m")
    load(world)
    world.ask(1, 5, start=True)
    world.signatures["a" * 16] = Signature(
        CHAIN_SIGNATURE.inputs,
        CHAIN_SIGNATURE.outputs,
        (chain, StateSpec("count", "count_in", "count_out", "float32", (3, 1), batch_axis=1)),
    )
    world.repository.put("m", note="other shapes")
    load(world)
    on_old = world.ask(1, 6)
    world.repository.put("m", digest="b" * 16)
    load(world)

    assert on_old.step == 2
    assert world.ask(1, 7, end=True).step == 3
    assert [len(runtime.calls) for runtime in world.built] == [3, 0, 0]


def test_a_state_that_fits_nowhere_is_refused(world) -> None:
    """After a restart there is no old copy: the reason is told, the state is not touched."""
    chain, _count = CHAIN_SIGNATURE.states
    world.repository.put("m")
    load(world)
    world.ask(1, 5, start=True)
    world.loop.finish(world.control.unload_model("m"))
    world.settle()
    world.signatures["a" * 16] = Signature(
        CHAIN_SIGNATURE.inputs,
        CHAIN_SIGNATURE.outputs,
        (chain, StateSpec("count", "count_in", "count_out", "float32", (3, 1), batch_axis=1)),
    )
    world.repository.put("m", note="other shapes")
    load(world)

    problem = world.ask(1, 6)

    assert isinstance(problem, StateDamagedError)
    assert "other shapes than the model declares" in problem.message
    assert world.state(1).data[0] == chain_of([5])


def test_unloading_finishes_what_is_under_way(world) -> None:
    """It returns at once: new steps are refused, the running one is answered."""
    world.repository.put("m")
    load(world)
    handle = world.engine.model("m")
    handle.config = handle.config.model_copy(update={"execution": "thread"})
    room = world.hold_instances(handle)
    running = world.send(1, 5, start=True)
    world.loop.settle()

    world.loop.finish(world.control.unload_model("m"), within_s=0.0)
    meanwhile = world.control.index()
    late = world.ask(2, 5, start=True)
    world.let_run(room)
    world.pass_time(1)

    assert meanwhile == [Indexed("m", "1", "UNLOADING", "")]
    assert isinstance(late, UnknownModelError)
    assert running.reply.step == 1
    assert world.control.index() == [Indexed("m", "1", "UNAVAILABLE", "unloaded")]


def test_unloading_ends_versions_that_linger(world) -> None:
    """Nothing of the model is left that takes steps."""
    world.repository.put("m")
    load(world)
    world.ask(1, 5, start=True)
    world.repository.put("m", digest="b" * 16)
    load(world)

    world.loop.finish(world.control.unload_model("m"))
    world.pass_time(1)

    assert isinstance(world.ask(1, 6), UnknownModelError | ModelError)
    assert all(runtime.closed for runtime in world.built)


def test_what_was_never_loaded_can_be_unloaded(world) -> None:
    """Nothing happens; a model that is not there is an error."""
    world.repository.put("m")

    world.loop.finish(world.control.unload_model("m"))
    unknown = refused(world, world.control.unload_model("none"))

    assert unknown.kind == "unknown"


@pytest.mark.parametrize(("loose", "ready"), [(False, False), (True, True)])
def test_ready_means_all_models_unless_told_otherwise(world, loose, ready) -> None:
    """A model that is wrong keeps the server from being ready."""
    world.repository.explicit = False
    world.repository.put("m")
    world.repository.wrong["bad"] = "a bad config"
    control = Controlled(world.engine, world.repository, ready_without=loose)

    problems = world.loop.finish(control.load())

    assert problems == {"bad": "a bad config"}
    assert control.complete is ready
