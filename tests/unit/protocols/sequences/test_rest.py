"""The REST side, call by call: what it answers, and how it refuses."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from doubles import chain_of, state_of
from legato.archive.sequence import unpack
from legato.core.ids import snapshot_key, snapshot_of
from legato.core.types import SequenceKey
from legato.protocols.sequences.messages import Problem
from legato.repository.config import ModelConfig

ONE = "/models/m/sequences/i:1"


def refusal(answer, status: int, code: str) -> dict:
    """The body of a refusal, which has the documented form."""
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    Problem.model_validate(answer.json())
    return answer.json()


async def test_a_sequence_is_described(front) -> None:
    """With everything that is known of it; the id says of which kind it is."""
    reply = await front.begin(1, 5, 6)

    answer = (await front.get(ONE)).json()

    row = answer["sequence"]
    assert (row["model"], row["id"], row["status"], row["step"]) == ("m", "i:1", "live", 2)
    assert row["incarnation"] == reply.incarnation.hex()
    assert (row["state_bytes"], row["resident"], row["recording"]) == (24, True, False)
    assert (row["dialect"], row["ttl_s"], row["model_digest"]) == ("kserve", 3600.0, "1" * 16)
    assert [state["name"] for state in answer["states"]] == ["chain", "count"]


@pytest.mark.parametrize(
    ("cid", "path"), [(7, "7"), (7, "i:7"), ("7", "s:7"), ("ann", "ann"), ("a/b ü", "b:YS9iIMO8")]
)
async def test_ids_are_numbers_or_texts(front, cid, path) -> None:
    """And 7 is not "7"."""
    await front.begin(cid, 5)

    answer = await front.get(f"/models/m/sequences/{path}")

    assert answer.json()["sequence"]["step"] == 1


async def test_an_end_is_told_with_its_name_and_step(front) -> None:
    """For as long as it is kept; the unknown is unknown."""
    await front.begin(1, 5, 6)

    ended = (await front.delete(ONE, reason="cancelled")).json()
    row = (await front.get(ONE)).json()["sequence"]
    again = refusal(await front.delete(ONE), 404, "unknown_sequence")
    unknown = refusal(await front.get("/models/m/sequences/9"), 404, "unknown_sequence")

    assert (ended["status"], ended["step"]) == ("cancelled", 2)
    assert (row["status"], row["step"], "state_bytes" in row) == ("cancelled", 2, False)
    assert row["ended_ago_s"] >= 0
    assert again["status"] == "cancelled"
    assert "it was cancelled at step 2" in again["error"]
    assert unknown["status"] == "unknown"


async def test_an_end_by_incarnation_may_be_repeated(front) -> None:
    """As a client does that lost the answer."""
    reply = await front.begin(1, 5)
    named = {"incarnation": reply.incarnation.hex()}

    first, second = await front.delete(ONE, **named), await front.delete(ONE, **named)
    await front.begin(1, 6)

    assert first.json()["step"] == second.json()["step"] == 1
    refusal(await front.delete(ONE, **named), 404, "sequence_recreated")
    refusal(await front.delete(ONE, incarnation="xyz"), 400, "invalid_argument")


async def test_sequences_are_listed_in_pages(front) -> None:
    """By model or all together, with filters."""
    for cid in range(1, 6):
        await front.begin(cid, *range(cid))

    first = (await front.get("/models/m/sequences", limit=2)).json()
    second = (await front.get("/models/m/sequences", limit=9, cursor=first["cursor"])).json()
    few = (await front.get("/sequences", min_step=2, max_step=3, residence="resident")).json()

    assert [row["id"] for row in first["sequences"]] == ["i:1", "i:2"]
    assert [row["id"] for row in second["sequences"]] == ["i:3", "i:4", "i:5"]
    assert second["cursor"] == ""
    assert [row["step"] for row in few["sequences"]] == [2, 3]


@pytest.mark.parametrize(
    "query",
    [{"limit": 1001}, {"limit": 0}, {"min_age_s": -1}, {"residence": "x"}, {"x": 1},
     {"cursor": "-"}, {"cursor": "9" * 30}],
)  # fmt: skip
async def test_a_bad_wish_is_refused(front, query) -> None:
    """An unknown field too: it would else be taken for an answer to the question."""
    refusal(await front.get("/models/m/sequences", **query), 400, "invalid_argument")


async def test_a_snapshot_is_made_listed_and_deleted(front) -> None:
    """Its name is the step's unless one is given."""
    await front.begin(1, 5, 6)

    made = await front.post(ONE + "/snapshots")
    await front.post(ONE + "/snapshots", {"name": "mine", "ttl_s": 60, "at_step": 2})
    taken = refusal(await front.post(ONE + "/snapshots", {"name": "mine"}), 409, "snapshot_exists")
    listed = (await front.get(ONE + "/snapshots")).json()["snapshots"]
    of_model = (await front.get("/models/m/snapshots")).json()["snapshots"]
    shown = (await front.get(ONE)).json()["snapshots"]
    gone = await front.delete(ONE + "/snapshots/mine")

    assert (made.status_code, made.json()["snapshot"]["name"]) == (201, "step-2")
    assert [(row["id"], row["name"], row["step"], row["ttl_s"]) for row in listed] == [
        ("i:1", "step-2", 2, 0.0), ("i:1", "mine", 2, 60.0),
    ]  # fmt: skip
    assert listed == of_model == shown
    assert "mine" in taken["error"]
    assert gone.json() == {}
    refusal(await front.delete(ONE + "/snapshots/mine"), 404, "unknown_snapshot")
    refusal(await front.post(ONE + "/snapshots", {"at_step": 1}), 409, "not_at_step")


