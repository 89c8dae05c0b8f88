"""config.properties: syntax, keys, lookup, snapshots."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from legato.core.errors import ConfigError
from legato.repository import ts_properties as ts
from legato.repository.ts_properties import Address, Properties

EXAMPLE = """
# as TorchServe's stateful example has it
inference_address=http://127.0.0.1:8080
management_address=http://127.0.0.1:8081
metrics_address=http://127.0.0.1:8082
grpc_inference_port=http://127.0.0.1:7070
grpc_management_port=http://127.0.0.1:7071
enable_envvars_config=true
install_py_dep_per_model=true
models={\\
  "m": {\\
    "1.0": {"defaultVersion": true, "marName": "m.mar", "minWorkers": 2}\\
  }\\
}
"""


def test_the_syntax_is_that_of_java_properties() -> None:
    """Comments, three separators, escapes, continued lines."""
    text = "a=1\n  b : 2\nc 3\n!no\n\nd\\ e=f\\u0041\\t\\\\\ng=one\\\n   two\nh\n"

    found = ts.parse(text, {})

    assert found == {
        "a": "1", "b": "2", "c": "3", "d e": "fA\t\\", "g": "onetwo", "h": "",
    }  # fmt: skip


def test_variables_are_put_into_values() -> None:
    """One that is not set is an error that names it."""
    assert ts.parse("a=x$$HOME$$y", {"HOME": "/h"}) == {"a": "x/hy"}
    with pytest.raises(ConfigError, match="GONE"):
        ts.parse("a=$$GONE$$", {})


def test_what_is_written_is_read_again() -> None:
    """Snapshots hold JSON with every kind of character."""
    values = {"models": '{"a": "b\\\\c"}', "x": "1=2:3 #4"}

    assert ts.parse(ts.write(values), {}) == values


def test_nothing_given_means_torchserves_ports() -> None:
    """8080 to 8082, 7070 and 7071, loopback."""
    found = Properties.read({})

    assert [address.port for address in found.addresses] == [8080, 8081, 8082, 7070, 7071]
    assert {address.host for address in found.addresses} == {"127.0.0.1"}


def test_the_examples_own_file_is_taken() -> None:
    """Ports of gRPC may be URLs, which TorchServe refuses; continued JSON is one value."""
    found = Properties.read(ts.parse(EXAMPLE, {}))

    assert found.grpc_inference == Address("127.0.0.1", 7070)
    assert found.mapping("models")["m"]["1.0"]["minWorkers"] == 2
    assert found.flag("install_py_dep_per_model")


def test_grpc_ports_may_be_numbers_with_an_address_beside_them() -> None:
    """As TorchServe documents it."""
    values = {"grpc_inference_address": "192.0.2.1", "grpc_inference_port": "17070"}

    assert Properties.read(values).grpc_inference == Address("192.0.2.1", 17070)


def test_equal_addresses_are_one() -> None:
    """One listener serves both."""
    same = "http://127.0.0.1:9000"
    found = Properties.read({"inference_address": same, "management_address": same})

    assert [address.port for address in found.addresses] == [9000, 8082, 7070, 7071]


def test_https_is_tls_with_ports_of_its_own() -> None:
    """Over gRPC by another key."""
    found = Properties.read(
        {
            "inference_address": "https://127.0.0.1",
            "metrics_address": "https://127.0.0.1:9000",
            "enable_grpc_ssl": "true",
        }
    )

    assert found.inference == Address("127.0.0.1", 8443, tls=True)
    assert found.management == Address("127.0.0.1", 8081)
    assert found.metrics == Address("127.0.0.1", 9000, tls=True)
    assert found.grpc_management == Address("127.0.0.1", 7071, tls=True)


def test_tls_wants_its_files(tmp_path) -> None:
    """Half a set-up would be worse than none."""
    values = {"inference_address": "https://127.0.0.1", "keystore": "k.p12"}
    with pytest.raises(ConfigError) as caught:
        _ = Properties.read(values).certificate
    assert caught.value.key == "certificate_file"
    assert "k.p12" in caught.value.fix

    files = {"certificate_file": tmp_path / "c.pem", "private_key_file": tmp_path / "k.pem"}
    for file in files.values():
        file.touch()
    values.update({key: str(file) for key, file in files.items()})
    assert Properties.read(values).certificate == tuple(files.values())
    del values["inference_address"]
    assert Properties.read(values).certificate is None


@pytest.mark.parametrize(
    ("environment", "values", "served"),
    [
        ({}, {}, False),
        ({}, {"ts_open_inference_protocol": "true"}, True),
        ({"TS_OPEN_INFERENCE_PROTOCOL": "oip"}, {}, True),
        ({"TS_OPEN_INFERENCE_PROTOCOL": "no"}, {"ts_open_inference_protocol": "no"}, False),
    ],
)
def test_the_open_inference_protocol_has_a_switch_and_a_variable(
    environment, values, served: bool
) -> None:
    """The variable needs no leave of the file."""
    assert Properties.read(ts.overridden(values, environment)).open_inference is served


def test_handlers_metrics_are_all_shown_unless_a_file_declares_some() -> None:
    """As the file's own switch says, then."""
    given = {"metrics_config": "m.yaml"}

    assert Properties.read({}).shows_all_metrics
    assert not Properties.read(given).shows_all_metrics
    assert Properties.read({**given, "model_metrics_auto_detect": "true"}).shows_all_metrics
    assert not Properties.read({"model_metrics_auto_detect": "false"}).shows_all_metrics
    assert [one.name for one in Properties.read({}).declared_metrics()] == [
        "HandlerTime", "PredictionTime",
    ]  # fmt: skip
    assert Properties.read({"metrics_mode": "LOG"}).logs_metrics
    assert not Properties.read({"metrics_mode": "prometheus"}).logs_metrics


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inference_address", "unix:/tmp/socket"),
        ("inference_address", "127.0.0.1:8080"),
        ("inference_address", "http://127.0.0.1:99999"),
        ("grpc_inference_port", "seven"),
    ],
)
def test_what_is_not_served_is_refused(key: str, value: str) -> None:
    """The error names the key."""
    with pytest.raises(ConfigError) as caught:
        Properties.read({key: value})

    assert caught.value.key == key


