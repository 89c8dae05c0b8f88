"""The table of methods answers what clients ask at their start."""

from __future__ import annotations

import pytest

from legato.core.types import (
    ControlKind,
    InputKind,
    Signature,
    StateSpec,
    TensorSpec,
    UpdateRule,
)
from legato.protocols.kserve.facilities import Facilities, NoRepository
from legato.protocols.kserve.gen import kserve_pb2 as pb
from legato.protocols.kserve.grpc_service import service
from legato.protocols.kserve.memory import Regions
from legato.protocols.rpc.service import RpcError, Status

RPCS = {
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer",
    "ModelStreamInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad",
    "RepositoryModelUnload", "SystemSharedMemoryStatus", "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
}  # fmt: skip


@pytest.fixture
def ask(engine, kit):
    """Call a method with a message; returns the parsed answer."""

    def run(name, request, **options):
        call = kit.Call()
        handler = service(engine, **options).methods[name].factory(call)
        handler.message(request.SerializeToString())
        handler.half_close()
        assert call.status is Status.OK, call.text
        return getattr(pb, f"{name}Response").FromString(call.sent[0])

    return run


def test_every_rpc_of_the_protocol_is_there(engine) -> None:
    """The service has Triton's name and all its methods."""
    made = service(engine)

    assert made.name == "inference.GRPCInferenceService"
    assert set(made.methods) == RPCS


