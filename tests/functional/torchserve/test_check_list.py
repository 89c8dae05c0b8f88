"""The check list of a compatible subset, item by item. Other modules go deeper into each."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import grpc
import pytest
import yaml
from tests.functional.conftest import SOURCE
from tests.functional.torchserve import test_sessions
from tests.functional.torchserve.conftest import Client, ask, write_adder, write_properties
from tests.functional.torchserve.test_archives import ID, LONGER, ODD, PLAIN, SHIPPED, pack
from tests.functional.torchserve.test_command import healthy, key, run, wait_for
from tests.unit.runtimes.torchserve.test_base_handler import IMPORTS

from legato.protocols.torchserve.gen import inference_pb2, management_pb2

MESSAGES = """
PredictionsRequest model_name=1 model_version=2 input=3 sequence_id=4
PredictionResponse prediction=1 sequence_id=2 status=3
TorchServeHealthResponse health=1
ManagementResponse msg=1
DescribeModelRequest model_name=1 model_version=2 customized=3
ListModelsRequest limit=1 next_page_token=2
RegisterModelRequest batch_size=1 handler=2 initial_workers=3 max_batch_delay=4 model_name=5 \
response_timeout=6 runtime=7 synchronous=8 url=9 s3_sse_kms=10 startup_timeout=11
ScaleWorkerRequest model_name=1 model_version=2 max_worker=3 min_worker=4 number_gpu=5 \
synchronous=6 timeout=7
SetDefaultRequest model_name=1 model_version=2
UnregisterModelRequest model_name=1 model_version=2
""".strip().splitlines()
CONTEXT = """
model_name manifest system_properties model_yaml_config metrics request_ids request_processor
stopping_criteria header_key_sequence_id header_key_sequence_start header_key_sequence_end
get_request_id get_request_header get_all_request_header get_sequence_id set_response_header
get_response_headers set_response_content_type get_response_content_type set_response_status
set_all_response_status get_response_status
""".split()
KEYS = {
    "minWorkers": 1, "maxWorkers": 1, "batchSize": 2, "maxBatchDelay": 10, "responseTimeout": 60,
    "startupTimeout": 60, "maxRetryTimeoutInSec": 10, "clientTimeoutInMills": 0,
    "jobQueueSize": 50, "useJobTicket": False, "sequenceBatching": True,
    "continuousBatching": False, "sequenceMaxIdleMSec": 60_000, "sequenceTimeoutMSec": 0,
    "maxNumSequence": "many", "maxSequenceJobQueueSize": 5, "asyncCommunication": False,
    "useVenv": False, "deviceType": "cpu", "deviceIds": [0], "parallelType": "", "parallelLevel": 0,
    "torchrun": {"nproc-per-node": 1}, "micro_batching": {"mine": 1},
}  # fmt: skip
DEFECTS = {
    "handler exception on a stream": "test_archives:"
    "test_a_handler_error_fails_one_row_over_every_wire",
    "half-close": "test_wire:test_the_example_clients_call_gives_1_3_6",
    "dead workers": "test_archives:test_killed_workers_come_back_and_sums_go_on",
    "health": "../../fault/workers/test_deaths:test_killed_idle_worker_is_replaced",
    "wrong results after expiry": "test_sessions:test_a_session_that_is_over_is_an_error",
    "head-of-line blocking": "test_archives:test_interleaved_sequences_have_their_own_sums",
    "delay of a lone client": "test_archives:test_a_lone_client_does_not_wait_for_company",
    "unary gRPC": "test_wire:test_a_sequence_goes_on_over_every_api",
    "lost at expiry": "test_command:test_no_request_is_lost_at_expiry",
    "client timeout": "test_limits:test_a_client_is_told_that_its_time_is_over",
    "job ticket": "test_limits:test_a_job_ticket_is_given_while_a_worker_is_idle",
    "own end under a stream": "test_sessions:test_a_clients_own_last_message_does_not_cut_a_stream",
    "handlers' metrics": "test_handler_metrics:test_what_handlers_measure_is_shown",
    "one chunk over gRPC": "test_archives:test_all_chunks_come_over_grpc",
    "start and end flags": "test_wire:test_first_and_last_messages_begin_and_end",
    "scale-down": "test_archives:test_scaling_down_and_up_loses_no_sequence",
    "one row fails the batch": "../torchserve_workers/test_handlers:test_one_bad_row_fails_alone",
    "time limits": "test_archives:test_a_handler_that_takes_too_long_is_told_and_replaced",
    "killed worker": "test_archives:test_a_request_that_ends_its_worker_is_told",
    "README's command": "test_command:test_a_server_is_started_in_the_background_and_stopped",
    "empty metrics": "test_wire:test_metrics_are_counted_whatever_the_wire",
    "killed under a stream": "../../fault/torchserve/test_streams:"
    "test_sums_are_right_whoever_is_killed_under_an_open_stream",
}  # fmt: skip


HERE = Path(__file__).parent
COLLECT = """
import json, sys
import pytest

