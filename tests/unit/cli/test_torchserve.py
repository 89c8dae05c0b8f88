"""Flags, files and variables of ``legato torchserve``, put together."""

from __future__ import annotations

import pytest

from legato.cli.torchserve import configured, parser, passed_over, settings_of
from legato.core.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()


def values(tmp_path, *words: str, file: str = "", **variables: str) -> dict[str, str]:
    (tmp_path / "config.properties").write_text(file)
    return configured(parser().parse_args(words), variables, tmp_path)


@pytest.mark.parametrize("flag", ["--models", "--model", "--mod"])
def test_models_have_torchserves_spellings(flag: str, capsys) -> None:
    """``--model`` too, which its README uses and its parser refuses."""
    if flag == "--mod":
        with pytest.raises(SystemExit) as caught:
            parser().parse_args([flag, "a"])
        assert caught.value.code == 2
        assert "ambiguous" in capsys.readouterr().err
    else:
        assert parser().parse_args([flag, "a.mar", "b=c.mar"]).models == ["a.mar", "b=c.mar"]


def test_flags_win_over_the_file_and_variables_over_both(tmp_path) -> None:
    """Variables only where the file lets them."""
    file = "model_store=gone\nload_models=x\ndisable_token_authorization=false\n"
    words = ("--model-store", "store", "--models", "a.mar", "b.mar", "--dt", "--enable-model-api")

    plain = values(tmp_path, *words, file=file, TS_LOAD_MODELS="all")
    let = values(tmp_path, *words, file=file + "enable_envvars_config=true", TS_LOAD_MODELS="all")

    assert plain["load_models"] == "a.mar,b.mar"
    assert plain["model_store"] == str(tmp_path / "store")
    assert {plain[key] for key in ("disable_token_authorization", "enable_model_api")} == {"true"}
    assert let["load_models"] == "all"


def test_a_snapshot_says_what_is_loaded_unless_models_are_named(tmp_path) -> None:
    """Then they are all that is loaded."""
    file = "model_store=store\nload_models=x\nmodel_snapshot={}\n"

    assert "load_models" not in values(tmp_path, file=file)
    named = values(tmp_path, "--models", "a.mar", file=file)
    assert named["load_models"] == "a.mar"
    assert "model_snapshot" not in named


def test_a_store_that_is_not_there_is_an_error(tmp_path) -> None:
    """With TorchServe's text."""
    with pytest.raises(ConfigError, match="--model-store directory not found"):
        values(tmp_path, "--model-store", "gone")


def test_settings_have_every_port_and_the_key_file(tmp_path) -> None:
    """Keys are on unless they are turned off; our own port is opened only when it is named."""
    arguments = parser().parse_args(["--model-store", "store", "--store", "memory"])
    open_ = parser().parse_args(
        ["--model-store", "store", "--store", "memory", "--dt", "--ncs", "--legato-port", "8000"]
    )

    closed = settings_of(arguments, configured(arguments, {}, tmp_path), {})
    opened = settings_of(open_, configured(open_, {}, tmp_path), {})

    assert closed.port == 8080
    assert [port for _host, port in closed.extra_addresses] == [8081, 8082, 7070, 7071]
    assert closed.extra_ports == ()
    assert closed.torchserve["key_file"] == str(tmp_path / "key_file.json")
    assert closed.torchserve["snapshots"] == str(tmp_path / "logs" / "config")
    assert opened.extra_ports == (8000,)
    assert opened.torchserve["key_file"] is None
    assert opened.torchserve["snapshots"] is None


def test_what_there_is_not_is_named_at_the_start() -> None:
    """By flag or by key; the server starts all the same."""
    by_flag = parser().parse_args(["--workflow-store", "w"])
    by_key = {"plugins_path": "p", "workflow_store": ""}

    assert passed_over(by_flag, {}) == ["--workflow-store is passed over: workflows are not served"]
    assert passed_over(parser().parse_args([]), by_key) == [
        "plugins_path is passed over: plug-ins are not served"
    ]
