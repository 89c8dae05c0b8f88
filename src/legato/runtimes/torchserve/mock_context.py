"""``MockContext``: a context for tests of handlers, without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from legato.runtimes.torchserve.helpers import get_yaml_config
from legato.runtimes.torchserve.metrics import Metrics

__all__ = ["MockContext"]


class MockContext:
    """What a handler's ``initialize`` and ``handle`` look at.

    Args:
        model_pt_file: Weights, in the folder; ``None`` = none.
        model_dir: Folder of the model.
        model_file: Source of the model, in the folder; ``None`` = none.
        gpu_id: Number of the GPU, told only where there is one.
        model_name: Name of the model.
        model_yaml_config_file: The YAML file, in the folder.
    """

    def __init__(
        self,
        model_pt_file: str | None = "model.pt",
        model_dir: str = "ts/torch_handler/unit_tests/models/tmp",
        model_file: str | None = "model.py",
        gpu_id: str | None = "0",
        model_name: str = "mnist",
        model_yaml_config_file: str | None = None,
    ) -> None:
        files = {"serializedFile": model_pt_file, "modelFile": model_file}
        self.manifest = {"model": {key: name for key, name in files.items() if name}}
        self.system_properties: dict[str, Any] = {"model_dir": str(model_dir)}
        torch: Any = sys.modules.get("torch")
        if gpu_id and torch is not None and torch.cuda.is_available():
            self.system_properties["gpu_id"] = gpu_id
        self.explain = False
        self.metrics = Metrics(model_name=model_name)
        self.model_yaml_config: dict[str, Any] = {}
        if model_yaml_config_file:
            self.model_yaml_config = get_yaml_config(str(Path(model_dir) / model_yaml_config_file))

    def get_request_header(self, idx: int, exp: str) -> bool:
        """Tell of a request but the first whether it wants to be explained."""
        return bool(idx and exp and self.explain)
