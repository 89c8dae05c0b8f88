"""Clients of TorchServe's protocols against a real server with a model in it."""

from __future__ import annotations

import json
import queue
import re

import grpc
import pytest
from tests.functional.torchserve.conftest import ask, write_adder

ID = "ts_request_sequence_id"


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    write_adder(folder / "store", live=1000)
    write_adder(folder / "store", version="2", live=1000)
    words = ("--ncs", "--disable-token-auth", "--enable-model-api", "--models", "adder")
    return torchserve(*words, folder=folder)


@pytest.fixture
def client(served):
    made = served.client()
    yield made
    made.close()


@pytest.fixture
def name(request) -> str:
    """A sequence id that no other test uses."""
    return request.node.name


# -- gRPC --------------------------------------------------


def test_the_example_clients_call_gives_1_3_6(client, name) -> None:
    """Three files on one stream, sent at once: a finite iterator gets all its answers."""
    assert client.infer_stream2("adder", name, b"1", b"2", b"3\n") == ["1", "3", "6"]
    assert client.infer_stream2("adder", name, b"1", b"2", b"3") == ["7", "9", "12"]


def test_an_endless_stream_is_answered_as_it_goes(client, name) -> None:
    """Closing it ends neither the server nor the sequence."""
    requests: queue.Queue = queue.Queue()
    answers = client.stream(iter(requests.get, None))

    totals = []
    for value in (b"1", b"2", b"3"):
        requests.put(client.message("adder", value, name))
        totals.append(next(answers).prediction)
    requests.put(None)

    assert totals == [b"1", b"3", b"6"]
    assert list(answers) == []
    assert answers.code() is grpc.StatusCode.OK
    assert client.predict("adder", b"1", name).prediction == b"7"


def test_many_sequences_share_a_stream(client, name) -> None:
    """Far more than ``batchSize``; each answer says whose it is."""
    ids = [f"{name}-{at}" for at in range(40)]
    requests = [client.message("adder", b"%d" % at, one) for _ in range(3)
                for at, one in enumerate(ids)]  # fmt: skip

    totals: dict[str, list[int]] = {}
    for answer in client.stream(iter(requests)):
        totals.setdefault(answer.sequence_id, []).append(int(answer.prediction))

    assert totals == {one: [at, 2 * at, 3 * at] for at, one in enumerate(ids)}


def test_a_sequence_goes_on_over_every_api(served, client, name) -> None:
    """Unary, streams and REST are one sequence."""
    client.predict("adder", b"1", name)
    client.infer_stream2("adder", name, b"2")
    served.step(name, 3)

    (answer,) = client.infer_stream("adder", b"4", name)

    assert (answer.prediction, answer.sequence_id) == (b"10", name)


def test_a_handler_error_costs_one_message(client, name) -> None:
    """The stream, the server and both sequences go on."""
    rows = [(name, b"1"), (name, b"x"), (f"{name}-other", b"5"), (name, b"2")]

    answers = list(client.stream(iter([client.message("adder", row, one) for one, row in rows])))

    mine = [a for a in answers if a.sequence_id == name]
    assert [a.prediction for a in mine] == [b"1", b"", b"3"]
    assert (mine[1].status.code, mine[1].status.message) == (14, "Prediction failed")
    assert json.loads(client.ping()) == {"status": "Healthy"}


def test_a_unary_error_has_its_status_and_text(client, name) -> None:
    """Class below the text."""
    with pytest.raises(grpc.RpcError) as caught:
        client.predict("nope", b"1", name)

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == (
        "Model not found: nope\norg.pytorch.serve.archive.model.ModelNotFoundException"
    )


def test_first_and_last_messages_begin_and_end(client, name) -> None:
    """An empty id with a start gets one; after the end the id begins anew."""
    start, end = {"ts_request_sequence_start": b"true"}, {"ts_request_sequence_end": b"true"}

    made = client.predict("adder", b"5", **start).sequence_id
    client.predict("adder", b"1", made, **end)
    anew = client.predict("adder", b"7", made)
    (refused,) = client.stream(iter([client.message("adder", b"1")]))

    assert made.startswith("ts-seq-")
    assert anew.prediction == b"7"
    assert refused.status.message == "Parameter sequenceId is required."


def test_a_cancelled_stream_leaves_the_sequence_alone(client, name) -> None:
    """What was answered was applied; the next call goes on from there."""
    requests: queue.Queue = queue.Queue()
    answers = client.stream(iter(requests.get, None))
    requests.put(client.message("adder", b"1", name))
    next(answers)

    answers.cancel()
    requests.put(None)

    assert client.predict("adder", b"1", name).prediction == b"2"


