"""OpenVINO Model Server's command line: syntax, checks, exit codes."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import typer

from legato.cli import ovms
from legato.cli.ovms import FLAGS, UsageError, check, ignored, parse, settings_of
from legato.repository.ovms import Options
from legato.repository.ovms_schema import DEFAULT_METRICS, METRICS
from legato.settings import from_environment

ONE = ["--model_name", "m", "--model_path", "/models/m", "--port", "9000"]
FROM_FILE = ["--config_path", "/config.json", "--rest_port", "8000"]
NEEDS_STATEFUL = (
    "Setting low_latency_transformation, max_sequence_number and idle_sequence_cleanup require "
    "setting stateful flag for the model."
)


def refused(*arguments):
    with pytest.raises(UsageError) as caught:
        check(parse(arguments))
    return str(caught.value)


def settings(*arguments):
    values = parse(arguments)
    check(values)
    return from_environment(settings_of(values), {"HOME": "/home/me"})


def options(*arguments):
    return Options.model_validate(settings(*arguments).ovms)


# -- syntax --------------------------------------------------------------------------------------


def test_values_stand_behind_a_space_or_an_equals_sign() -> None:
    """Both ways."""
    assert parse(["--port", "1", "--rest_port=2"]) == {"port": 1, "rest_port": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("--stateful", True), ("--stateful=true", True), ("--stateful=false", False),
     ("--stateful=0", False)],
)  # fmt: skip
def test_a_bool_is_a_flag(text, expected) -> None:
    """False needs the equals sign."""
    assert parse([text]) == {"stateful": expected}


@pytest.mark.parametrize(
    ("arguments", "unmatched"),
    [
        (["--stateful", "false"], "false"),
        (["--unknown"], "--unknown"),
        (["--unknown=1", "word"], "--unknown=1, word"),
        (["-p", "1"], "-p, 1"),
        (["port", "1"], "port, 1"),
    ],
)
def test_what_matches_nothing_is_told(arguments, unmatched) -> None:
    """A bare word behind a bool, too."""
    assert refused(*ONE, *arguments) == f"error parsing options - unmatched arguments: {unmatched}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "x"], "error parsing options: Argument 'x' failed to parse"),
        (["--port", "-1"], "error parsing options: Argument '-1' failed to parse"),
        (["--stateful=maybe"], "error parsing options: Argument 'maybe' failed to parse"),
        (
            ["--max_sequence_number", "5294967295"],
            "error parsing options: Argument '5294967295' failed to parse",
        ),
        (["--port"], "error parsing options: Option 'port' is missing an argument"),
    ],
)
def test_values_that_do_not_parse(arguments, text) -> None:
    """With the value."""
    assert refused(*arguments) == text


def test_our_own_flags_may_be_written_with_dashes() -> None:
    """As on the rest of our command line."""
    assert parse(["--drain-timeout", "3", "--data=/d"]) == {"drain_timeout": "3", "data": "/d"}


# -- checks --------------------------------------------------------------------------------------

CORES = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--port", "9000"], "Use config_path or model_path with model_name"),
        (["--model_name", "m", "--port", "1"], "Use config_path or model_path with model_name"),
        ([*ONE, "--config_path", "c"], "Use either config_path or model_path with model_name"),
        (
            ["--model_name", "m", "--model_path", "p"],
            "port and rest_port cannot both be unset",
        ),
        (
            ["--config_path", "c", "--port", "0", "--rest_port", "0"],
            "port and rest_port cannot both be unset",
        ),
        ([*ONE, "--rest_port", "9000"], "port and rest_port cannot have the same values"),
        ([*ONE, "--rest_port", "65536"], "rest_port number out of range from 0 to 65535"),
        (
            ["--config_path", "c", "--port", "70000"],
            "port number out of range from 0 to 65535",
        ),
        (
            [*ONE, "--grpc_bind_address", "1.2.3"],
            "grpc_bind_address has invalid format: proper hostname or IP address expected.",
        ),
        (
            [*ONE, "--rest_bind_address", "127.0.0.1,a b"],
            "rest_bind_address has invalid format: proper hostname or IP address expected.",
        ),
        ([*ONE, "--log_level", "info"], ("log_level should be one of: TRACE, DEBUG, INFO, "
         "WARNING, ERROR")),
        (
            [*ONE, "--grpc_workers", str(CORES + 1)],
            f"grpc_workers count should be from 1 to CPU core count : {CORES}",
        ),
        (
            [*ONE, "--grpc_workers", "0"],
            f"grpc_workers count should be from 1 to CPU core count : {CORES}",
        ),
        (
            [*FROM_FILE, "--rest_workers", "1"],
            "rest_workers count should be from 2 to 10000",
        ),
        (
            [*ONE, "--rest_workers", "2"],
            ("rest_workers is set but rest_port is not set. rest_port is required to start rest "
            "servers"),
        ),
        (
            [*ONE, "--metrics_enable"],
            "rest_port setting is missing, metrics are enabled on rest port",
        ),
        (
            [*FROM_FILE, "--metrics_list", "ovms_streams"],
            "metrics_enable setting is required, when metrics_list is given",
        ),
        (
            [*FROM_FILE, "--metrics_enable", "--metrics_list", "ovms_streams,ovms_nonsense"],
            f"Invalid name in metrics_list: ovms_nonsense\n  fix: known are {', '.join(METRICS)}",
        ),
        (
            [*ONE, "--cpu_extension", "/nowhere.so"],
            ("File path provided as an --cpu_extension parameter does not exist in the "
            "filesystem: /nowhere.so"),
        ),
        ([*ONE, "--max_sequence_number", "1"], NEEDS_STATEFUL),
        ([*ONE, "--idle_sequence_cleanup=false"], NEEDS_STATEFUL),
        ([*ONE, "--low_latency_transformation"], NEEDS_STATEFUL),
        ([*ONE, "--max_sequence_number", "1", "--stateful=false"], NEEDS_STATEFUL),
        *(
            (
                [*FROM_FILE, f"--{key}", "1"],
                "Model parameters in CLI are exclusive with the config file",
            )
            for key in ("batch_size", "shape", "nireq", "model_version_policy", "target_device",
                        "plugin_config")
        ),
        *(
            ([*ONE, f"--{key}", "1"], f"{key} is not offered here: put it into the model itself")
            for key in ("mean", "scale", "color_format", "precision")
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together(arguments, text) -> None:
    """Each with the text of Model Server."""
    assert refused(*arguments) == text


@pytest.mark.parametrize("key", ["plugin_config", "model_version_policy"])
def test_json_must_be_json(key) -> None:
    """An object, to be exact."""
    with pytest.raises(UsageError, match=key):
        settings(*ONE, f"--{key}", "[1]")


def test_stateful_beside_a_config_file_has_no_effect() -> None:
    """It is not refused, but said."""
    values = parse([*FROM_FILE, "--stateful", "--max_sequence_number", "3"])

    check(values)

    assert ignored(values) == {"stateful", "max_sequence_number"}
    assert ignored(parse([*ONE, "--stateful"])) == set()


@pytest.mark.parametrize("name", sorted(FLAGS))
def test_every_flag_is_listed(name) -> None:
    """With what becomes of it."""
    assert f"--{name}" in ovms.overview()


# -- what it comes to ----------------------------------------------------------------------------


def test_defaults_are_those_of_model_server() -> None:
    """Sequences are kept on disk all the same."""
    found = settings(*ONE)
    asked = options(*ONE)

    every = "0.0.0.0"  # noqa: S104 - its default
    assert (found.host, found.port, found.extra_addresses) == (every, 9000, ())
    assert (found.log_level, found.store, found.max_message_bytes) == ("info", "log", 2**30)
    assert (asked.cleaner_minutes, asked.poll_s, asked.config_path) == (5, 1, None)
    assert asked.model == {"name": "m", "base_path": "/models/m"}


def test_both_ports_and_all_addresses_are_listened_on() -> None:
    """They lead to one server."""
    found = settings(
        *ONE, "--rest_port", "8000", "--grpc_bind_address", "127.0.0.1,::1",
        "--rest_bind_address", "localhost",
    )  # fmt: skip

    assert (found.host, found.port) == ("127.0.0.1", 9000)
    assert found.extra_addresses == (("::1", 9000), ("localhost", 8000))


def test_one_port_will_do() -> None:
    """Either one."""
    found = settings("--model_name", "m", "--model_path", "p", "--rest_port", "8000")

    assert (found.port, found.extra_addresses) == (8000, ())


def test_options_of_the_one_model() -> None:
    """As an entry of a config file would have them."""
    found = options(
        *ONE, "--stateful", "--max_sequence_number", "3", "--idle_sequence_cleanup=false",
        "--low_latency_transformation", "--batch_size", "2", "--shape", '{"x": "(1,2)"}',
        "--layout", "NCHW", "--nireq", "4", "--target_device", "CPU", "--plugin_config",
        '{"NUM_STREAMS": 1}', "--model_version_policy", '{"all": {}}',
        "--sequence_timeout_seconds", "60",
    )  # fmt: skip

    assert found.model == {
        "name": "m", "base_path": "/models/m", "stateful": True, "max_sequence_number": 3,
        "idle_sequence_cleanup": False, "low_latency_transformation": True, "batch_size": 2,
        "shape": {"x": "(1,2)"}, "layout": "NCHW", "nireq": 4, "target_device": "CPU",
        "plugin_config": {"NUM_STREAMS": 1}, "model_version_policy": {"all": {}},
        "sequence_timeout_seconds": 60,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "metrics"),
    [
        ((), None),
        (("--metrics_enable=false",), None),
        (("--metrics_enable",), DEFAULT_METRICS),
        (
            ("--metrics_enable", "--metrics_list", "ovms_streams, ovms_infer_req_active"),
            ("ovms_streams", "ovms_infer_req_active"),
        ),
    ],
)
def test_metrics_of_model_server_are_chosen(flags, metrics) -> None:
    """Nothing said, the usual ones, or those that are listed."""
    assert options(*FROM_FILE, *flags).metrics == metrics


def test_a_log_file_is_absolute(tmp_path, monkeypatch) -> None:
    """The serving process may stand elsewhere."""
    monkeypatch.chdir(tmp_path)

    assert settings(*ONE, "--log_path", "ovms.log").log_path == tmp_path / "ovms.log"
    assert settings(*ONE).log_path is None


def test_options_of_the_server() -> None:
    """Intervals, levels, and our own."""
    arguments = [
        *FROM_FILE, "--sequence_cleaner_poll_wait_minutes", "1", "--file_system_poll_wait_seconds",
        "0", "--log_level", "TRACE", "--data", "/d", "--durability", "disk",
        "--drain_timeout", "7",
    ]  # fmt: skip
    found, asked = settings(*arguments), options(*arguments)

    assert (asked.cleaner_minutes, asked.poll_s) == (1, 0)
    assert str(asked.config_path) == "/config.json"
    assert (found.log_level, str(found.data), found.durability) == ("debug", "/d", "disk")
    assert found.drain_timeout_s == 7


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "--sequence_cleaner_poll_wait_minutes", ""),
        ([], 0, "--config_path", ""),
        (["--version"], 0, "legato ", ""),
        (["--max_sequence_number", "1", *ONE], 64, "", NEEDS_STATEFUL),
        (["--nonsense"], 64, "", "unmatched arguments: --nonsense"),
    ],
)
def test_exit_codes(capsys, arguments, code, out, err) -> None:
    """0 for help and version, 64 for a wrong command line."""
    try:
        ovms.command(SimpleNamespace(args=arguments))
        found = 0
    except typer.Exit as done:
        found = done.exit_code

    said = capsys.readouterr()
    assert found == code
    assert out in said.out
    assert err in said.err
