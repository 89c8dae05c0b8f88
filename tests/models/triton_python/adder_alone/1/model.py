"""One slot, so one number: who is served alone need not ask whose it is."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.total = 0

    def execute(self, requests):
        (request,) = requests
        if pb_utils.get_input_tensor_by_name(request, "START").as_numpy().item():
            self.total = 0
        self.total += int(pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy().item())
        output = pb_utils.Tensor("OUTPUT", np.array([[self.total]], np.int32))
        return [pb_utils.InferenceResponse([output])]
