"""``config.json`` of OpenVINO Model Server: what may stand in it.

The schema is its own: unknown keys are rejected, and one of them makes the whole file
invalid. ``sequence_timeout_seconds`` is ours.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

DEFAULT_METRICS: Final = (
    "ovms_current_requests", "ovms_requests_success", "ovms_requests_fail", "ovms_request_time_us",
    "ovms_streams", "ovms_inference_time_us", "ovms_wait_for_infer_req_time_us",
    # Of graphs, which are not served here: known names without a value.
    "ovms_current_graphs", "ovms_requests_accepted", "ovms_requests_rejected", "ovms_graph_error",
    "ovms_graph_processing_time_us", "ovms_responses",
)  # fmt: skip
"""What ``metrics_enable`` turns on."""
METRICS: Final = (*DEFAULT_METRICS, "ovms_infer_req_queue_size", "ovms_infer_req_active")
"""What ``metrics_list`` may name."""

NotNegative = Annotated[StrictInt, Field(ge=0)]
Property = StrictStr | StrictBool | StrictInt | StrictFloat
NameOrNames = StrictStr | dict[str, StrictStr]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latest(_Strict):
    """The newest versions."""

    num_versions: Annotated[StrictInt, Field(ge=1)] = 1


class Specific(_Strict):
    """Versions by their numbers."""

    versions: list[Annotated[StrictInt, Field(ge=1)]]


class All(_Strict):
    """Every version."""


class VersionPolicy(_Strict):
    """Which versions of a model are served; exactly one of the three."""

    all: All | None = None
    latest: Latest | None = None
    specific: Specific | None = None

    def model_post_init(self, _context: Any) -> None:
        """Refuse none and several."""
        if len(self.model_fields_set) != 1:
            raise ValueError("must have exactly one of 'all', 'latest' and 'specific'")


class ModelEntry(_Strict):
    """``config`` of one model."""

    name: StrictStr
    base_path: StrictStr = ""
    batch_size: NotNegative | StrictStr | None = None
    shape: NameOrNames | None = None
    layout: NameOrNames | None = None
    nireq: NotNegative = 0
    target_device: StrictStr = "CPU"
    plugin_config: dict[str, Property] = {}
    model_version_policy: VersionPolicy | None = None
    allow_cache: StrictBool = False
    stateful: StrictBool = False
    idle_sequence_cleanup: StrictBool = True
    low_latency_transformation: StrictBool = False
    max_sequence_number: NotNegative = 500
    sequence_timeout_seconds: NotNegative | None = None
    custom_loader_options: dict[str, Any] | None = None
    graph_path: StrictStr | None = None
    subconfig: StrictStr | None = None


class Listed(_Strict):
    """One item of ``model_config_list``."""

    config: ModelEntry


class Metrics(_Strict):
    """``monitoring.metrics``."""

    enable: StrictBool = False
    metrics_list: list[StrictStr] = []


class Monitoring(_Strict):
    """``monitoring``."""

    metrics: Metrics


class ConfigFile(_Strict):
    """The whole file."""

    model_config_list: list[Listed]
    pipeline_config_list: list[Any] = []
    mediapipe_config_list: list[Any] = []
    custom_loader_config_list: list[Any] = []
    custom_node_library_config_list: list[Any] = []
    monitoring: Monitoring | None = None
