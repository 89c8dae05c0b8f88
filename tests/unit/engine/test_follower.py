"""A repository changes under live sequences; what is served follows it."""

from __future__ import annotations

import pytest

from doubles import STATELESS, ChainRuntime, chain_of
from legato.core.errors import ConfigError, UnknownModelError
from legato.core.types import TFSERVING
from legato.engine import engine as engine_module
from legato.engine.catalog import Catalog, ReloadError, VersionState, VersionStateError
from legato.engine.follower import Follower
from legato.repository.config import ModelConfig, SequenceConfig
from legato.repository.wanted import RepositoryError, Wanted, WantedModel


class FakeRepository:
    """Says what a test wants."""

    def __init__(self) -> None:
        self.poll_s = 1.0
        self.models: dict[str, WantedModel] = {}
        self.problems: dict[str, str] = {}
        self.error: RepositoryError | None = None
        self.changes = 0

    def read(self) -> Wanted:
        if self.error is not None:
            raise self.error
        return Wanted(dict(self.models), dict(self.problems))

    def fingerprint(self) -> bytes:
        return self.changes.to_bytes(4, "little")

    def want(self, name="m", *versions, others=(), stateful=True, problems=(), **options) -> None:
        """Want these versions of a model; the options are those of all of them."""

        def configs(names):
            sequences = SequenceConfig(**options.get("sequences", {}))
            rest = {key: value for key, value in options.items() if key != "sequences"}
            return {
                version: ModelConfig(
                    name=name, version=version, execution="inline", sequences=sequences,
                    options={"digest": f"{version:a>16}", **rest},
                )
                for version in names
            }  # fmt: skip

        self.models[name] = WantedModel(
            name, stateful, configs(versions), configs(others), dict(problems)
        )
        self.changes += 1


@pytest.fixture
def world(make, monkeypatch):
    """An engine, a repository, and a follower between them."""

    def build(config):
        if config.options.get("fails"):
            raise ConfigError("it cannot be loaded")
        if config.options.get("breaks"):
            raise RuntimeError("boom")
        if config.options.get("stateless"):
            return ChainRuntime(STATELESS)
        runtime = ChainRuntime()
        built[config.version] = runtime
        return runtime

    built: dict[str, ChainRuntime] = {}
    monkeypatch.setattr(engine_module.registry, "build", build)
    monkeypatch.setattr(
        engine_module, "content_digest", lambda config: config.options.get("digest", "d" * 16)
    )
    harness = make()
    repository = FakeRepository()
    follower = Follower(harness.engine, repository)
    harness.repository, harness.follower, harness.built = repository, follower, built
    yield harness
    harness.loop.finish(follower.close())


def states(world, name="m"):
    return [(known.version, known.state.name) for known in world.follower.known(name)]


def reload(world):
    return world.loop.finish(world.follower.reload())


def ask(world, cid, x=1, **options):
    return world.ask(cid, x, dialect=TFSERVING, **options)


# -- the start -----------------------------------------------------------------------------------


def test_what_is_wanted_is_served(world) -> None:
    """The highest version is the default one."""
    world.repository.want("m", "2", "10")

    problems = world.loop.finish(world.follower.load())

    assert problems == {}
    assert states(world) == [("2", "AVAILABLE"), ("10", "AVAILABLE")]
    assert world.follower.find("m").version == "10"
    assert world.follower.find("m", "2").version == "2"


def test_what_fails_is_left_out(world) -> None:
    """The rest is served; the version says that it failed."""
    world.repository.want("good", "1")
    world.repository.want("bad", "1", fails=True)
    world.repository.want("odd", "1", breaks=True)
    world.repository.problems["worse"] = "a wrong entry"

    problems = world.loop.finish(world.follower.load())

    assert sorted(problems) == ["bad/1", "odd/1", "worse"]
    assert states(world, "good") == [("1", "AVAILABLE")]
    assert states(world, "bad") == [("1", "FAILED")]
    assert "RuntimeError: boom" in problems["odd/1"]


