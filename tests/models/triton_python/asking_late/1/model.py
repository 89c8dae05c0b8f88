"""Hands on what a decoupled model says, from a thread, each answer doubled."""

import threading

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.respond, args=(request,), daemon=True).start()

    def respond(self, request):
        sender = request.get_response_sender()
        numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
        asked = pb_utils.InferenceRequest(
            model_name="repeat_int32",
            requested_output_names=["OUT"],
            inputs=[
                pb_utils.Tensor("IN", numbers),
                pb_utils.Tensor("DELAY", np.zeros(len(numbers), np.uint32)),
                pb_utils.Tensor("WAIT", np.zeros(1, np.uint32)),
            ],
        )
        for answer in asked.exec(decoupled=True):
            if answer.has_error():
                sender.send(pb_utils.InferenceResponse(error=answer.error()))
            elif answer.output_tensors():
                doubled = answer.output_tensors()[0].as_numpy() * np.int32(2)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", doubled)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