def test_health_follows_the_server(ask) -> None:
    """Live is always true; ready is what the server says."""
    assert ask("ServerLive", pb.ServerLiveRequest()).live
    assert ask("ServerReady", pb.ServerReadyRequest(), ready=lambda: True).ready
    assert not ask("ServerReady", pb.ServerReadyRequest(), ready=lambda: False).ready


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("accumulator", "", True),
        ("accumulator", "1", True),
        ("accumulator", "2", False),
        ("other", "", False),
    ],
)
def test_model_ready_is_false_for_what_is_not_there(ask, name, version, expected) -> None:
    """An unknown model is not ready; that is no error."""
    assert ask("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready is expected


def test_metadata_shows_an_open_batch_dimension(ask) -> None:
    """Metadata shapes have it as -1, config dims leave it out."""
    metadata = ask("ModelMetadata", pb.ModelMetadataRequest(name="accumulator"))
    config = ask("ModelConfig", pb.ModelConfigRequest(name="accumulator")).config

    assert (metadata.name, list(metadata.versions)) == ("accumulator", ["1"])
    assert [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs] == [
        ("INPUT", "FP32", [-1, 1])
    ]
    assert config.max_batch_size == 128
    assert [(i.name, i.data_type, list(i.dims)) for i in config.input] == [("INPUT", 11, [1])]
    assert config.WhichOneof("scheduling_choice") == "sequence_batching"
    assert config.sequence_batching.state[0].input_name == "SUM"
    assert config.HasField("model_transaction_policy")
    assert config.parameters["sequence_receipts"].string_value == "1"


def test_models_without_a_leading_batch_axis_have_full_shapes(engine, ask, kit) -> None:
    """A scalar input means max_batch_size 0; controls and states are not the client's."""
    signature = Signature(
        inputs=(
            TensorSpec("input", "float32", (1, -1)),
            TensorSpec("sr", "int64", (), None, InputKind.SCALAR),
            TensorSpec("START", "float32", (1, 1), 0, InputKind.CONTROL, control=ControlKind.START),
            TensorSpec("voice", "float32", (1, 4)),
        ),
        outputs=(TensorSpec("out", "float32", (1, 1)),),
        states=(
            StateSpec("h", "h", "hn", "float32", (2, 1, 4), batch_axis=1),
            StateSpec("v", "voice", None, "float32", (1, 4), rule=UpdateRule.WRITE_ONCE),
        ),
    )
    engine.handles["m"] = kit.served("m", signature)

    metadata = ask("ModelMetadata", pb.ModelMetadataRequest(name="m"))
    config = ask("ModelConfig", pb.ModelConfigRequest(name="m")).config

    assert [list(i.shape) for i in metadata.inputs] == [[1, -1], [], [1, 4]]
    assert config.max_batch_size == 0
    assert [(i.name, i.optional) for i in config.input] == [
        ("input", False),
        ("sr", False),
        ("voice", True),
    ]
    assert list(config.sequence_batching.state[0].dims) == [2, 1, 4]
    assert list(config.sequence_batching.control_input[0].control[0].fp32_false_true) == [0, 1]


def test_stateless_models_have_no_sequence_batching(engine, ask, kit) -> None:
    """The mere presence of the key makes a client send sequences."""
    signature = Signature(kit.signature.inputs, kit.signature.outputs)
    engine.handles["m"] = kit.served("m", signature)

    config = ask("ModelConfig", pb.ModelConfigRequest(name="m")).config

    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"


def test_statistics_count_rows_calls_and_failures(engine, ask) -> None:
    """What a load generator reads between two windows: integer version, growing queue count."""
    counts = engine.handles["accumulator"].statistics
    counts.applied, counts.replayed, counts.batches = 6, 1, 2
    counts.failed["step_gap"], counts.failed_s = 3, 0.5
    counts.batch_seconds = {2: [1, 0.25], 4: [1, 0.5]}
    counts.queue_s.observe(0.125, 6)
    counts.last_step_at = 12.5

    entry = ask("ModelStatistics", pb.ModelStatisticsRequest(name="accumulator")).model_stats[0]

    assert (entry.name, int(entry.version), entry.last_inference) == ("accumulator", 1, 12500)
    assert (entry.inference_count, entry.execution_count) == (6, 2)
    stats = entry.inference_stats
    assert (stats.success.count, stats.fail.count, stats.fail.ns) == (7, 3, 500_000_000)
    assert (stats.queue.count, stats.queue.ns) == (6, 750_000_000)
    assert (stats.compute_infer.count, stats.compute_infer.ns) == (6, 2_500_000_000)
    assert [(b.batch_size, b.compute_infer.count) for b in entry.batch_stats] == [(2, 1), (4, 1)]


def test_only_what_works_is_an_extension(engine, ask, tmp_path) -> None:
    """Clients choose their behaviour by these names; nothing is traced, and no GPU is read."""
    allowed = Facilities(NoRepository(engine), Regions(str(tmp_path)))

    extensions = set(ask("ServerMetadata", pb.ServerMetadataRequest()).extensions)
    with_memory = set(
        ask("ServerMetadata", pb.ServerMetadataRequest(), facilities=allowed).extensions
    )

    assert {"sequence", "sequence(string_id)", "statistics", "logging"} <= extensions
    assert not {"system_shared_memory", "cuda_shared_memory", "trace"} & extensions
    assert with_memory - extensions == {"system_shared_memory"}


def test_index_lists_models_and_can_leave_out_those_not_ready(engine, ask) -> None:
    """State says READY or UNAVAILABLE."""
    engine.handles["accumulator"].ready = False

    everything = ask("RepositoryIndex", pb.RepositoryIndexRequest()).models
    ready = ask("RepositoryIndex", pb.RepositoryIndexRequest(ready=True)).models

    assert [(m.name, m.version, m.state) for m in everything] == [
        ("accumulator", "1", "UNAVAILABLE")
    ]
    assert list(ready) == []


@pytest.mark.parametrize("rpc", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_unknown_models_are_not_found(engine, call, rpc) -> None:
    """The text is Triton's."""
    request = getattr(pb, f"{rpc}Request")(name="x")

    with pytest.raises(RpcError) as caught:
        service(engine).methods[rpc].factory(call).message(request.SerializeToString())

    assert caught.value.status is Status.NOT_FOUND
    assert caught.value.message == "Request for unknown model: 'x' is not found"


@pytest.mark.parametrize("rpc", sorted(RPCS - {"ModelStreamInfer"}))
def test_garbage_is_refused_by_every_method(engine, call, rpc) -> None:
    """Bytes that are no message end the call with a status."""
    with pytest.raises(RpcError):
        service(engine).methods[rpc].factory(call).message(b"\xff\xff\xff")


def test_all_versions_are_told_unless_one_is_named(engine, ask, kit) -> None:
    """Metadata lists them all the same."""
    newer = kit.served("accumulator", kit.signature)
    newer.version = "2"
    engine.handles["another key, the same model"] = newer

    metadata = ask("ModelMetadata", pb.ModelMetadataRequest(name="accumulator", version="1"))
    everything = ask("ModelStatistics", pb.ModelStatisticsRequest(name="accumulator"))
    one = ask("ModelStatistics", pb.ModelStatisticsRequest(name="accumulator", version="1"))

    assert list(metadata.versions) == ["1", "2"]
    assert [entry.version for entry in everything.model_stats] == ["1", "2"]
    assert [entry.version for entry in one.model_stats] == ["1"]


def test_a_model_of_a_triton_repository_has_its_own_config(engine, ask, kit) -> None:
    """As it was completed; clients still learn how many answers are kept."""
    engine.handles["m"] = kit.served(
        "m",
        kit.signature,
        origin={
            "name": "m",
            "max_batch_size": 8,
            "sequence_batching": {"direct": {"minimum_slot_utilization": 0.5}},
            "model_transaction_policy": {"decoupled": True},
        },
    )

    config = ask("ModelConfig", pb.ModelConfigRequest(name="m")).config

    assert config.max_batch_size == 8
    assert config.sequence_batching.direct.minimum_slot_utilization == 0.5
    assert config.model_transaction_policy.decoupled
    assert config.parameters["sequence_receipts"].string_value == "1"


def test_a_model_that_was_unloaded_is_told_from_one_that_never_was(engine, call) -> None:
    """Triton's two texts."""
    engine.unloaded.add("m")

    with pytest.raises(RpcError) as caught:
        service(engine).methods["ModelConfig"].factory(call).message(
            pb.ModelConfigRequest(name="m").SerializeToString()
        )

    assert caught.value.message == "Request for unknown model: 'm' has no available versions"