def test_json_that_is_none_is_refused() -> None:
    """So is JSON that is no object."""
    for text in ("{", "[1]"):
        with pytest.raises(ConfigError):
            Properties.read({"models": text}).mapping("models")


# -- where it is found --------------------------------------------------


def test_the_order_of_files(tmp_path) -> None:
    """Variable, flag, last snapshot, working directory."""
    named, option, usual = (tmp_path / name for name in ("v.cfg", "o.cfg", "config.properties"))
    folder = tmp_path / "logs"
    folder.mkdir()
    last = folder / "20260102000000000-shutdown.cfg"
    for path in (named, option, usual, last, folder / "20260101000000000-startup.cfg"):
        path.write_text("")

    assert ts.find_file({"TS_CONFIG_FILE": "v.cfg"}, option, folder, tmp_path) == named
    assert ts.find_file({}, option, folder, tmp_path) == option
    assert ts.find_file({}, None, folder, tmp_path) == last
    assert ts.find_file({}, None, None, tmp_path) == usual
    usual.unlink()
    assert ts.find_file({}, None, None, tmp_path) is None


def test_a_file_that_was_named_must_be_there(tmp_path) -> None:
    """Never another one in its place."""
    with pytest.raises(ConfigError, match="--ts-config file not found"):
        ts.find_file({}, tmp_path / "gone", None, tmp_path)


def test_variables_win_only_where_the_file_says_so() -> None:
    """Allowed URLs need a second yes; the life of keys has a name of its own."""
    variables = {
        "TS_JOB_QUEUE_SIZE": "7",
        "TS_ALLOWED_URLS": "http://x/.*",
        "TS_TOKEN_EXPIRATION_TIME_MIN": "5",
    }
    on = {"enable_envvars_config": "true", "job_queue_size": "1"}

    assert ts.overridden({"job_queue_size": "1"}, variables) == {"job_queue_size": "1"}
    found = ts.overridden(on, variables)
    assert (found["job_queue_size"], found["token_expiration_min"]) == ("7", "5")
    assert "allowed_urls" not in found
    assert "allowed_urls" in ts.overridden({**on, "use_env_allowed_urls": "true"}, variables)


# -- snapshots --------------------------------------------------


def test_a_snapshot_says_what_is_registered(tmp_path) -> None:
    """Its name is its time; it is read like any other file, and the newest one is found."""
    models = {"m": {"1.0": {"defaultVersion": True, "marName": "m.mar"}}}
    early, late = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    folder = tmp_path / "logs" / "config"

    ts.write_snapshot(folder, "startup", {"a": "1"}, models, early)
    path = ts.write_snapshot(folder, "shutdown", {"a": "2"}, models, late)

    assert path.name == "20260102000000000-shutdown.cfg"
    assert ts.newest_snapshot(folder) == path
    found = ts.parse(path.read_text(), {})
    assert found["a"] == "2"
    described = json.loads(found["model_snapshot"])
    assert (described["modelCount"], described["models"]) == (1, models)
