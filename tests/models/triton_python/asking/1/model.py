"""Asks another model twice at the same time, and adds what it says."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return [await self.answer(request) for request in requests]

    async def answer(self, request):
        whom = pb_utils.get_input_tensor_by_name(request, "WHOM").as_numpy()[0][0].decode()
        value = pb_utils.get_input_tensor_by_name(request, "INPUT")
        asked = [
            pb_utils.InferenceRequest(
                model_name=whom, inputs=[value], requested_output_names=["OUTPUT"]
            )
            for _ in range(2)
        ]
        answers = await asyncio.gather(*[one.async_exec() for one in asked])
        for answer in answers:
            if answer.has_error():
                return pb_utils.InferenceResponse(error=answer.error())
        outputs = [pb_utils.get_output_tensor_by_name(one, "OUTPUT").as_numpy() for one in answers]
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", np.int32(sum(outputs)))])