async def test_a_fork_and_a_rollback(front) -> None:
    """Both answer with the sequence as it is now."""
    await front.begin(1, 5)
    await front.post(ONE + "/snapshots", {"name": "a"})
    await front.step(1, 6)

    forked = await front.post(ONE + "/fork", {"target": "s:copy", "snapshot": "a"})
    back = await front.post(ONE + "/rollback", {"snapshot": "a"})
    reply = await front.step(1, 7)

    assert forked.status_code == 201
    assert (forked.json()["sequence"]["id"], forked.json()["sequence"]["step"]) == ("s:copy", 1)
    assert (back.status_code, back.json()["sequence"]["step"]) == (200, 1)
    assert (reply.step, reply.data[0]) == (2, chain_of([5, 7]))
    refusal(await front.post(ONE + "/fork", {"target": "s:copy"}), 409, "sequence_exists")
    refusal(await front.post(ONE + "/fork", {}), 400, "invalid_argument")
    refusal(await front.post(ONE + "/rollback", {"snapshot": "b"}), 404, "unknown_snapshot")


async def test_a_sequence_moves_by_file(front) -> None:
    """Bit for bit, under its own id with its receipts, under another without."""
    await front.step(1, 5, start=True, number=1, request_id="r")
    file = await front.get(ONE + "/export")
    assert unpack(file.content).state == state_of([5])
    await front.delete(ONE)

    path = "http://legato/legato/v1/models/m/sequences"
    same = await front.web.post(path, content=file.content)
    other = await front.web.post(path, content=file.content, params={"id": "2", "ttl_s": 5})

    assert (same.status_code, same.json()["sequence"]["id"]) == (201, "i:1")
    assert other.json()["sequence"]["ttl_s"] == 5.0
    assert file.headers["legato-step"] == "1"
    assert (await front.step(1, 5, number=1, request_id="r")).replayed
    assert (await front.step(2, 5, number=1, request_id="r")).code == "step_already_applied"
    assert (await front.step(2, 6, number=2)).data[0] == chain_of([5, 6])
    refusal(await front.web.post(path, content=file.content), 409, "sequence_exists")


async def test_a_file_must_be_whole_and_of_this_model(front) -> None:
    """Damage, another content and another place are told apart."""
    await front.begin(1, 5)
    file = (await front.get(ONE + "/export")).content
    path = "http://legato/legato/v1/models/m/sequences"

    refusal(await front.web.post(path, content=file[:-1]), 400, "bad_archive")
    refusal(await front.web.post(path, content=b""), 400, "bad_archive")
    refusal(await front.web.post(path, content=b"x" * 5000), 413, "too_large")
    await front.engine.unload("m")
    await front.engine.load(ModelConfig(name="m", version="2", execution="inline"))
    refusal(await front.web.post(path, content=file, params={"id": 2}), 409, "model_changed")