class Collected:
    def pytest_collection_finish(self, session):
        items = {
            f"{item.path}::{item.originalname}": [mark.name for mark in item.iter_markers()]
            for item in session.items
        }
        with open(sys.argv[1], "w") as file:
            json.dump(items, file)

sys.exit(pytest.main(sys.argv[2:], plugins=[Collected()]))
"""


def write_wheel(folder: Path) -> Path:
    """A package that no registry has."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    about = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "VALUE = 42\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def served(torchserve, tmp_path_factory):
    """One server with an archive of each form, and its clients' requests."""
    folder = tmp_path_factory.mktemp("list")
    store = folder / "store"
    (folder / "requirements.txt").write_text(f"{write_wheel(folder)}\n")
    wanted = {"imports": IMPORTS, "context": CONTEXT}
    pack(store, "inspect", "inspect_handler.py", yaml.safe_dump({**KEYS, "wanted": wanted}),
         more=("--requirements-file", str(folder / "requirements.txt")))  # fmt: skip
    pack(store, "shipped", "stateful_handler.py", SHIPPED)
    pack(store, "adder", "stateful_handler.py", LONGER, "tgz")
    pack(store, "plain", "odd_handler.py", PLAIN, "no-archive")
    pack(store, "odd", "odd_handler.py", ODD)
    pack(store, "sessions", "session_handler.py", test_sessions.CONFIG % (1, 2, 30_000, 60_000))
    return torchserve(
        *("--ncs", "--disable-token-auth", "--models", "all"),
        folder=folder,
        properties={"install_py_dep_per_model": "true"},
    )


@pytest.fixture
def client(served):
    made = served.client()
    yield made
    made.close()


@pytest.mark.parametrize("line", MESSAGES, ids=lambda line: line.split()[0])
def test_services_have_the_names_and_numbers(line: str) -> None:
    """Of every message of both services."""
    name, *fields = line.split()
    found = getattr(inference_pb2, name, None) or getattr(management_pb2, name)

    assert [f"{field.name}={field.number}" for field in found.DESCRIPTOR.fields] == fields


def test_infer_stream2_prints_1_3_6(client) -> None:
    """On 7070's service; 7071's lists what it serves."""
    listed = json.loads(client.manage("ListModels", "ListModelsRequest"))

    assert client.infer_stream2("shipped", "list", b"1\n", b"2\n", b"3\n") == ["1", "3", "6"]
    assert {"modelName": "shipped", "modelUrl": "shipped.mar"} in listed["models"]
    assert json.loads(client.ping()) == {"status": "Healthy"}


def test_paths_bodies_and_codes(served) -> None:
    """Of all three APIs; each answer has an ``x-request-id`` of its own."""
    taken = served.post("/predictions/plain", b"a")
    paths = [("inference", "/ping"), ("management", "/models"), ("management", "/models/plain"),
             ("metrics", "/metrics")]  # fmt: skip
    unknown = served.post("/predictions/nope", b"a")

    assert [served.get(api, path).status for api, path in paths] == [200] * 4
    assert re.fullmatch(r"[0-9a-f-]{36}", taken.headers["x-request-id"])
    assert taken.json["request"] == taken.headers["x-request-id"]
    assert unknown.json == {
        "code": 404,
        "type": "ModelNotFoundException",
        "message": "Model not found: nope",
    }


def test_forms_of_archives_and_their_requirements(served) -> None:
    """``.mar``, ``.tar.gz``, a folder; manifest, configFile, requirements beside the handler."""
    names = {one["modelName"]: one["modelUrl"]
             for one in served.get("management", "/models").json["models"]}  # fmt: skip
    told = served.post("/predictions/inspect", b"a", **{ID: "one"}).json

    assert (names["shipped"], names["adder"], names["plain"]) == (
        "shipped.mar",
        "adder.tar.gz",
        "plain",
    )
    assert told["tiny"] == 42
    assert told["model"] == "inspect"


def test_what_handlers_import_and_their_context(served) -> None:
    """Inside a worker: every name, every attribute; what it sets arrives."""
    answer = served.post("/predictions/inspect/1.0/more/parts", b"a", **{ID: "one"})
    told = answer.json

    assert told["missing"] == []
    assert told["properties"] == sorted(
        "model_dir gpu_id batch_size server_name server_version limit_max_image_pixels".split()
    )
    assert (told["path"], told["status"], told["equal"]) == ("more/parts", [201, "Made"], True)
    assert (answer.status, answer.headers["x-set"]) == (201, "yes")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("word", "status", "text"),
    [
        ("raise", 503, "Prediction failed"),
        ("predict", 418, "teapot"),
        ("memory", 507, "Out of resources"),
        ("nolist", 503, "Invalid model predict output"),
        ("short", 503, "number of batch response mismatched"),
        ("object", 503, "Unsupported model output data type."),
    ],
)
def test_errors_of_handlers(served, client, word: str, status: int, text: str) -> None:
    """Over REST, and as a ``status`` message on a stream."""
    rest = served.post("/predictions/odd", word.encode(), **{ID: word})
    (on_stream,) = client.stream(iter([client.message("odd", word.encode(), word)]))

    assert (rest.status, rest.json["message"]) == (status, text)
    assert on_stream.status.message == text


