"""Does what it is told: answers, errors, exceptions, or its death."""

import json
import os
import signal

import numpy as np
import triton_python_backend_utils as pb_utils


def text(*values):
    return pb_utils.Tensor("FACTS", np.array([values], object))


class TritonPythonModel:
    def initialize(self, args):
        self.args = args
        self.counter = pb_utils.MetricFamily("moods", "calls", pb_utils.MetricFamily.COUNTER)
        self.moods = self.counter.Metric(labels={"model": "moody"})

    def execute(self, requests):
        self.moods.increment(1)
        answers = [self.answer(request, len(requests)) for request in requests]
        return [answer for answer in answers if answer is not False]

    def answer(self, request, together):
        what = pb_utils.get_input_tensor_by_name(request, "WHAT").as_numpy()[0][0].decode()
        if what == "invalid":
            error = pb_utils.TritonError("not like this", pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        if what == "error":
            return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError("no"))
        if what == "raise":
            raise ValueError("boom")
        if what == "forget":
            return False
        if what == "none":
            return None
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "args":
            return pb_utils.InferenceResponse([text(json.dumps(self.args))])
        if what == "dir":
            return pb_utils.InferenceResponse([text(pb_utils.get_model_dir())])
        if what == "request":
            facts = {
                "id": request.request_id(),
                "correlation": request.correlation_id(),
                "flags": request.flags(),
                "parameters": json.loads(request.parameters()),
                "outputs": request.requested_output_names(),
                "model": [request.model_name(), request.model_version()],
                "timeout": request.timeout(),
                "priority": request.priority(),
                "cancelled": request.is_cancelled(),
            }
            return pb_utils.InferenceResponse([text(json.dumps(facts))])
        if what == "many":
            return pb_utils.InferenceResponse([text("a", "b", "c")])
        return pb_utils.InferenceResponse([text(what, str(together))])
