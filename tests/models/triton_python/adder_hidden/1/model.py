"""Sums in generators: nobody can take those out of a process."""

import numpy as np
import triton_python_backend_utils as pb_utils


def summing():
    total = 0
    while True:
        total += yield total


class TritonPythonModel:
    def initialize(self, args):
        self.generators = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            value = int(pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()[0][0])
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                generator = self.generators[request.correlation_id()] = summing()
                next(generator)
            if value == 666:
                raise RuntimeError("boom")
            total = self.generators[request.correlation_id()].send(value)
            output = pb_utils.Tensor("OUTPUT", np.array([[total]], np.int32))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
