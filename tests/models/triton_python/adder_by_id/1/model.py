"""A sum for each sequence, in a dictionary by correlation id, as Triton's users write it."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.model_config = json.loads(args["model_config"])
        config = pb_utils.get_output_config_by_name(self.model_config, "OUTPUT")
        self.dtype = pb_utils.triton_string_to_numpy(config["data_type"])
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            start = pb_utils.get_input_tensor_by_name(request, "START").as_numpy()[0][0]
            end = pb_utils.get_input_tensor_by_name(request, "END").as_numpy()[0][0]
            key = pb_utils.get_input_tensor_by_name(request, "CORRID").as_numpy()[0][0]
            if start:
                self.sums[key] = 0
            self.sums[key] += int(value[0][0])
            if value[0][0] == 666:
                raise RuntimeError("boom")  # after it has counted
            output = np.array([[self.sums[key]]], dtype=self.dtype)
            if end:
                del self.sums[key]
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", output)]))
        return responses

    def finalize(self):
        self.sums.clear()
