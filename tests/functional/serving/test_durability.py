"""Sequences outlive the server, by default and with nothing to install."""

from __future__ import annotations

import json
import signal
import threading
import time
import urllib.request

import grpc
import pytest
from tests.functional.conftest import start
from tests.functional.serving.models import SERVICE, caller, count, infer, request, write_counter
from tests.functional.serving.test_serve import get, refused, run

from legato.protocols.kserve.gen import kserve_pb2 as pb

TIMEOUT_S = 20

CRASHING = """
import ctypes
from legato.model import Batch, Input, Model, Output, Result, State

class Counter(Model):
    inputs = [Input("sleep_ms", "int32", (1, 1))]
    outputs = [Output("count", "int64", (1, 1))]
    states = [State("seen", "int64", (1, 1))]

    def step(self, batch):
        if batch.inputs["sleep_ms"].min() < 0:
            ctypes.string_at(0)
        seen = batch.state["seen"] + 1
        return Result({"count": seen}, {"seen": seen})
"""


@pytest.fixture
def server(tmp_path):
    """Return ``server(**settings)``: a counter that keeps its sequences in ``tmp_path/data``."""
    started = []
    home = write_counter(tmp_path)

    def serve(**settings):
        served = start(home, **{"data": tmp_path / "data", **settings})
        started.append(served)
        served.await_ready()
        return served

    serve.home = home
    yield serve
    for served in started:
        served.close()


