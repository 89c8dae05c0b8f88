# ruff: noqa: I001 - written as other people write handlers
"""Keeps a tensor for each sequence in an LRU: the mean of the network's answers so far."""

from lru import LRU

import torch
from ts.torch_handler.base_handler import BaseHandler


class TensorHandler(BaseHandler):
    def initialize(self, context):
        super().initialize(context)
        self.context = context
        self.cache = LRU(int(context.model_yaml_config["handler"]["cache"]["capacity"]))

    def preprocess(self, data):
        values = [float(bytes(row.get("data") or row.get("body")).decode()) for row in data]
        return torch.stack([torch.full((1, 8, 8), value) for value in values]).to(self.device)

    def postprocess(self, data):
        answers = []
        for idx, row in enumerate(data):
            name = self.context.get_sequence_id(idx)
            count, before = self.cache[name] if self.cache.has_key(name) else (0, torch.zeros(3))
            self.cache[name] = (count + 1, before + row)
            answers.append((before + row).tolist())
        return answers
