"""``pb_utils.ModelConfig``: what ``auto_complete_config`` completes."""

from __future__ import annotations

import copy
import json
from typing import Any

_TENSOR_KEYS = {"name", "data_type", "dims"}


class ModelConfig:
    """The configuration of a model while it is being completed.

    Args:
        model_config: The configuration in JSON, as ``initialize`` gets it.
    """

    def __init__(self, model_config: str | dict[str, Any]) -> None:
        given = json.loads(model_config) if isinstance(model_config, str) else model_config
        self._config: dict[str, Any] = copy.deepcopy(given)

    def __repr__(self) -> str:
        return f"<ModelConfig {self._config.get('name')}>"

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration as it is now."""
        return copy.deepcopy(self._config)

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set how many requests share a call, if nothing was said of it.

        Raises:
            ValueError: Another number was said.
        """
        said = self._config.get("max_batch_size", 0)
        if said in (0, max_batch_size):
            self._config["max_batch_size"] = max_batch_size
        elif max_batch_size > said:
            raise ValueError(
                f"configuration specified max_batch_size {said}, but model specified "
                f"max_batch_size {max_batch_size}"
            )

    def set_dynamic_batching(self) -> None:
        """Let requests share calls, if nothing else was said of how they are scheduled."""
        if not {"sequence_batching", "ensemble_scheduling"} & self._config.keys():
            self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict: dict[str, Any]) -> None:
        """Say whether the model is decoupled.

        Raises:
            ValueError: There is another key than ``decoupled``, or the opposite was said.
        """
        if set(transaction_policy_dict) - {"decoupled"}:
            raise ValueError(
                "model transaction property in auto-complete-config has properties other than "
                "'decoupled'"
            )
        if "decoupled" not in transaction_policy_dict:
            return
        wanted = bool(transaction_policy_dict["decoupled"])
        said = self._config.get("model_transaction_policy", {})
        if said.get("decoupled", wanted) != wanted and said.get("decoupled"):
            raise ValueError("trying to change decoupled property in auto-complete-config")
        self._config["model_transaction_policy"] = {"decoupled": wanted}

    def add_input(self, input: dict[str, Any]) -> None:  # noqa: A002 - Triton's name
        """Add an input, or check one that is there.

        Raises:
            ValueError: Something is missing, unknown or other than it was said.
        """
        self._add("input", input, {"optional", "allow_ragged_batch", "is_shape_tensor", "format"})

    def add_output(self, output: dict[str, Any]) -> None:
        """Add an output, or check one that is there.

        Raises:
            ValueError: Something is missing, unknown or other than it was said.
        """
        self._add("output", output, {"label_filename", "is_shape_tensor"})

    def _add(self, what: str, tensor: dict[str, Any], further: set[str]) -> None:
        unknown = set(tensor) - _TENSOR_KEYS - further
        missing = _TENSOR_KEYS - set(tensor)
        if unknown or missing:
            problem = "unknown " if unknown else "no "
            names = ", ".join(sorted(unknown or missing))
            raise ValueError(f"{what} in auto-complete-config has {problem}property: {names}")
        said: list[dict[str, Any]] = self._config.setdefault(what, [])
        known = next((entry for entry in said if entry.get("name") == tensor["name"]), None)
        if known is None:
            said.append(dict(tensor))
            return
        for key in ("data_type", "dims", "optional"):
            if key in tensor and key in known and _plain(known[key]) != _plain(tensor[key]):
                raise ValueError(
                    f"unable to load model '{self._config.get('name')}', configuration expects "
                    f"{key} {known[key]} for {what} '{tensor['name']}' but model provides "
                    f"{tensor[key]}"
                )
        for key, value in tensor.items():
            known.setdefault(key, value)


def _plain(value: Any) -> Any:
    """Numbers may be written as text in JSON."""
    return [int(size) for size in value] if isinstance(value, list | tuple) else value
