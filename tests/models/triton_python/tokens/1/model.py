"""A token a call, and called again until the last one: generation with continuous batching."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            key, sender = request.correlation_id(), request.get_response_sender()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
                self.left[key] = int(value[0][0])
            self.left[key] -= 1
            output = pb_utils.Tensor("OUTPUT", np.array([[self.left[key]]], np.int32))
            response = pb_utils.InferenceResponse([output])
            if self.left[key] > 0:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                sender.send(response)
            else:
                sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