async def test_states_are_read_by_name(front) -> None:
    """As numbers and as bytes, of now or of a snapshot."""
    await front.begin(1, 5)
    await front.post(ONE + "/snapshots", {"name": "a"})
    await front.step(1, 6)

    now = (await front.get(ONE + "/state")).json()
    then = (await front.get(ONE + "/state", snapshot="a", names="count")).json()

    assert [base64.b64decode(tensor["data"]) for tensor in now["tensors"]] == list(
        state_of([5, 6]).data
    )
    assert (now["step"], then["step"]) == (2, 1)
    assert [(t["name"], t["dtype"], t["shape"], t["values"]) for t in then["tensors"]] == [
        ("count", "float32", [2, 1], [1.0, 1.0])
    ]
    assert now["tensors"][0]["digest"] == xxh3_64_hexdigest(chain_of([5, 6]))
    refusal(await front.get(ONE + "/state", names="x"), 400, "invalid_argument")
    refusal(await front.get(ONE + "/state", snapshot="x"), 404, "unknown_snapshot")


async def test_recording_is_asked_for_and_seen(front) -> None:
    """It begins with the next step and says where it goes."""
    await front.begin(1, 5)

    before = (await front.post(ONE + "/record")).json()["recording"]
    await front.step(1, 6)
    during = (await front.get(ONE)).json()["recording"]
    after = (await front.post(ONE + "/record", {"on": False})).json()["recording"]

    assert (before["on"], before["file"]) == (True, "")
    assert (during["on"], during["steps"], during["lost"]) == (True, 1, 0)
    assert during["file"].startswith("recordings/m/i-1-")
    assert after["on"] is False
    refusal(await front.post("/models/m/sequences/9/record"), 404, "unknown_sequence")


async def test_what_is_no_call_is_refused_in_the_same_form(front) -> None:
    """Unknown paths, models and methods; bodies that are no JSON object; fields given twice."""
    await front.begin(1, 5)

    refusal(await front.get("/models/m/nothing"), 404, "no_such_call")
    refusal(await front.get("/models/nobody/sequences"), 404, "unknown_model")
    refusal(await front.get("/models/nobody/sequences/1"), 404, "unknown_sequence")
    refusal(await front.get("/models/m/sequences/i:x"), 400, "invalid_argument")
    refusal(await front.post(ONE + "/fork", {"id": "2", "target": "3"}), 400, "invalid_argument")
    refusal(await front.get(ONE, model="other"), 400, "invalid_argument")
    for body in (b"{", b"[]", b'"x"', b"\xff", b"[" * 10_000):
        answer = await front.web.post(f"http://legato/legato/v1{ONE}/fork", content=body)
        refusal(answer, 400, "invalid_argument")
    huge = await front.web.post(f"http://legato/legato/v1{ONE}/fork", content=b" " * 70_000)
    refusal(huge, 413, "too_large")


async def test_no_call_reaches_a_snapshot_as_a_sequence(front) -> None:
    """Whatever way its id is written."""
    await front.begin(1, 5)
    await front.post(ONE + "/snapshots", {"name": "a"})
    reserved = "legato:snapshot:i.MQ.YQ"

    for cid in (
        reserved,
        f"s:{reserved}",
        "b:" + base64.urlsafe_b64encode(reserved.encode()).decode().rstrip("="),
    ):
        refusal(await front.delete(f"/models/m/sequences/{cid}"), 400, "invalid_argument")
        refusal(await front.post(ONE + "/fork", {"target": cid}), 400, "invalid_argument")


@given(text=st.text(min_size=1, max_size=30))
def test_any_name_of_a_snapshot_is_taken_or_refused(text) -> None:
    """The rule is the one of paths; what passes it comes back as it was."""
    assert snapshot_of(snapshot_key(SequenceKey("m", 1), text).correlation_id).name == text
