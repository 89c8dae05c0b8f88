"""What the terminal shows: units, ids, replays, and what it asks of a server."""

from __future__ import annotations

import http.server
import json
import threading
from typing import ClassVar

import pytest
import typer
from rich.console import Console

from legato.cli import sequences as commands
from legato.cli import sequences_view as view
from legato.cli.main import build
from legato.cli.sequences_client import Remote, sequence_path, typed
from legato.core.errors import ConfigError
from legato.recorder.replay import Difference, Outcome
from legato.settings import server_address


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (185, "3 min 5 s"),
     (7800, "2 h 10 min"), (90000, "1 d 1 h")],
)  # fmt: skip
def test_durations_are_said_as_people_say_them(value, text) -> None:
    """Two units at most."""
    assert view.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**40, "1024.0 GiB")],
)
def test_sizes_are_said_in_powers_of_1024(value, text) -> None:
    """With the unit that keeps them short."""
    assert view.size(value) == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [("i:7", "7"), ("s:7", "s:7"), ("s:ann", "ann"), ("b:YS9i", "a/b"), ("b:aTo3", "b:aTo3")],
)
def test_ids_are_shown_as_they_may_be_typed(given, shown) -> None:
    """With their kind only where it would else be mistaken."""
    assert view.shown_id(given) == shown
    assert typed(shown) == given


@pytest.mark.parametrize(
    ("text", "value"),
    [(None, None), ("90", 90), ("90s", 90), ("1.5m", 90), ("2 h", 7200), ("1d", 86400)],
)
def test_durations_are_read(text, value) -> None:
    """With or without a unit."""
    assert commands._seconds(text) == value


@pytest.mark.parametrize("text", ["", "x", "5 weeks", "-3"])
def test_what_is_no_duration_is_refused(text) -> None:
    """With examples."""
    with pytest.raises(typer.BadParameter, match="90s, 5m"):
        commands._seconds(text)


def shown(what) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(what)
    console.file.close()
    return console.export_text()


ROW = {
    "model": "m", "id": "i:7", "status": "live", "step": 3, "incarnation": "ab", "version": "1",
    "model_digest": "d", "dialect": "kserve", "created": 0.0, "age_s": 61.0, "ttl_s": 100.0,
    "level": "disk", "idle_s": 40.0, "state_bytes": 2048, "resident": True, "waiting": 2,
    "recording": True,
}  # fmt: skip


def test_a_description_tells_what_is_next() -> None:
    """When it ends, where it is, how it is recorded."""
    recording = {"on": True, "file": "recordings/x", "steps": 5, "lost": 1, "problem": ""}
    answer = {
        "sequence": ROW, "states": [{"name": "h", "dtype": "float32", "shape": [1, 4]}],
        "snapshots": [{"name": "a", "step": 2}], "recording": recording,
    }  # fmt: skip

    text = shown(view.description(answer))

    assert "live, 2 steps wait" in text
    assert "40 s, ends in 60 s" in text or "40 s, ends in 1 min 0 s" in text
    assert "2.0 KiB, resident: h float32[1, 4]" in text
    assert "a of step 2" in text
    assert "recordings/x, 5 steps, 1 lost" in text


def test_an_ended_sequence_is_shown_as_ended() -> None:
    """With what happened and when."""
    row = {name: value for name, value in ROW.items() if name not in ("idle_s", "state_bytes")}

    text = shown(
        view.description({"sequence": {**row, "status": "rolled_back", "ended_ago_s": 5.0}})
    )

    assert "rolled back 5.0 s ago" in text


def test_recordings_say_how_they_go() -> None:
    """Off, about to begin, stopped with a reason."""
    base = {"on": False, "file": "", "steps": 0, "lost": 0, "problem": ""}

    assert view.recording(base) == "off"
    assert view.recording({**base, "on": True}) == "begins with the next step"
    assert view.recording({**base, "file": "f", "problem": "full"}) == "f, 0 steps; stopped: full"
    assert view.recording({**base, "file": "f", "steps": 2}) == "f, 2 steps; off"


