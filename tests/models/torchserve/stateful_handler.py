# ruff: noqa: I001, RUF046, UP018 - written as other people write handlers
"""A handler as TorchServe's stateful example has it: an LRU of running sums by sequence id."""

from abc import ABC

from lru import LRU

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler


class StatefulHandler(BaseHandler, ABC):
    DEFAULT_CAPACITY = 10

    def __init__(self):
        super().__init__()
        self.cache: LRU = None

    def initialize(self, context: Context):
        super().initialize(context)
        self.context = context
        handler = self.context.model_yaml_config.get("handler") or {}
        capacity = handler.get("cache", {}).get("capacity", StatefulHandler.DEFAULT_CAPACITY)
        self.cache = LRU(int(capacity))
        self.initialized = True

    def preprocess(self, data):
        results = []
        for idx, row in enumerate(data):
            sequence_id = self.context.get_sequence_id(idx)
            prev = int(0)
            if self.cache.has_key(sequence_id):
                prev = int(self.cache[sequence_id])

            request = row.get("data") or row.get("body")
            if isinstance(request, (bytes, bytearray)):
                request = request.decode("utf-8")

            val = prev + int(request)
            self.cache[sequence_id] = val
            results.append(val)
        return results

    def inference(self, data, *args, **kwargs):
        return data

    def postprocess(self, data):
        return data