def test_both_examples_give_their_figures(served, client) -> None:
    """Running sums side by side, and a session with its streams."""
    odd = [served.step("l-odd", n, model="adder").text for n in (1, 3, 5, 7, 9)]
    even = client.infer_stream2("adder", "l-even", b"2", b"4", b"6", b"8", b"10")

    assert (odd, even) == ("1 4 9 16 25".split(), "2 6 12 20 30".split())
    test_sessions.test_a_session_gives_the_published_figures(served)


def test_all_keys_are_taken(served) -> None:
    """A wrong type is said and passed over; what is not the server's is the handler's."""
    (described,) = served.get("management", "/models/inspect").json
    told = served.post("/predictions/inspect", b"a", **{ID: "one"}).json["config"]

    assert (described["batchSize"], described["responseTimeout"]) == (2, 60)
    assert described["maxNumSequence"] == 1  # "many" is no number
    assert "maxNumSequence" in served.errors
    assert told["micro_batching"] == {"mine": 1}


def test_the_command_starts_and_stops_with_the_examples_own_config(tmp_path) -> None:
    """Ports of gRPC given as URLs, a worker's archive, in the background."""
    pack(tmp_path / "store", "shipped", "stateful_handler.py", SHIPPED)
    named = write_properties(tmp_path)
    text = (tmp_path / "config.properties").read_text()

    started = run(
        tmp_path, "--start", "--ncs", "--disable-token-auth", "--model-store", "store",
        "--models", "shipped.mar", "--ts-config", "config.properties",
    )  # fmt: skip
    try:
        wait_for(lambda: healthy(named["inference"]), "healthy")
        client = Client(named["grpc_inference"], named["grpc_management"])
        sums = client.infer_stream2("shipped", "one", b"1", b"2", b"3")
        client.close()
    finally:
        stopped = run(tmp_path, "--stop")

    assert "grpc_inference_port=http://127.0.0.1" in text
    assert (started.returncode, stopped.stdout) == (0, "TorchServe has stopped.\n")
    assert sums == ["1", "3", "6"]


def test_the_key_file_and_its_flags(torchserve, tmp_path) -> None:
    """Three keys, on by default; models are not registered by clients unless they are let."""
    write_adder(tmp_path / "store")
    served = torchserve("--ncs", "--models", "adder", folder=tmp_path)
    file = tmp_path / "key_file.json"
    keys = json.loads(file.read_text())
    management = {"Authorization": f"Bearer {key(tmp_path, 'management')}"}

    assert {name: sorted(one) for name, one in keys.items()} == {
        "management": ["expiration time", "key"],
        "inference": ["expiration time", "key"],
        "API": ["key"],
    }
    assert all(re.fullmatch(r"[\w-]{8}", one["key"]) for one in keys.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert served.step("a", 1).status == 400
    assert served.step("a", 1, Authorization=f"Bearer {key(tmp_path, 'inference')}").text == "1"
    url = served.url("management", "/models?url=adder")
    assert ask("POST", url, **management).status == 405


def test_a_finite_iterator_gets_all_its_answers_then_ok(client) -> None:
    """And the next such call, too: no worker is lost."""
    for turn in range(3):
        answers = client.stream(
            iter([client.message("adder", b"1", f"f{turn}-{at}") for at in range(20)])
        )
        assert [one.prediction for one in answers] == [b"1"] * 20
        assert answers.code() is grpc.StatusCode.OK


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> dict[str, list[str]]:
    """What a plain run of the modules of ``DEFECTS`` runs: its tests, and their marks."""
    files = {str(module_of(where)) for where in DEFECTS.values()}
    told = tmp_path_factory.mktemp("collected") / "items.json"
    subprocess.run(
        [sys.executable, "-c", COLLECT, str(told), "--collect-only", "-q", *sorted(files)],
        check=True,
        cwd=HERE.parents[2],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.DEVNULL,
        timeout=100,
    )
    return json.loads(told.read_text())


def module_of(where: str) -> Path:
    return (HERE / f"{where.partition(':')[0]}.py").resolve()


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_has_a_test_that_shows_its_absence(defect: str, collected) -> None:
    """A plain run collects it, and neither skips it nor lets it fail."""
    where = DEFECTS[defect]
    test = f"{module_of(where)}::{where.partition(':')[2]}"

    assert test in collected
    assert not {"skip", "skipif", "xfail"} & set(collected[test])