@pytest.mark.parametrize("what", ["repository", "model"])
def test_a_strict_start_fails(world, what) -> None:
    """One model of the command line: without it there is nothing to serve."""
    strict = Follower(world.engine, world.repository, strict=True)
    if what == "repository":
        world.repository.error = RepositoryError("broken", kind="config")
    else:
        world.repository.want("m", "1", fails=True)

    with pytest.raises(ConfigError):
        world.loop.finish(strict.load())


# -- finding -------------------------------------------------------------------------------------


def test_finding_tells_apart_what_is_not_there(world) -> None:
    """Never heard of, no such version, taken away, failed."""
    world.repository.want("m", "1", "2", problems={"3": "half a model"})
    world.loop.finish(world.follower.load())
    world.repository.want("m", "2", problems={"3": "half a model"})
    with pytest.raises(ReloadError):
        reload(world)

    found = {}
    for name, version in (("x", ""), ("m", "9"), ("m", "1"), ("m", "3")):
        with pytest.raises(UnknownModelError) as caught:
            world.follower.find(name, version)
        found[name, version] = getattr(caught.value, "state", None)

    assert found == {
        ("x", ""): None,
        ("m", "9"): None,
        ("m", "1"): VersionState.RETIRED,
        ("m", "3"): VersionState.FAILED,
    }


def test_a_plain_catalog_knows_what_the_engine_serves(world) -> None:
    """And has nothing to follow."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    plain = Catalog(world.engine)

    assert [known.version for known in plain.known("m")] == ["1"]
    assert plain.names() == ["m"]
    assert plain.find("m").version == "1"
    with pytest.raises(UnknownModelError):
        plain.find("x")
    with pytest.raises(ReloadError) as caught:
        world.loop.finish(plain.reload())
    assert caught.value.kind == "off"


# -- changes -------------------------------------------------------------------------------------


def test_a_new_version_takes_new_sequences_only(world) -> None:
    """The old one is retired for others, and goes on for those that live on it."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)

    world.repository.want("m", "2", others=["1"])
    changed = reload(world)
    old, new = ask(world, 1, 2), ask(world, 2, start=True)

    assert changed
    assert states(world) == [("1", "RETIRED"), ("2", "AVAILABLE")]
    assert (old.version, old.data[0]) == ("1", chain_of([1, 2]))
    assert new.version == "2"
    assert world.follower.find("m", "1", lingering=True).version == "1"
    assert [handle.version for handle in world.follower.others("m")] == ["1"]
    with pytest.raises(VersionStateError):
        world.follower.find("m", "1")


def test_nothing_changes_when_nothing_changed(world) -> None:
    """No model is loaded again."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    before = world.built["1"]

    assert reload(world) is False
    assert world.built["1"] is before


def test_a_new_limit_holds_and_sequences_stay(world) -> None:
    """Model Server dropped them."""
    world.repository.want("m", "1", sequences={"max_live": 2})
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)
    ask(world, 2, start=True)

    world.repository.want("m", "1", sequences={"max_live": 1})
    reload(world)
    refused = ask(world, 3, start=True)

    assert refused.code == "sequence_limit"
    assert ask(world, 1, 2).data[0] == chain_of([1, 2])


def test_changed_content_of_a_version_keeps_its_sequences(world) -> None:
    """The same number, another graph: both are served, each to its own."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)

    world.repository.want("m", "1", digest="b" * 16)
    reload(world)

    assert ask(world, 1, 2).data[0] == chain_of([1, 2])
    assert ask(world, 2, start=True).step == 1
    assert world.stored(2)[0].model_digest == "b" * 16


