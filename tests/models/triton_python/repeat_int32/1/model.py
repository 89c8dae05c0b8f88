"""Each number of IN as a response of its own, from a thread; the end is said apart."""

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        assert pb_utils.using_decoupled_model_transaction_policy(config)

    def execute(self, requests):
        for request in requests:
            tensors = [
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("IN", "DELAY")
            ]
            threading.Thread(
                target=self.respond, args=(request.get_response_sender(), *tensors), daemon=True
            ).start()

    def respond(self, sender, numbers, delays):
        for at, (number, delay) in enumerate(zip(numbers, delays, strict=True)):
            if sender.is_cancelled():
                break
            time.sleep(delay / 1000)
            if number < 0:
                kind = pb_utils.TritonError.INVALID_ARG
                error = pb_utils.TritonError("a number is negative", kind)
                sender.send(pb_utils.InferenceResponse(error=error))
                continue
            sender.send(
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor("OUT", np.array([number], np.int32)),
                        pb_utils.Tensor("IDX", np.array([at], np.uint32)),
                    ]
                )
            )
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
