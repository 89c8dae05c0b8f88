"""Triton's command line: syntax, what goes together, what it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from legato.cli.triton import FLAGS, UsageError, overview, parse, settings_of
from legato.repository.triton import Options
from legato.settings import from_environment

ONE = ["--model-repository=/models"]


def settings(*arguments):
    return from_environment(settings_of(parse(arguments)), {"HOME": "/home/me"})


def options(*arguments):
    return Options.model_validate(settings(*ONE, *arguments).triton)


def refused(*arguments):
    with pytest.raises(UsageError) as caught:
        settings(*arguments)
    return str(caught.value)


def test_values_stand_behind_a_space_or_an_equals_sign() -> None:
    """The last one counts; lists keep all."""
    values = parse(["--http-port", "1", "--http-port=2", "--load-model=a", "--load-model", "b"])

    assert values == {"http-port": 2, "load-model": ["a", "b"]}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nope"], "unrecognized option '--nope'"),
        (["models"], "unrecognized option 'models'"),
        (["--http-port"], "option '--http-port' requires an argument"),
        (["--http-port=x"], "'--http-port' must be a number"),
        (["--allow-http=perhaps"], "'--allow-http' must be true or false"),
        (["--help=1"], "option '--help' doesn't allow an argument"),
        (["--grpc-server-key=k"], "'--grpc-server-key' is not offered here"),
        ([], "--model-repository must be specified"),
        (["--model-repository=s3://bucket/models"], "s3://bucket/models is not on this machine"),
        ([*ONE, "--model-control-mode=some"], "must be one of none, explicit, poll"),
        ([*ONE, "--load-model=a"], "can only be specified when --model-control-mode=explicit"),
        ([*ONE, "--model-namespacing=true"], "'--model-namespacing' is not offered here"),
        ([*ONE, "--http-port=70000"], "--http-port must be at most 65535"),
        ([*ONE, "--grpc-port=8000"], "is taken by another of the server's own ports"),
        (
            [*ONE, "--allow-http=0", "--allow-grpc=0", "--allow-metrics=0"],
            "there is nothing to listen on",
        ),
    ],
)
def test_what_is_wrong_is_told(arguments, told) -> None:
    """Each sentence names the flag."""
    assert told in refused(*arguments)


def test_what_makes_no_difference_is_accepted() -> None:
    """Flags of threads and pools, and refused ones that are switched off."""
    assert settings(*ONE, "--http-thread-count=8", "--grpc-use-ssl=false").port == 8000


def test_defaults_are_tritons() -> None:
    """Three ports on all addresses; everything is served and nothing followed."""
    found = settings(*ONE)

    assert (found.host, found.port) == ("0.0.0.0", 8000)  # noqa: S104 - its default
    assert found.extra_addresses == (("0.0.0.0", 8001), ("0.0.0.0", 8002))  # noqa: S104
    assert (found.drain_timeout_s, found.log_level) == (30, "info")
    assert not found.allow_client_shm
    assert options() == Options(repositories=(Path("/models"),))


def test_ports_and_addresses_are_as_asked() -> None:
    """Metrics go where HTTP goes, unless said otherwise."""
    found = settings(
        *ONE, "--http-address=10.0.0.1", "--http-port=1", "--allow-grpc=false", "--metrics-port=3"
    )

    assert (found.host, found.port) == ("10.0.0.1", 1)
    assert found.extra_addresses == (("10.0.0.1", 3),)


def test_models_are_as_asked() -> None:
    """Modes, what is loaded, what is strict."""
    found = options(
        "--model-store=/more", "--model-control-mode=explicit", "--load-model=a",
        "--exit-on-error=false", "--strict-readiness=0", "--strict-model-config=true",
        "--model-config-name=fast",
    )  # fmt: skip

    assert found.repositories == (Path("/models"), Path("/more"))
    assert (found.mode, found.load) == ("explicit", ("a",))
    strict = (found.exit_on_error, found.strict_readiness, found.auto_complete)
    assert strict == (False, False, False)
    assert found.config_name == "fast"


@pytest.mark.parametrize(
    ("arguments", "mode", "poll_s"),
    [
        (["--model-control-mode=poll"], "poll", 15),
        (["--model-control-mode=poll", "--repository-poll-secs=2"], "poll", 2),
        (["--model-control-mode=poll", "--repository-poll-secs=0"], "none", 15),
    ],
)
def test_polling_may_be_slower_quicker_or_off(arguments, mode, poll_s) -> None:
    """0 seconds: never."""
    found = options(*arguments)

    assert (found.mode, found.poll_s) == (mode, poll_s)


@pytest.mark.parametrize(
    ("arguments", "level"),
    [
        (["--log-verbose=1"], "debug"),
        (["--log-info=false"], "warning"),
        (["--log-info=false", "--log-warning=false"], "error"),
    ],
)
def test_the_log_says_as_much_as_asked(arguments, level) -> None:
    """Triton switches its levels one by one."""
    assert settings(*ONE, *arguments).log_level == level


def test_our_own_flags_say_where_sequences_are_kept() -> None:
    """With dashes, as the others; and shared memory of clients is passed on."""
    found = settings(
        *ONE, "--data=/d", "--store=sqlite", "--durability=disk", "--max-resident-state=2M",
        "--stream-order=request", "--allow-client-shm=true", "--log-file=/var/l",
    )  # fmt: skip

    assert (found.data, found.store, found.durability) == (Path("/d"), "sqlite", "disk")
    assert (found.max_resident_state, found.stream_order) == (2 * 1024**2, "request")
    assert found.allow_client_shm
    assert found.log_path == Path("/var/l")


def test_the_overview_has_every_flag() -> None:
    """With a line about each."""
    text = overview()

    assert all(f"--{name} " in text for name in FLAGS)
