"""A sum for each slot of the direct strategy: request i belongs to slot i."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = np.zeros(json.loads(args["model_config"])["max_batch_size"], np.int32)

    def execute(self, requests):
        responses = []
        for slot, request in enumerate(requests):
            value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[0][0]
            start = pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0][0]
            ready = pb_utils.get_input_tensor_by_name(request, "READY").as_numpy()[0][0]
            if ready:
                self.sums[slot] = value if start else self.sums[slot] + value
                if value == 666:
                    raise RuntimeError("boom")
            output = np.array([[self.sums[slot]]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)]))
        return responses
