"""A sequence whose every step is answered from a thread: the sum before it, and the sum after."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils

from legato.triton import SequenceCache


class TritonPythonModel:
    def initialize(self, args):
        self.sums = SequenceCache("sums")

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.respond, args=(request,)).start()

    def respond(self, request):
        sender, key = request.get_response_sender(), request.correlation_id()
        value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        before = self.sums.get(key, 0)
        sender.send(self.response(before))
        self.sums[key] = before + int(value[0][0])
        sender.send(self.response(self.sums[key]), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def response(self, total):
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("OUTPUT", np.array([[total]], np.int32))]
        )
