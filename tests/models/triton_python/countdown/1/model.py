"""Asks to be called again until a number has counted down; answers how often it was called."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.left = {}
        self.calls = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            key = request.correlation_id()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
                self.left[key], self.calls[key] = int(value[0][0]), 0
            self.calls[key] += 1
            self.left[key] -= 1
            if self.left[key] > 0:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
                continue
            output = pb_utils.Tensor("OUTPUT", np.array([[self.calls.pop(key)]], np.int32))
            del self.left[key]
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