def with_parameters(made: pb.ModelInferRequest, **parameters: object) -> pb.ModelInferRequest:
    """Add parameters to a request."""
    kinds = {int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters.items():
        setattr(made.parameters[name], kinds[type(value)], value)
    return made


def refusal(channel: grpc.Channel, made: pb.ModelInferRequest) -> grpc.RpcError:
    """Send a step that must be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        caller(channel)(made, timeout=TIMEOUT_S)
    return caught.value


# -- where sequences are kept -------------------------------------------------------------


def test_by_default_sequences_are_kept_in_the_users_data_folder(server, tmp_path) -> None:
    """A server that is stopped and started again goes on, and says what it keeps where."""
    environment = {"XDG_DATA_HOME": str(tmp_path / "xdg")}
    served = start(server.home, store="log", environment=environment)
    served.await_ready()
    with grpc.insecure_channel(served.address) as channel:
        assert infer(channel, request(1, start=True)) == 1
    assert served.stop() == 0
    served.close()

    again = start(server.home, store="log", environment=environment)
    ready = again.await_ready()
    with grpc.insecure_channel(again.address) as channel:
        went_on = infer(channel, request(1))
    again.close()

    assert went_on == 2
    folder = tmp_path / "xdg" / "legato" / "sequences-log"
    assert ready["store"] == {
        "kind": "log", "folder": str(folder), "level": "process", "sequences": 1,
    }  # fmt: skip


def test_two_servers_do_not_share_a_folder(server, tmp_path) -> None:
    """The second one is told which process has it, and what it may do."""
    served = server()

    text = refused(
        run("serve", server.home, "--port", 0, "--data", tmp_path / "data", LEGATO_STORE="log")
    )

    assert f"in use by process {served.pid}" in text
    assert "--data" in text
    assert "--store memory" in text


def test_a_folder_of_another_store_is_refused(server, tmp_path) -> None:
    """Nothing in it is changed."""
    server(store="sqlite").stop()

    text = refused(
        run("serve", server.home, "--port", 0, "--data", tmp_path / "data", LEGATO_STORE="log")
    )

    assert "legato sqlite 1" in text


def test_the_ready_line_says_what_is_kept_where(server, tmp_path) -> None:
    """For people."""
    served = start(server.home, data=tmp_path / "data", durability="disk", announce="text")
    with served.news:
        served.news.wait_for(lambda: served.lines, TIMEOUT_S)
    served.close()

    where = f"keeps 0 sequences in {tmp_path / 'data'} (log, disk: survives loss of power)\n"
    assert served.lines[0].endswith(where)


# -- levels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "level"),
    [({}, "process"), ({"durability": "disk"}, "disk"), ({"store": "memory"}, "none")],
)
def test_every_reply_names_the_level_that_it_reached(server, settings, level: str) -> None:
    """Over gRPC and REST."""
    served = server(**settings)
    body = {
        "parameters": {"sequence_id": 2, "sequence_start": True},
        "inputs": [{"name": "sleep_ms", "datatype": "INT32", "shape": [1, 1], "data": [0]}],
    }

    with grpc.insecure_channel(served.address) as channel:
        answer = caller(channel)(request(1, start=True), timeout=TIMEOUT_S)
    post = urllib.request.Request(  # noqa: S310
        f"{served.url}/v2/models/counter/infer", json.dumps(body).encode()
    )
    with urllib.request.urlopen(post, timeout=TIMEOUT_S) as page:  # noqa: S310
        rest = json.load(page)

    assert answer.parameters["sequence_durability"].string_param == level
    assert rest["parameters"]["sequence_durability"] == level


def test_a_sequence_may_ask_for_more(server) -> None:
    """It keeps its level for life, others keep theirs."""
    served = server()
    with grpc.insecure_channel(served.address) as channel:
        call = caller(channel)
        asked = with_parameters(request(1, start=True), sequence_durability="disk")
        answers = [call(asked), call(request(1)), call(request(2, start=True)), call(request(1))]

    levels = [answer.parameters["sequence_durability"].string_param for answer in answers]
    assert levels == ["disk", "disk", "process", "disk"]
    assert [count(answer) for answer in answers] == [1, 2, 1, 3]


def test_a_level_out_of_reach_is_refused(server) -> None:
    """It is not silently lowered."""
    served = server(store="memory")
    with grpc.insecure_channel(served.address) as channel:
        asked = with_parameters(request(1, start=True), sequence_durability="disk")
        error = refusal(channel, asked)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "memory" in error.details()


def test_a_nonsensical_level_is_refused(server) -> None:
    """The message says what there is."""
    with grpc.insecure_channel(server().address) as channel:
        asked = with_parameters(request(1, start=True), sequence_durability="forever")
        error = refusal(channel, asked)

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "'process' or 'disk'" in error.details()


# -- time -------------------------------------------------------------------------------------


def test_the_time_that_a_server_is_down_does_not_count(server) -> None:
    """Deadlines are remaining times: two seconds of idling are still two after a long night.

    Three more are for clients to come back.
    """
    served = server()
    asked = with_parameters(request(1, start=True), sequence_idle_timeout_s=2.0)
    with grpc.insecure_channel(served.address) as channel:
        infer(channel, asked)
    served.stop()
    time.sleep(2.5)

    again = server()
    with grpc.insecure_channel(again.address) as channel:
        went_on = infer(channel, request(1))
        time.sleep(2.5 + 3.0)
        error = refusal(channel, request(1))

    assert went_on == 2
    assert dict(error.trailing_metadata())["legato-reason"] == "expired"


# -- models that change -----------------------------------------------------------------------


def test_a_changed_model_refuses_old_sequences_until_it_says_they_fit(server) -> None:
    """Both digests are named; ``compatible_with`` takes the old one."""
    served = server()
    with grpc.insecure_channel(served.address) as channel:
        infer(channel, request(1, start=True))
    served.stop()
    code = server.home / "counter.py"
    code.write_text(code.read_text() + "\n# another version\n")

    changed = server()
    with grpc.insecure_channel(changed.address) as channel:
        error = refusal(channel, request(1))
        assert infer(channel, request(2, start=True)) == 1
    changed.stop()
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    digests = [word.strip("',.;:()") for word in error.details().split()]
    old, new = [word for word in digests if len(word) >= 16 and not set(word) - set(HEX)][:2]
    assert old != new
    config = server.home / "model.yaml"
    config.write_text(config.read_text() + f"compatible_with: ['{old}']\n")

    fitting = server()

    with grpc.insecure_channel(fitting.address) as channel:
        assert infer(channel, request(1)) == 2
        assert infer(channel, request(2)) == 2


HEX = "0123456789abcdef"


# -- stopping ---------------------------------------------------------------------------------


def test_open_streams_are_closed_with_a_reason(server) -> None:
    """A client that reopens its stream goes on where it was."""
    served = server()
    with grpc.insecure_channel(served.address) as channel:
        stream = channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        held = Held(request(1, start=True))
        replies = stream(held, timeout=TIMEOUT_S)
        next(replies)

        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as ended:
            next(replies)
        held.close()

    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.value.details() == "the server is stopping"
    assert served.wait() == 0
    again = server()
    with grpc.insecure_channel(again.address) as channel:
        assert infer(channel, request(1)) == 2


class Held:
    """One request, and then silence until closed."""

    def __init__(self, made: pb.ModelInferRequest) -> None:
        self._left = [made]
        self._over = threading.Event()

    def __iter__(self) -> Held:
        return self

    def __next__(self) -> pb.ModelInferRequest:
        if self._left:
            return self._left.pop()
        self._over.wait(TIMEOUT_S)
        raise StopIteration

    def close(self) -> None:
        self._over.set()


# -- steps that crash -------------------------------------------------------------------------


def test_a_step_that_crashes_the_process_again_is_quarantined(server) -> None:
    """Its sequence stays where it was, all others go on, and health tells."""
    (server.home / "counter.py").write_text(CRASHING)
    served = server()
    deadly = with_parameters(request(1, sleep_ms=-1), sequence_step=2)
    with grpc.insecure_channel(served.address) as channel:
        for sequence in (1, 2):
            infer(channel, request(sequence, start=True))
        for starts in (2, 3):
            assert refusal(channel, deadly).code() is grpc.StatusCode.UNAVAILABLE
            served.await_ready(times=starts)
    with grpc.insecure_channel(served.address) as channel:
        error = refusal(channel, deadly)
        assert infer(channel, request(2)) == 2

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "quarantined" in error.details()
    assert "step 2 of sequence 1 of model 'counter' crashed the process" in served.errors
    found = json.loads(get(f"{served.url}/health")[2])
    assert found["quarantined"] == [["counter", 1, 2]]
    assert found["restarts"] == 2
    assert "SIG" in found["died"]
    assert "Quarantined steps: 1" in get(f"{served.url}/")[2]