def test_a_model_taken_away_begins_nothing(world) -> None:
    """Its sequences go on to their end."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)

    world.repository.models.clear()
    assert reload(world)

    assert states(world) == [("1", "RETIRED")]
    assert isinstance(ask(world, 2, start=True), UnknownModelError)
    assert ask(world, 1, 2, end=True).step == 2


def test_a_model_taken_away_may_come_back_as_another_kind(world) -> None:
    """Once the last sequence of the old kind is over."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.repository.models.clear()
    reload(world)
    world.pass_time(3)

    world.repository.want("m", "1", stateful=False, stateless=True)

    assert reload(world)
    assert world.engine.model("m").stateful is False


def test_a_served_model_does_not_change_its_kind(world) -> None:
    """Refused; the old one goes on."""
    world.repository.want("m", "1", stateful=True)
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)

    world.repository.want("m", "1", stateful=False)
    with pytest.raises(ReloadError) as caught:
        reload(world)

    assert "Requested model type change" in caught.value.message
    assert ask(world, 1, 2).step == 2


@pytest.mark.parametrize(("kind", "status"), [("config", 412), ("missing", 500)])
def test_a_broken_repository_changes_nothing(world, kind, status) -> None:
    """The models that were served go on."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.repository.error = RepositoryError("broken", kind=kind)

    with pytest.raises(ReloadError) as caught:
        reload(world)

    assert (caught.value.kind, caught.value.status) == (kind, status)
    assert states(world) == [("1", "AVAILABLE")]


def test_a_wrong_entry_leaves_its_model_as_it_is(world) -> None:
    """And the others follow."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    del world.repository.models["m"]
    world.repository.problems["m"] = "a wrong entry"
    world.repository.want("new", "1")

    with pytest.raises(ReloadError) as caught:
        reload(world)

    assert caught.value.kind == "config"
    assert states(world) == [("1", "AVAILABLE")]
    assert states(world, "new") == [("1", "AVAILABLE")]


def test_a_new_version_that_fails_leaves_the_old_one(world) -> None:
    """There would be nothing to serve."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.repository.want("m", "2", others=["1"], fails=True)

    with pytest.raises(ReloadError) as caught:
        reload(world)

    assert caught.value.kind == "models"
    assert states(world) == [("1", "AVAILABLE"), ("2", "FAILED")]
    assert ask(world, 1, start=True).version == "1"


def test_a_reload_that_fails_leaves_the_version(world) -> None:
    """It says available, for it is."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.repository.want("m", "1", fails=True)

    with pytest.raises(ReloadError):
        reload(world)

    assert states(world) == [("1", "AVAILABLE")]


# -- watching ------------------------------------------------------------------------------------


def test_changes_are_followed_by_themselves(world) -> None:
    """Within the interval, after a round that went wrong too."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.loop.finish(world.follower.watch())
    world.repository.error = RepositoryError("being written", kind="config")
    world.repository.changes += 1
    world.pass_time(1.5)
    world.repository.error = None
    world.repository.want("m", "2")

    world.pass_time(1.5)

    assert world.follower.find("m").version == "2"


def test_an_interval_of_zero_follows_nothing(world) -> None:
    """Only the API reloads."""
    world.repository.poll_s = 0
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    world.loop.finish(world.follower.watch())
    world.repository.want("m", "2")

    world.pass_time(100)

    assert world.follower.find("m").version == "1"
    assert reload(world)


def test_versions_that_stored_sequences_live_on_come_back(world) -> None:
    """After a restart: they are not of the policy, and not told as served."""
    world.repository.want("m", "1")
    world.loop.finish(world.follower.load())
    ask(world, 1, start=True)
    world.loop.finish(world.engine.unload("m"))
    again = Follower(world.engine, world.repository)
    world.repository.want("m", "3", others=["1", "2"])

    world.loop.finish(again.load())
    world.loop.finish(again.watch())
    went_on = ask(world, 1, 2)
    world.loop.finish(again.close())

    assert (went_on.version, went_on.data[0]) == ("1", chain_of([1, 2]))
    assert [(k.version, k.state.name) for k in again.known("m")] == [
        ("1", "RETIRED"),
        ("3", "AVAILABLE"),
    ]
    assert again.find("m").version == "3"
    assert "2" not in world.built