def test_a_replay_says_what_it_found() -> None:
    """Everything that a person must know to judge it."""
    outcome = Outcome(
        steps=4, recorded_digest="a", digest="b", missing=["steps 5 to 6"], torn=3,
        difference=Difference(7, "output", "y", (0, 1), "1.0", "2.0", 1, 4, rows=8),
    )  # fmt: skip

    lines = view.replay(outcome).splitlines()

    assert lines[0] == "the model is another one: content b now, a when it was recorded"
    assert lines[1:4] == [
        "not in the recording: steps 5 to 6",
        "the last 3 bytes of the file are no whole step",
        "4 steps equal",
    ]
    assert lines[4] == (
        "step 7 differs (recorded in a batch of 8): output 'y' at [0, 1] was 1.0, is 2.0; "
        "1 of 4 values differ"
    )
    assert view.replay_facts(outcome)["difference"]["rows"] == 8
    assert view.replay(Outcome(steps=9)) == "9 steps equal"


# -- the client ------------------------------------------------------------------------


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers what the test left, and notes what was asked."""

    asked: ClassVar[list] = []
    answers: ClassVar[list] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        status, kind, body = self.answers.pop(0)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args) -> None:
        """Say nothing."""


@pytest.fixture
def remote():
    Fake.asked, Fake.answers = [], []
    server = http.server.HTTPServer(("127.0.0.1", 0), Fake)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Remote(f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    thread.join()
    server.server_close()


def answer(value, status=200) -> tuple:
    return status, "application/json", json.dumps(value).encode()


def test_pages_are_followed_to_the_end(remote) -> None:
    """Empty ones too; or until there are enough."""
    page = {"sequences": [1, 2], "cursor": "9"}
    Fake.answers += [
        answer(page),
        answer({"sequences": [], "cursor": "10"}),
        answer({"sequences": [3], "cursor": ""}),
        answer(page),
    ]

    everything = list(remote.pages("/sequences", {"dialect": None, "min_step": 3}, "sequences", 0))
    enough = list(remote.pages("/sequences", {}, "sequences", 2))

    assert (everything, enough) == ([1, 2, 3], [1, 2])
    assert Fake.asked[1] == "/legato/v1/sequences?min_step=3&cursor=9&limit=1000"
    assert Fake.asked[3] == "/legato/v1/sequences?limit=2"


def test_refusals_are_sentences(remote) -> None:
    """The server's own; and one for a server that is none of ours."""
    Fake.answers += [
        answer({"error": "no such thing", "code": "x"}, 404),
        (502, "text/html", b"<p>"),
    ]

    with pytest.raises(ConfigError, match="no such thing"):
        remote.call("GET", "/x")
    with pytest.raises(ConfigError, match="is it Legato"):
        remote.call("GET", "/x")


def test_paths_carry_any_id() -> None:
    """Also one with a slash, and a model with a space."""
    assert sequence_path("a b", "x/y") == "/models/a%20b/sequences/b:eC95"
    with pytest.raises(ConfigError):
        typed("0")


def test_where_the_server_is(monkeypatch) -> None:
    """The option, the variable, the default."""
    monkeypatch.setenv("LEGATO_SERVER", "there:1")
    assert (server_address("here:2"), server_address(None)) == ("here:2", "there:1")
    monkeypatch.delenv("LEGATO_SERVER")
    assert server_address(None) == "127.0.0.1:8000"


def test_the_command_is_part_of_the_command_line(capsys) -> None:
    """Its sub-commands are known when it is named."""
    with pytest.raises(SystemExit):
        build(["sequences"])(["sequences", "--help"], prog_name="legato")

    said = capsys.readouterr().out
    for name in (
        "list",
        "show",
        "end",
        "snapshot",
        "fork",
        "rollback",
        "export",
        "import",
        "state",
        "record",
        "replay",
    ):
        assert f" {name} " in said