def test_a_pipelining_client_is_refused_beyond_its_queue(client, name) -> None:
    """``maxSequenceJobQueueSize`` is 10: with the one that runs, 11 of 30 are taken at least."""
    rows = [b"1"] * 30

    answers = client.infer_stream2("adder", name, *rows)

    refused = [text for text in answers if not text.isdigit()]
    assert len(answers) == 30
    assert all("maxSequenceJobQueueSize" in text for text in refused)
    totals = [int(text) for text in answers if text.isdigit()]
    assert totals == list(range(1, len(totals) + 1))


def test_management_over_grpc(client) -> None:
    """Describe and list are JSON, the others texts; errors have statuses of their own."""
    described = json.loads(
        client.manage("DescribeModel", "DescribeModelRequest", model_name="adder")
    )
    listed = json.loads(client.manage("ListModels", "ListModelsRequest"))

    assert described[0]["modelName"] == "adder"
    assert listed["models"][0] == {"modelName": "adder", "modelUrl": "adder"}
    with pytest.raises(grpc.RpcError) as caught:
        client.manage("DescribeModel", "DescribeModelRequest", model_name="nope")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


# -- REST --------------------------------------------------


def test_rest_gives_an_id_and_takes_it_again(served) -> None:
    """In the response's header; ``x-request-id`` is a fresh one each time."""
    first = served.post("/predictions/adder", b"2")
    name = first.headers[ID]
    second = served.step(name, 4)

    assert (first.text, second.text) == ("2", "6")
    assert name.startswith("ts-seq-")
    assert re.fullmatch(r"[0-9a-f-]{36}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_header_names_have_no_case(served, name) -> None:
    """TorchServe takes another spelling for no id at all."""
    served.step(name, 1)

    found = served.post("/predictions/adder", b"1", TS_REQUEST_SEQUENCE_ID=name)

    assert found.text == "2"


def test_start_and_end_headers_do_what_they_say(served, name) -> None:
    """A first step begins anew; a last one ends."""
    served.step(name, 1)
    anew = served.step(name, 5, ts_request_sequence_start="true")
    served.step(name, 1, ts_request_sequence_end="true")

    assert anew.text == "5"
    assert served.step(name, 3).text == "3"


def test_a_numbered_step_is_applied_once(served, name) -> None:
    """A repeat gets the same answer; a gap is told which number is expected."""
    answers = [served.step(name, 5, **{"legato-step": "1"}) for _ in range(2)]
    gap = served.step(name, 5, **{"legato-step": "7"})

    assert [a.text for a in answers] == ["5", "5"]
    assert [a.headers["legato-step"] for a in answers] == ["1", "1"]
    assert (gap.status, gap.headers["legato-expected-step"]) == (409, "2")


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/nope", 404, "ResourceNotFoundException"),
        ("/predictions/nope", 404, "ModelNotFoundException"),
        ("/predictions/adder/9.9", 404, "ModelVersionNotFoundException"),
        ("/v2/health/live", 404, "ResourceNotFoundException"),
    ],
)
def test_errors_are_pretty_json(served, path: str, status: int, kind: str) -> None:
    """Other protocols are not served on these ports: they would be a way around the keys."""
    found = served.post(path, b"1")

    assert found.status == status
    assert found.json["code"] == status
    assert found.json["type"] == kind
    assert found.body.endswith(b"}\n")


def test_a_body_beyond_the_limit_is_413(served) -> None:
    """With an empty body."""
    found = served.post("/predictions/adder", b"x" * 6_553_501)

    assert (found.status, found.body) == (413, b"")


def test_every_inference_path_is_served(served) -> None:
    """By version, by SageMaker's paths, the old one, KServe's."""
    paths = [
        "/predictions/adder", "/predictions/adder/1", "/predictions/adder/1/more/parts",
        "/explanations/adder", "/invocations?model_name=adder", "/invocations",
        "/models/adder/invoke", "/adder/predict", "/adder/1/predict", "/v1/models/adder:predict",
        "/v2/models/adder/infer",
    ]  # fmt: skip

    assert [served.post(path, b"3").text for path in paths] == ["3"] * len(paths)
    assert ask("GET", served.url("inference", "/predictions/adder")).text == "0"


def test_forms_are_rows(served, name) -> None:
    """Multipart and urlencoded."""
    kind = {"content-type": "multipart/form-data; boundary=xx", ID: name}
    body = b'--xx\r\nContent-Disposition: form-data; name="data"\r\n\r\n4\r\n--xx--\r\n'

    assert served.post("/predictions/adder", body, **kind).text == "4"
    kind["content-type"] = "application/x-www-form-urlencoded"
    assert served.post("/predictions/adder", b"data=5", **kind).text == "9"


def test_descriptions_are_openapi(served) -> None:
    """Of both APIs, and of a model."""
    for api, path in (("inference", "/"), ("management", "/"), ("management", "/models/adder")):
        assert ask("OPTIONS", served.url(api, path)).json["openapi"] == "3.0.1"


