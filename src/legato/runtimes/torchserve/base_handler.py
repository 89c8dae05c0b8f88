"""``ts.torch_handler.base_handler``: the class that most handlers derive from.

torch is imported only where a model is loaded or a tensor made with it, so a handler that
needs none of that runs without it.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from legato.runtimes.torchserve.helpers import check_valid_pt2_backend, load_label_mapping
from legato.runtimes.torchserve.needs import need

if TYPE_CHECKING:
    from legato.runtimes.torchserve.context import Context

__all__ = ["BaseHandler"]

_log = logging.getLogger("ts.torch_handler")


class BaseHandler:
    """Loads the archive's model and takes a batch through three stages."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: Any = None
        self.device: Any = None
        self.initialized = False
        self.context: Context | None = None
        self.model_pt_path: str | None = None
        self.manifest: Any = None
        self.map_location: str | None = None
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}
        self.model_yaml_config: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Choose the device and load the model that the manifest names, if it names one."""
        self.model_yaml_config = context.model_yaml_config
        properties = context.system_properties
        self._choose_device(properties.get("gpu_id"))
        self.manifest = context.manifest
        folder = Path(properties["model_dir"])
        named = (self.manifest or {}).get("model", {})
        serialized, source = named.get("serializedFile"), named.get("modelFile")
        self.model_pt_path = str(folder / serialized) if serialized else None
        if source:
            self.model = self._load_pickled_model(str(folder), source, self.model_pt_path)
            self.model.to(self.device)
            self.model.eval()
        elif self.model_pt_path and self.model_pt_path.endswith(".pt"):
            self.model = self._load_torchscript_model(self.model_pt_path)
            self.model.eval()
        elif self.model_pt_path and self.model_pt_path.endswith(".onnx"):
            self.model = _onnx_session(self.model_pt_path)
        elif self.model_pt_path and self.model_pt_path.endswith((".so", ".pt2")):
            self.model = self._load_torch_export_aot_compile(self.model_pt_path)
        elif self.model_pt_path:
            raise RuntimeError(f"no model can be loaded from {serialized}")
        if self.model is not None:
            self._compile()
        mapping = folder / "index_to_name.json"
        if mapping.is_file():
            self.mapping = load_label_mapping(str(mapping))
        self.initialized = True

    def _choose_device(self, gpu: int | None) -> None:
        self.map_location = "cpu"
        try:
            import torch  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            self.device = "cpu"
            return
        if torch.cuda.is_available() and gpu is not None:
            self.map_location = "cuda"
            self.device = torch.device(f"cuda:{gpu}")
        else:
            self.device = torch.device("cpu")

    def _compile(self) -> None:
        """Compile the model where the section ``pt2`` of its YAML asks for it.

        It is a backend's name, or what ``torch.compile`` takes; under ``compile`` with ``enable``.
        A model that cannot be compiled is served as it is.
        """
        asked = self.model_yaml_config.get("pt2")
        if isinstance(asked, dict) and "compile" in asked:
            options = dict(asked["compile"])
            if not options.pop("enable", False):
                return
        elif isinstance(asked, dict) and "export" not in asked:
            options = dict(asked)
        elif isinstance(asked, str):
            options = {"backend": asked}
        else:
            return
        if "backend" in options and not check_valid_pt2_backend(options["backend"]):
            _log.warning("pt2: '%s' is no backend of torch.compile", options["backend"])
            return
        try:
            self.model = need("torch", "the section pt2").compile(self.model, **options)
        except Exception as error:  # noqa: BLE001 - whatever the backend raises
            _log.warning("the model is not compiled: %s", error)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        """Load a model that was compiled ahead of time."""
        torch = need("torch", f"the model {Path(model_so_path).name}")
        if model_so_path.endswith(".pt2"):
            return need("torch._inductor", "the model").aoti_load_package(model_so_path)
        return torch._export.aot_load(model_so_path, self.map_location)  # noqa: SLF001 - its API

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        import torch

        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> Any:
        path = Path(model_dir) / model_file
        if not path.is_file():
            raise RuntimeError(f"Missing the model.py file {path}")
        module = importlib.import_module(path.stem)
        classes = [
            member
            for _name, member in inspect.getmembers(module, inspect.isclass)
            if member.__module__ == module.__name__
        ]
        if len(classes) != 1:
            raise ValueError(f"Expected only one class as model definition. {classes}")
        model: Any = classes[0]()
        if model_pt_path:
            import torch

            model.load_state_dict(torch.load(model_pt_path, map_location=self.device))
        return model

    def preprocess(self, data: Any) -> Any:
        """Make a tensor of the batch."""
        import torch

        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        if "torch" not in sys.modules:
            return self.model(data, *args, **kwargs)
        torch = sys.modules["torch"]
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """Make a list, one entry a row."""
        return data.tolist()

    def handle(self, data: Any, context: Context) -> Any:
        """Take a batch through preprocess, inference and postprocess."""
        started = time.perf_counter()
        self.context = context
        if self._asked(context, "describe"):
            output = [self.describe_handle()]
        else:
            prepared = self.preprocess(data)
            if self._asked(context, "explain"):
                output = self.explain_handle(prepared, data)
            else:
                output = self.postprocess(self.inference(prepared))
        if context.metrics is not None:
            took_ms = round((time.perf_counter() - started) * 1e3, 2)
            context.metrics.add_time("HandlerTime", took_ms, None, "ms")
        return output

    @staticmethod
    def _asked(context: Context, header: str) -> bool:
        asked: bool = context.get_request_header(0, header) == "True"
        return asked

    def explain_handle(self, data_preprocess: Any, raw_data: Any) -> Any:
        """Explain the answers, by the handler's own ``get_insights``."""
        inputs, target = None, 0
        first = raw_data[0]
        body = first.get("data") or first.get("body") if isinstance(first, dict) else None
        if isinstance(body, dict):
            inputs, target = body.get("data"), body.get("target") or 0
        return self.get_insights(data_preprocess, inputs, target)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> Any:
        """Explain answers; a handler that can, overrides it."""
        raise RuntimeError(
            f"{type(self).__name__} explains nothing: it has no get_insights"
            f" (asked for {type(tensor_data).__name__}, {type(raw_data).__name__}, {target})"
        )

    def describe_handle(self) -> Any:
        """Say what is special about the model; nothing by default."""
        return {}

    def get_device(self) -> Any:
        """Return the device that the model is on."""
        return self.device


def _onnx_session(path: str) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
