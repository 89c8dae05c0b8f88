"""Waits for many things at once: ``execute`` may be a coroutine."""

import asyncio

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    async def execute(self, requests):
        return await asyncio.gather(*[self.answer(request) for request in requests])

    async def answer(self, request):
        await asyncio.sleep(0.01)
        value = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
        if value[0][0] < 0:
            raise ValueError("negative")
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", value.astype(np.int32) * 2)])