# -- management and metrics --------------------------------------------------


def test_describe_has_torchserves_keys_in_its_order(served) -> None:
    """Spec 7."""
    (found,) = served.get("management", "/models/adder").json

    assert (
        list(found)
        == """
        modelName modelVersion modelUrl runtime minWorkers maxWorkers batchSize maxBatchDelay
        responseTimeout startupTimeout maxRetryTimeoutInSec clientTimeoutInMills parallelType
        parallelLevel deviceType continuousBatching useJobTicket useVenv stateful
        sequenceMaxIdleMSec sequenceTimeoutMSec maxNumSequence maxSequenceJobQueueSize
        loadedAtStartup workers jobQueueStatus
    """.split()
    )
    (worker,) = found["workers"]
    assert list(worker) == ["id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"]
    assert (worker["id"], worker["status"]) == ("9000", "READY")
    assert found["stateful"] is True
    assert found["maxNumSequence"] == 1000


def test_a_model_is_registered_made_default_scaled_and_unregistered(served, name) -> None:
    """A version at a time; a sequence stays on the one that it began on."""

    def manage(method: str, path: str):
        found = ask(method, served.url("management", path))
        return found.status, found.json.get("status") or found.json.get("message")

    assert served.step(name, 1).text == "1"
    assert manage("POST", "/models") == (400, "Parameter url is required.")
    assert manage("POST", "/models?url=gone.mar") == (404, "Model not found at: gone.mar")
    assert (
        manage("POST", "/models?url=../x.mar")[1] == "Relative path is not allowed in url: ../x.mar"
    )
    assert manage("POST", "/models?url=ftp://x/y.mar")[1] == (
        "Given URL ftp://x/y.mar does not match any allowed URL(s)"
    )
    text = 'Model "adder" Version: 2 registered with 1 initial workers'
    assert manage("POST", "/models?url=adder-2&initial_workers=1") == (200, text)
    assert manage("POST", "/models?url=adder-2") == (
        409, "Model version 2 is already registered for model adder",
    )  # fmt: skip
    assert len(served.get("management", "/models/adder/all").json) == 2
    other = served.post("/predictions/adder/2", b"1", **{ID: name})
    assert other.status == 400
    assert "version" in other.json["message"]
    assert served.post("/predictions/adder/1", b"0", **{ID: name}).text == "1"
    assert manage("PUT", "/models/adder/2/set-default") == (
        200, 'Default version successfully updated for model "adder" to "2"',
    )  # fmt: skip
    assert served.step(name, 1).text == "2"
    assert manage("DELETE", "/models/adder/2") == (
        403,
        "Cannot remove default version for model adder",
    )
    assert manage("PUT", "/models/adder/1/set-default")[0] == 200
    assert manage("PUT", "/models/adder/2?min_worker=2&max_worker=1") == (
        400, "max_worker cannot be less than min_worker.",
    )  # fmt: skip
    assert manage("PUT", "/models/adder/2?min_worker=3&synchronous=true") == (
        200, "Workers scaled to 3 for model: adder, version: 2",
    )  # fmt: skip
    assert len(served.get("management", "/models/adder/2").json[0]["workers"]) == 3
    assert manage("PUT", "/models/adder/2?min_worker=0&synchronous=true")[0] == 200
    refused = served.post("/predictions/adder/2", b"1")
    assert refused.status == 503
    assert refused.json["message"].startswith('Model "adder Version: 2" has no worker')
    assert manage("PUT", "/models/adder/2?min_worker=1") == (202, "Processing worker updates...")
    assert manage("DELETE", "/models/adder/2") == (200, 'Model "adder" unregistered')
    assert served.step(name, 1).text == "3"


def test_management_refuses_what_it_does_not_know(served) -> None:
    """Methods, paths, models."""
    assert ask("PATCH", served.url("management", "/models/adder")).status == 405
    assert served.get("management", "/predictions/adder").status == 404
    assert served.get("management", "/models/nope").status == 404
    assert served.get("management", "/token?type=inference").status == 404
    assert served.get("management", "/v1/models/adder").json == {"name": "adder", "ready": True}


def test_metrics_are_counted_whatever_the_wire(served, client, name) -> None:
    """Also for gRPC, and without any metrics_mode."""

    def count() -> float:
        page = served.get("metrics", "/metrics?name[]=ts_inference_requests_total").text
        found = re.search(r'model_name="adder",model_version="default".*} (\S+)', page)
        return float(found[1]) if found else 0.0

    before = count()
    served.step(name, 1)
    client.predict("adder", b"1", name)

    assert count() - before == 2
    page = served.get("metrics", "/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    for metric in ("Requests2XX", "ts_inference_latency_microseconds", "CPUUtilization",
                   "legato_sequences_live"):  # fmt: skip
        assert f"{metric}{{" in page.text
